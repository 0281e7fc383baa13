"""Tests of speechbrain_ext.lobes.encoders and the encoders of hparams/."""

import json
import shutil
import tarfile
import time
from pathlib import Path

import pytest
import torch
import transformers
from speechbrain.utils.parameter_transfer import Pretrainer

from speechbrain_ext.lobes.encoders import (
    PackedEncoder,
    PooledEncoder,
    choose_layers,
    encoder_reference,
    feature_shape,
    load_encoder,
    pack_encoder,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import hparams_folder

MOONSHINE = (
    Path(__file__).resolve().parents[2] / "shared/models/moonshine-tiny-en"
)

TINY = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=[8] * 7,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    vocab_size=8,
    # What must never act: it would change every call.
    hidden_dropout=0.5,
    attention_dropout=0.5,
    activation_dropout=0.5,
    feat_proj_dropout=0.5,
    layerdrop=0.5,
    mask_time_prob=0.5,
    mask_time_length=2,
    apply_spec_augment=True,
)

TINY_ECAPA = """\
pretrained_path: somebody/some-hub-id
sample_rate: 16000
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 20
    channels: [16, 16, 16, 16, 48]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    res2net_scale: 4
    se_channels: 8
    lin_neurons: 12
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 12
    out_neurons: 3
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def save_tiny(folder, kind, seed=0, do_normalize=True, **changes):
    """A tiny model of random weights in Hugging Face's format."""
    config, model = {
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model(config(**{**TINY, **changes})).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        do_normalize=do_normalize, return_attention_mask=True
    ).save_pretrained(folder)
    return str(folder)


def save_whisper(folder, seconds=1):
    """A tiny Whisper whose window has some seconds instead of 30."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.WhisperConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            vocab_size=8,
            num_mel_bins=80,
            max_source_positions=50 * seconds,
            max_target_positions=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            dropout=0.5,
            encoder_layerdrop=0.5,
        )
        transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(
        feature_size=80, chunk_length=seconds
    ).save_pretrained(folder)
    return str(folder)


def save_ecapa(folder):
    """A tiny EncoderClassifier of random weights."""
    from hyperpyyaml import load_hyperpyyaml
    from speechbrain.dataio.encoder import CategoricalEncoder

    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(TINY_ECAPA)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hparams = load_hyperpyyaml(TINY_ECAPA)
    for name in ("embedding_model", "classifier"):
        torch.save(hparams[name].state_dict(), folder / f"{name}.ckpt")
    labels = CategoricalEncoder()
    labels.update_from_iterable("abc")
    labels.save(folder / "label_encoder.txt")
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are faster so, above all beside other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name of a case -> arguments of load_encoder."""
    folder = tmp_path_factory.mktemp("models")
    layer = dict(feat_extract_norm="layer", do_stable_layer_norm=True)
    return {
        "log_mel": ("log_mel",),
        "wavlm group": ("wavlm_base_plus", save_tiny(folder / "g", "wavlm")),
        "wavlm layer": (
            "wavlm_base",
            save_tiny(folder / "l", "wavlm", **layer),
        ),
        "hubert group": ("hubert_base", save_tiny(folder / "h", "hubert")),
        "wav2vec2 group": (
            "wav2vec2_base",
            save_tiny(folder / "w", "wav2vec2", do_normalize=False),
        ),
        "wav2vec2 layer": (
            "hf_encoder",
            save_tiny(folder / "v", "wav2vec2", **layer),
        ),
        "automodel group": ("hf_encoder", str(folder / "g")),
        "whisper": ("hf_encoder", save_whisper(folder / "whisper")),
        "ecapa": ("ecapa", save_ecapa(folder / "ecapa")),
        "moonshine": ("hf_encoder", str(MOONSHINE)),
    }


CASES = [
    "log_mel",
    "wavlm group",
    "wavlm layer",
    "hubert group",
    "wav2vec2 group",
    "wav2vec2 layer",
    "automodel group",
    "whisper",
    "ecapa",
    pytest.param(
        "moonshine",
        marks=pytest.mark.skipif(
            not MOONSHINE.is_dir(), reason=f"no model in {MOONSHINE}"
        ),
    ),
]
SHAPES = {"log_mel": (1, 560), "ecapa": (1, 12), "moonshine": (7, 288)}


@pytest.fixture(scope="module")
def encoder_of(models):
    made = {}
    return lambda case: made.setdefault(case, load_encoder(*models[case]))


def wavs(*lengths, seed=0):
    generator = torch.manual_seed(seed)
    batch = torch.zeros(len(lengths), max(lengths))
    for wav, length in zip(batch, lengths):
        # Every utterance of its own level and offset.
        level = 10 ** torch.empty(()).uniform_(-3, 0, generator=generator)
        wav[:length] = level * torch.randn(length, generator=generator) + 0.01
    return batch, torch.tensor([n / max(lengths) for n in lengths])


def relative(a, b):
    """Largest relative distance of two sets of vectors."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


@pytest.mark.parametrize("case", CASES)
def test_vector_depends_on_its_utterance_alone(case, encoder_of):
    encoder = encoder_of(case)
    lengths = [20000, 7001, 7001, 160, 12345, 32100]
    batch, lens = wavs(*lengths)
    together = encoder(batch, lens)
    shape = SHAPES.get(case, (3, 16))
    assert together.shape == (len(lengths), *shape)
    assert (encoder.n_layers, encoder.dim) == shape
    assert together.dtype == torch.float32 and not together.requires_grad
    assert torch.isfinite(together).all()
    alone = torch.cat(
        [encoder(wav[None, :n]) for wav, n in zip(batch, lengths)]
    )
    assert relative(together, alone) < 1e-4
    # Different utterances differ, so the check above means something.
    assert relative(together[1:2], together[2:3]) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_training_mode_and_gradients_stay_off(case, encoder_of):
    encoder = encoder_of(case)
    batch, lens = wavs(9000, 8000)
    before = encoder(batch, lens)
    parent = torch.nn.ModuleList([encoder])
    parent.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(encoder(batch, lens), before)


@pytest.mark.parametrize("case", CASES)
def test_identity_is_json_without_paths(case, encoder_of, models):
    identity = encoder_of(case).identity
    text = json.dumps(identity)
    assert json.loads(text) == identity
    assert identity["name"] == models[case][0]
    assert "/" not in text


@pytest.mark.parametrize("case", CASES)
def test_pack_round_trip(case, encoder_of, models, tmp_path):
    encoder = encoder_of(case)
    if case == "log_mel":
        assert encoder_reference(encoder) == {"name": "log_mel"}
    else:
        assert encoder_reference(encoder) is None
    path = tmp_path / "encoder.ckpt"
    pack_encoder(encoder, path)
    pack_encoder(encoder, tmp_path / "again.ckpt")
    assert path.read_bytes() == (tmp_path / "again.ckpt").read_bytes()
    for source in models[case][1:]:
        assert source.encode() not in path.read_bytes()

    packed = PackedEncoder()
    with pytest.raises(InputError, match="is empty"):
        packed(torch.zeros(1, 16000))
    pretrainer = Pretrainer(loadables={"encoder": packed})
    pretrainer.collect_files(default_source=str(tmp_path))
    pretrainer.load_collected()
    batch, lens = wavs(9000, 8000)
    assert torch.equal(packed(batch, lens), encoder(batch, lens))
    assert packed.identity == encoder.identity
    assert (packed.sample_rate, packed.n_layers, packed.dim) == (
        encoder.sample_rate,
        encoder.n_layers,
        encoder.dim,
    )
    torch.nn.ModuleList([packed]).train()
    assert not any(module.training for module in packed.modules())
    # What came out of a file can go into another one.
    pack_encoder(packed, tmp_path / "third.ckpt")
    assert (tmp_path / "third.ckpt").read_bytes() == path.read_bytes()


def test_wrapper_and_automodel_agree(encoder_of):
    batch, lens = wavs(9000, 8000)
    found = encoder_of("wavlm group")(batch, lens)
    other = encoder_of("automodel group")(batch, lens)
    assert relative(found, other) < 1e-5


@pytest.mark.parametrize("case", ["wavlm group", "wavlm layer"])
def test_layers_are_the_means_of_the_hidden_states(case, models):
    """Against the plain model and its own feature extractor."""
    encoder = load_encoder(*models[case])
    folder = models[case][1]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    batch, _ = wavs(9000)
    inputs = extractor(
        batch[0].numpy(), sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(inputs.input_values, output_hidden_states=True)
    expected = torch.stack([h[0].mean(dim=0) for h in hidden.hidden_states])
    assert relative(encoder(batch)[0], expected) < 1e-4


@pytest.mark.parametrize("name", ["hf_encoder", "hubert_base"])
def test_batch_norm_before_the_positions_forbids_masks(name, tmp_path):
    """It shifts the padding of a layer-norm HuBERT away from zero."""
    save_tiny(
        tmp_path,
        "hubert",
        feat_extract_norm="layer",
        conv_pos_batch_norm=True,
    )
    model = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = model.encoder.pos_conv_embed.batch_norm
        norm.running_mean.normal_()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(name, tmp_path)
    lengths = [7001, 20000]
    batch, lens = wavs(*lengths)
    alone = [encoder(wav[None, :n]) for wav, n in zip(batch, lengths)]
    assert relative(encoder(batch, lens), torch.cat(alone)) < 1e-4


@pytest.mark.parametrize("case", ["log_mel", "wavlm group", "ecapa"])
def test_mixed_precision_of_the_caller_does_not_matter(case, encoder_of):
    encoder = encoder_of(case)
    batch, lens = wavs(9000, 8000)
    expected = encoder(batch, lens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(batch, lens), expected)


def test_level_does_not_matter_where_it_is_normalised(encoder_of):
    batch, _ = wavs(9000)
    other = batch * 7 - 3
    encoder = encoder_of("wavlm group")
    changed = relative(encoder(other), encoder(batch))
    plain = encoder_of("wav2vec2 group")  # saved with do_normalize=False
    assert changed < 1e-3 < relative(plain(other), plain(batch))


def test_whisper_windows(encoder_of, models):
    """Frames of all windows are averaged, those after the end are not."""
    encoder = encoder_of("whisper")
    folder = models["whisper"][1]
    model = transformers.WhisperModel.from_pretrained(folder).eval().encoder
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    batch, _ = wavs(40000)  # 2.5 windows of one second
    frames = []
    for start in (0, 16000, 32000):
        window = batch[0, start : start + 16000]
        features = extractor(
            window.numpy(), sampling_rate=16000, return_tensors="pt"
        ).input_features
        with torch.no_grad():
            hidden = model(features, output_hidden_states=True).hidden_states
        frames.append(torch.stack(hidden)[:, 0, : len(window) // 320])
    frames = torch.cat(frames, dim=1)
    assert frames.shape[1] == 125
    assert relative(encoder(batch)[0], frames.mean(dim=1)) < 1e-5


def test_log_mel_statistics():
    """Against the definition, on a signal with a known course."""
    import torchaudio

    encoder = load_encoder("log_mel")
    batch, _ = wavs(16000)
    batch[:, 8000:] *= 0.1
    mel = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, n_mels=80
    )(batch)[0].double()
    mel = torch.log(mel + 1e-6)
    mel = mel - mel.mean()
    found = encoder(batch)[0, 0].double().reshape(7, 80)
    delta = mel[:, 2:] - mel[:, :-2]
    assert torch.allclose(found[0], mel.mean(dim=1), atol=1e-4)
    assert torch.allclose(found[1], mel.std(dim=1, correction=0), atol=1e-4)
    assert torch.allclose(found[2], delta.std(dim=1, correction=0), atol=1e-4)
    # 101 frames: segments meet in one frame.
    assert torch.allclose(found[3], mel[:, :26].mean(dim=1), atol=1e-4)
    assert torch.allclose(found[6], mel[:, 75:].mean(dim=1), atol=1e-4)
    # No band is empty, and the level does not matter.
    assert float(found[1].min()) > 0.1
    assert relative(encoder(batch * 3), encoder(batch)) < 1e-2


@pytest.mark.parametrize("n_samples", [1, 10, 159, 399, 401, 800])
def test_log_mel_of_short_clips(n_samples):
    batch, _ = wavs(n_samples)
    assert torch.isfinite(load_encoder("log_mel")(batch)).all()


@pytest.mark.parametrize("case", ["log_mel", "wavlm group", "whisper"])
def test_silence_is_finite(case, encoder_of):
    assert torch.isfinite(encoder_of(case)(torch.zeros(2, 8000))).all()


def test_shorter_than_the_receptive_field_is_padded(encoder_of):
    encoder = encoder_of("wav2vec2 group")
    assert encoder.min_samples == 400
    short, _ = wavs(50)
    padded = torch.nn.functional.pad(short, (0, 350))
    assert torch.equal(encoder(short), encoder(padded))


def test_bad_waveforms(encoder_of):
    encoder = encoder_of("log_mel")
    with pytest.raises(InputError, match=r"\[batch, time\], got \[16000\]"):
        encoder(torch.zeros(16000))
    with pytest.raises(InputError, match="no samples"):
        encoder(torch.zeros(1, 0))
    with pytest.raises(InputError, match="no samples"):
        encoder(torch.zeros(2, 100), torch.tensor([1.0, 0.0]))


def test_encoder_does_not_move_the_random_generator(models):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    load_encoder(*models["wavlm group"])
    assert torch.equal(torch.rand(1), expected)


def test_identity_follows_the_weights_not_the_folder(tmp_path, models):
    original = Path(models["wavlm group"][1])
    shutil.copytree(original, tmp_path / "copy")
    encoder = load_encoder("wavlm_base_plus", tmp_path / "copy")
    same = load_encoder("wavlm_base_plus", original)
    assert encoder.identity == same.identity
    save_tiny(tmp_path / "other", "wavlm", seed=1)
    other = load_encoder("wavlm_base_plus", tmp_path / "other")
    assert other.identity != encoder.identity
    # Weights that change after loading are not packed under the old name.
    save_tiny(tmp_path / "copy", "wavlm", seed=1)
    with pytest.raises(InputError, match="has changed"):
        pack_encoder(encoder, tmp_path / "encoder.ckpt")
    assert not (tmp_path / "encoder.ckpt").exists()


def test_yaml_of_the_user(tmp_path, models):
    named = hparams_folder() / "encoders" / "log_mel.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(named.read_text().replace("n_mels: 80", "n_mels: 40"))
    encoder = load_encoder(str(mine))
    assert encoder.dim == 280 and encoder.identity["name"] == "mine"
    assert str(tmp_path) not in json.dumps(encoder.identity)
    assert encoder_reference(encoder) is None
    pack_encoder(encoder, tmp_path / "encoder.ckpt")
    packed = PackedEncoder()
    packed.load(tmp_path / "encoder.ckpt")
    batch, lens = wavs(9000, 8000)
    assert torch.equal(packed(batch, lens), encoder(batch, lens))
    # The path of a file of the package is still a name.
    assert encoder_reference(load_encoder(named)) == {"name": "log_mel"}


def yaml_with_source(path, source):
    """The file of an encoder, with a folder as its own source."""
    named = hparams_folder() / "encoders" / "wavlm_base_plus.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        named.read_text().replace("microsoft/wavlm-base-plus", source)
    )
    return path


@pytest.mark.parametrize("quote", ["", '"'])
def test_folder_in_a_yaml_of_the_user_stays_here(quote, tmp_path, models):
    folder = tmp_path / "a" / "weights"
    shutil.copytree(models["wavlm group"][1], folder)
    mine = yaml_with_source(tmp_path / "mine.yaml", f"{quote}{folder}{quote}")
    encoder = load_encoder(mine)
    pack_encoder(encoder, tmp_path / "encoder.ckpt")
    assert (
        str(tmp_path).encode() not in (tmp_path / "encoder.ckpt").read_bytes()
    )
    batch, lens = wavs(9000, 8000)
    expected = encoder(batch, lens)
    # The same model in another place is the same encoder.
    shutil.move(folder, tmp_path / "b")
    moved = yaml_with_source(tmp_path / "c" / "mine.yaml", str(tmp_path / "b"))
    assert load_encoder(moved).identity == encoder.identity
    shutil.rmtree(tmp_path / "b")
    packed = PackedEncoder()
    packed.load(tmp_path / "encoder.ckpt")
    assert packed.identity == encoder.identity
    assert torch.equal(packed(batch, lens), expected)


def test_folder_at_another_key_is_not_packed(tmp_path, models):
    source = models["wavlm group"][1]
    mine = yaml_with_source(tmp_path / "mine.yaml", "!ref <folder>")
    mine.write_text(f"folder: {source}\n{mine.read_text()}")
    with pytest.raises(InputError, match="at the key 'source'"):
        pack_encoder(load_encoder(mine), tmp_path / "encoder.ckpt")
    assert not (tmp_path / "encoder.ckpt").exists()


def test_source_without_a_key_is_not_packed(tmp_path, models, monkeypatch):
    """Such a file takes no source, so its export could not be loaded."""
    shutil.copytree(models["wavlm group"][1], tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "encoder: !new:speechbrain_ext.lobes.transformers_encoders."
        "TransformersEncoder\n    source: weights\n"
    )
    with pytest.raises(InputError, match="at the key 'source'"):
        pack_encoder(load_encoder("mine.yaml"), "encoder.ckpt")


def test_overrides_are_packed(tmp_path):
    encoder = load_encoder("log_mel", overrides={"encoder": {"n_mels": 40}})
    assert encoder.dim == 280
    assert encoder_reference(encoder) is None
    pack_encoder(encoder, tmp_path / "encoder.ckpt")
    packed = PackedEncoder()
    packed.load(tmp_path / "encoder.ckpt")
    assert packed.identity == encoder.identity and packed.dim == 280


def test_packing_what_cannot_be_packed(tmp_path):
    bare = PooledEncoder(16000, 1, 2)
    assert encoder_reference(bare) is None
    with pytest.raises(InputError, match="load_encoder"):
        pack_encoder(bare, tmp_path / "x")
    text = "a: !include:other.yaml\n"
    (tmp_path / "other.yaml").write_text("b: 1\n")
    log_mel = (hparams_folder() / "encoders" / "log_mel.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text + log_mel)
    encoder = load_encoder(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match="!include:"):
        pack_encoder(encoder, tmp_path / "x")


def test_unpacking_what_is_no_pack(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"not a tar archive")
    with pytest.raises(InputError, match="not a packed encoder"):
        PackedEncoder().load(tmp_path / "x.ckpt")
    # An archive that would write outside of its folder.
    with tarfile.open(tmp_path / "y.ckpt", "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped.yaml"))
    with pytest.raises(InputError, match="not a packed encoder"):
        PackedEncoder().load(tmp_path / "y.ckpt")


def test_hub_model_is_referenced_by_commit(monkeypatch, models, tmp_path):
    """With a stand-in for the download."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "snapshots" / commit
    shutil.copytree(models["wavlm group"][1], snapshot)
    asked = []

    def download(source, revision, allow_patterns):
        asked.append((source, revision, tuple(allow_patterns)))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    encoder = load_encoder("wavlm_base_plus", revision="main")
    assert encoder.identity["model"] == {
        "source": "microsoft/wavlm-base-plus",
        "commit": commit,
    }
    assert encoder_reference(encoder) == {
        "name": "wavlm_base_plus",
        "source": "microsoft/wavlm-base-plus",
        "revision": commit,
    }
    # Safetensors were there, so nothing else was asked for.
    ((source, revision, patterns),) = asked
    assert (source, revision) == ("microsoft/wavlm-base-plus", "main")
    assert not any(pattern.endswith(".bin") for pattern in patterns)

    # A model without them takes the other format.
    from safetensors.torch import load_file

    torch.save(
        load_file(snapshot / "model.safetensors"),
        snapshot / "pytorch_model.bin",
    )
    (snapshot / "model.safetensors").unlink()
    other = load_encoder("wavlm_base_plus")
    assert any("pytorch_model.bin" in patterns for _, _, patterns in asked[1:])
    batch, lens = wavs(9000, 8000)
    assert torch.equal(other(batch, lens), encoder(batch, lens))


def test_hub_model_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_encoder("hf_encoder", "nobody/no-such-model", "v1")
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "nobody/no-such-model",
        "'v1'",
        str(tmp_path),
        "_source FOLDER",
    ):
        assert part in message


@pytest.mark.parametrize(
    "name, file",
    [
        ("wavlm_base_plus", "config.json"),
        ("hf_encoder", "preprocessor_config.json"),
        ("hf_encoder", "model.safetensors"),
        ("ecapa", "hyperparams.yaml"),
    ],
)
def test_local_folder_that_lacks_a_file(name, file, models, tmp_path):
    case = "ecapa" if name == "ecapa" else "wavlm group"
    shutil.copytree(models[case][1], tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    with pytest.raises(InputError) as caught:
        load_encoder(name, tmp_path / "model")
    assert file in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["wavlm_base_plus", "hf_encoder"])
def test_weights_that_are_missing_are_not_made_up(name, models, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models["wavlm group"][1], tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights.pop("encoder.layers.1.final_layer_norm.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights"):
        load_encoder(name, tmp_path / "model")


def test_half_precision_weights_run_in_single(models, tmp_path):
    folder = tmp_path / "half"
    model = transformers.AutoModel.from_pretrained(models["wavlm group"][1])
    model.half().save_pretrained(folder)
    shutil.copy(
        Path(models["wavlm group"][1]) / "preprocessor_config.json", folder
    )
    for name in ("wavlm_base_plus", "hf_encoder"):
        encoder = load_encoder(name, folder)
        assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_bad_names_and_files(tmp_path, models):
    with pytest.raises(InputError, match="Unknown name 'nope'.*log_mel"):
        load_encoder("nope")
    with pytest.raises(InputError, match="hf_encoder' needs a source"):
        load_encoder("hf_encoder")
    with pytest.raises(InputError, match="log_mel' takes no source"):
        load_encoder("log_mel", "somewhere")
    with pytest.raises(InputError, match="No model folder /no/such/folder"):
        load_encoder("hf_encoder", "/no/such/folder")
    with pytest.raises(InputError, match="has no revision"):
        load_encoder("hf_encoder", models["whisper"][1], "main")
    with pytest.raises(InputError, match="use --encoder hf_encoder"):
        load_encoder("wavlm_base", models["whisper"][1])
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="not a YAML mapping"):
        load_encoder(tmp_path / "list.yaml")
    (tmp_path / "other.yaml").write_text("encoder: 3\n")
    with pytest.raises(InputError, match="must make a PooledEncoder, got int"):
        load_encoder(tmp_path / "other.yaml")


def test_feature_shape(encoder_of):
    encoder = encoder_of("wavlm group")
    assert feature_shape(encoder, [-1]) == [1, 16]
    assert feature_shape(encoder, [0, 2, -3]) == [3, 16]
    for layers in ([3], [-4], [0.0], [], 0, "0", [True]):
        with pytest.raises(InputError):
            feature_shape(encoder, layers)
    with pytest.raises(InputError, match="3 layers, 0 to 2 or -1 to -3"):
        feature_shape(encoder, [3])
    with pytest.raises(InputError, match="1 layer, 0 to 0"):
        feature_shape(encoder_of("log_mel"), [1])


def test_an_encoders_file_names_layers_and_shrinkage(encoder_of, tmp_path):
    assert choose_layers(encoder_of("wavlm group")) == [-1]
    assert choose_layers(encoder_of("wavlm group"), [0, 2]) == [0, 2]
    text = (hparams_folder() / "encoders/log_mel.yaml").read_text()
    suggested = "layers: [0, -1]\nshrinkage: 0.5\n"
    (tmp_path / "mine.yaml").write_text(suggested + text)
    mine = load_encoder(tmp_path / "mine.yaml")
    assert choose_layers(mine) == [0, -1] and choose_layers(mine, [0]) == [0]
    assert feature_shape(mine) == [2, 560]
    # They change no feature: caches and exports stay valid.
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/mine.yaml").write_text(text)
    plain = load_encoder(tmp_path / "plain/mine.yaml")
    assert mine.identity == plain.identity and plain.default_layers == [-1]
    assert (mine.default_shrinkage, plain.default_shrinkage) == (0.5, 0.3)
    for other in (
        text.replace("n_mels: 80", "n_mels: 40"),
        "layers: 2\n"
        + text.replace("n_segments: 4", "n_segments: !ref <layers>"),
    ):
        (tmp_path / "plain/mine.yaml").write_text(other)
        changed = load_encoder(tmp_path / "plain/mine.yaml")
        assert changed.identity["options"] != plain.identity["options"]
    # In the last file the encoder refers to its layers: the option counts.
    option = load_encoder(tmp_path / "plain/mine.yaml", overrides={"layers": 3})
    assert option.identity["options"] != changed.identity["options"]
    option = load_encoder(tmp_path / "mine.yaml", overrides={"layers": [0]})
    assert option.identity == mine.identity
    assert option.default_layers == [0]
    pack_encoder(mine, tmp_path / "packed")
    packed = PackedEncoder()
    packed.load(tmp_path / "packed")
    assert packed.default_layers == [0, -1]
    assert packed.default_shrinkage == 0.5
    (tmp_path / "mine.yaml").write_text(f"layers: [4]\n{text}")
    with pytest.raises(InputError, match="Layer 4 does not exist"):
        feature_shape(load_encoder(tmp_path / "mine.yaml"))


def test_licence_of_a_packaged_model_goes_into_an_export(tmp_path):
    mini = load_encoder("mini")
    pack_encoder(mini, tmp_path / "packed")
    with tarfile.open(tmp_path / "packed") as tar:
        text = tar.extractfile("model/LICENSE").read().decode()
    assert "MIT License" in text and "Useful Sensors" in text
    packed = PackedEncoder()
    packed.load(tmp_path / "packed")
    assert packed.identity == mini.identity
