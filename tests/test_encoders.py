"""Tests of speechbrain_ext.lobes.encoders and the encoders of hparams/."""

import functools
import inspect
import json
import math
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import SHARED
from safetensors.torch import load_file, save_file
from tiny_models import save_ecapa, save_tiny

from speechbrain.utils.parameter_transfer import Pretrainer
from speechbrain_ext.lobes import pooled_encoder
from speechbrain_ext.lobes.archive import encoder_reference, pack_encoder
from speechbrain_ext.lobes.encoders import (
    PackedEncoder,
    choose_layers,
    load_encoder,
)
from speechbrain_ext.lobes.log_mel import LogMelStatistics
from speechbrain_ext.lobes.pooled_encoder import PooledEncoder
from speechbrain_ext.lobes.pooling import POOLINGS
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import hparams_folder

ENCODERS = hparams_folder() / "encoders"
MOONSHINE = SHARED / "models/moonshine-tiny-en"

LAYER_NORM = dict(feat_extract_norm="layer", do_stable_layer_norm=True)


def save_whisper(folder, seconds=1):
    """A tiny Whisper whose window has some seconds instead of 30."""
    config = transformers.WhisperConfig(
        **dict(d_model=16, encoder_layers=2, decoder_layers=1, vocab_size=8),
        **dict(encoder_attention_heads=2, decoder_attention_heads=2),
        **dict(encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=80),
        **dict(max_source_positions=50 * seconds, max_target_positions=8),
        **dict(pad_token_id=0, bos_token_id=1, eos_token_id=2),
        **dict(decoder_start_token_id=1, dropout=0.5, encoder_layerdrop=0.5),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(
        feature_size=80, chunk_length=seconds
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are faster so, above all beside other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Case -> name of the encoder, kind of its model, and what that has otherwise.
TINIES = {
    "wavlm group": ("wavlm_base_plus", "wavlm", {}),
    "wavlm layer": ("wavlm_base", "wavlm", LAYER_NORM),
    "hubert group": ("hubert_base", "hubert", {}),
    "wav2vec2 group": ("wav2vec2_base", "wav2vec2", {"do_normalize": False}),
    "wav2vec2 layer": ("hf_encoder", "wav2vec2", LAYER_NORM),
    "unispeech group": ("hf_encoder", "unispeech", {}),
    "unispeech-sat group": ("hf_encoder", "unispeech-sat", {}),
}
NO_MOONSHINE = pytest.mark.skipif(
    not MOONSHINE.is_dir(), reason=f"no model in {MOONSHINE}"
)
CASES = [*TINIES, "automodel group", "whisper", "ecapa", "log_mel", "mini"]
CASES += [pytest.param("moonshine", marks=NO_MOONSHINE)]
SHAPES = {"log_mel": (1, 560), "mini": (5, 288), "ecapa": (1, 12)}
SHAPES["moonshine"] = (7, 288)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name of a case -> arguments of load_encoder."""
    folder = tmp_path_factory.mktemp("models")
    made = {
        case: (
            name,
            save_tiny(folder / case.replace(" ", "_"), kind, **changes),
        )
        for case, (name, kind, changes) in TINIES.items()
    }
    return made | {
        "automodel group": ("hf_encoder", made["wavlm group"][1]),
        "whisper": ("hf_encoder", save_whisper(folder / "whisper")),
        "ecapa": ("ecapa", save_ecapa(folder / "ecapa")),
        "log_mel": ("log_mel",),
        "mini": ("mini",),
        "moonshine": ("hf_encoder", str(MOONSHINE)),
    }


@pytest.fixture(scope="module")
def encoder_of(models):
    return functools.cache(lambda case: load_encoder(*models[case]))


def wavs(*lengths, seed=0):
    generator = torch.manual_seed(seed)
    batch = torch.zeros(len(lengths), max(lengths))
    for wav, length in zip(batch, lengths):
        # Every utterance of its own level and offset.
        level = 10 ** torch.empty(()).uniform_(-3, 0, generator=generator)
        wav[:length] = level * torch.randn(length, generator=generator) + 0.01
    return batch, torch.tensor([n / max(lengths) for n in lengths])


def unpack(path, encoder):
    """The encoder of a file, after a check that it is the given one."""
    packed = PackedEncoder()
    packed.load(path)
    assert packed.identity == encoder.identity
    batch, lens = wavs(9000, 8000)
    assert torch.equal(packed(batch, lens), encoder(batch, lens))
    return packed


def one_by_one(encoder, batch, lengths):
    """The vectors of utterances that have neither neighbours nor padding."""
    pairs = zip(batch, lengths)
    return torch.cat([encoder(wav[None, :length]) for wav, length in pairs])


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
    assert relative(together, one_by_one(encoder, batch, lengths)) < 1e-4
    # Different utterances differ, so the check above means something.
    assert relative(together[1:2], together[2:3]) > 1e-3
    # Neither a parent's training mode nor its mixed precision matters.
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(batch, lens), together)


@pytest.mark.parametrize("case", TINIES)
def test_padded_batches_are_exact(case, encoder_of, monkeypatch):
    """As on a GPU, where models with a group norm run so too."""
    encoder, shapes, encode = encoder_of(case), [], encoder_of(case).encode
    assert encoder.handles_padding
    assert encoder.pads_on_cpu == case.endswith("layer")
    monkeypatch.setattr(encoder, "pads_on_cpu", True)
    monkeypatch.setattr(pooled_encoder, "CPU_SECONDS", math.inf)
    monkeypatch.setattr(
        encoder, "encode", lambda *a: shapes.append(a[0].shape) or encode(*a)
    )
    lengths = [400, 719, 720, 480000, 16000]
    batch, lens = wavs(*lengths)
    alone = one_by_one(encoder, batch, lengths)
    shapes.clear()
    assert relative(encoder(batch, lens), alone) < 1e-5
    assert shapes == [batch.shape]
    # Whatever comes after the ends.
    noise = torch.randn(batch.shape, generator=torch.manual_seed(1))
    for row, (wav, length) in enumerate(zip(batch, lengths)):
        noise[row, :length] = encoder.normalise(wav[:length])
    assert relative(encode(noise, lengths), alone) < 1e-5
    for frames, wav, length in zip(encoder.frames(batch, lens), batch, lengths):
        (own,) = encoder.frames(wav[None, :length])
        assert frames.shape == own.shape and relative(frames, own) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_identity_and_pack_name_no_place(case, encoder_of, models, tmp_path):
    encoder = encoder_of(case)
    text = json.dumps(encoder.identity)
    assert json.loads(text) == encoder.identity and "/" not in text
    assert encoder.identity["name"] == models[case][0]

    packaged = case in ("log_mel", "mini")
    reference = {"name": case} if packaged else None
    assert encoder_reference(encoder) == reference
    path = tmp_path / "encoder.ckpt"
    pack_encoder(encoder, path)
    content = path.read_bytes()
    pack_encoder(encoder, path)
    assert path.read_bytes() == content
    for source in models[case][1:]:
        assert source.encode() not in content

    packed = PackedEncoder()
    with pytest.raises(InputError, match="is empty"):
        packed(torch.zeros(1, 16000))
    pretrainer = Pretrainer(loadables={"encoder": packed})
    pretrainer.collect_files(default_source=str(tmp_path))
    pretrainer.load_collected()
    batch, lens = wavs(9000, 8000)
    assert torch.equal(packed(batch, lens), encoder(batch, lens))
    for name in ("identity", "sample_rate", "n_layers", "dim"):
        assert getattr(packed, name) == getattr(encoder, name)
    torch.nn.ModuleList([packed]).train()
    assert not any(module.training for module in packed.modules())
    # What came out of a file can go into another one.
    pack_encoder(packed, tmp_path / "other.ckpt")
    assert (tmp_path / "other.ckpt").read_bytes() == content


@pytest.mark.parametrize(
    "case", ["wavlm group", "wavlm layer", "automodel group"]
)
def test_layers_are_the_means_of_the_hidden_states(case, encoder_of, models):
    """Against the plain model and its own feature extractor."""
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
    assert relative(encoder_of(case)(batch)[0], expected) < 1e-5


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("name", ["hf_encoder", "hubert_base"])
def test_batch_norm_before_the_positions_forbids_masks(name, norm, tmp_path):
    """It shifts the padding of a HuBERT away from zero."""
    changes = {"feat_extract_norm": norm, "conv_pos_batch_norm": True}
    save_tiny(tmp_path, "hubert", **changes)
    model = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = model.encoder.pos_conv_embed.batch_norm
        norm.running_mean.normal_()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(name, tmp_path)
    lengths = [7001, 20000]
    batch, lens = wavs(*lengths)
    alone = one_by_one(encoder, batch, lengths)
    assert relative(encoder(batch, lens), alone) < 1e-4


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


FRAMES = [case for case in CASES if case not in ("ecapa", "log_mel")]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("case", FRAMES)
def test_pooling(case, pooling, encoder_of, models):
    """Against numpy on the frames of each utterance alone."""
    encoder = load_encoder(*models[case], pooling=pooling)
    # The longest has three windows of Whisper.
    lengths = [20000, 7001, 7001, 160, 40000]
    batch, lens = wavs(*lengths)
    found = encoder(batch, lens)
    assert found.shape == (len(lengths), encoder.n_layers, encoder.dim)
    assert encoder.dim == encoder_of(case).dim * (1 + (pooling == "mean_std"))
    assert relative(found, one_by_one(encoder, batch, lengths)) < 1e-4
    for row, length in enumerate(lengths):
        (frames,) = encoder.frames(batch[row : row + 1, :length])
        frames = frames.double().numpy()
        expected = {
            "mean": frames.mean(axis=1),
            "mean_std": np.hstack([frames.mean(axis=1), frames.std(axis=1)]),
            "max": frames.max(axis=1),
        }[pooling]
        assert np.allclose(found[row], expected, rtol=1e-3, atol=1e-4)
    if pooling == "mean":
        assert torch.equal(found, encoder_of(case)(batch, lens))


@pytest.mark.parametrize("case", FRAMES)
def test_frames_depend_on_their_utterance_alone(case, encoder_of, models):
    encoder, lengths = encoder_of(case), [20000, 7001, 160, 40000]
    batch, lens = wavs(*lengths)
    together = encoder.frames(batch, lens)
    for row, length in enumerate(lengths):
        (alone,) = encoder.frames(batch[row : row + 1, :length])
        assert alone.shape == together[row].shape
        assert relative(together[row], alone) < 1e-3
        assert alone.shape[0] == encoder.n_layers


@pytest.mark.parametrize("case", ["wavlm group", "mini"])
def test_pooling_is_part_of_the_identity_and_of_exports(case, models, tmp_path):
    made = {one: load_encoder(*models[case], pooling=one) for one in POOLINGS}
    assert load_encoder(*models[case]).identity == made["mean"].identity
    assert len({json.dumps(one.identity) for one in made.values()}) == 3
    for pooling, encoder in made.items():
        reference = {"name": "mini", "pooling": pooling}
        expected = reference if case == "mini" else None
        assert encoder_reference(encoder) == expected
        pack_encoder(encoder, tmp_path / pooling)
        unpack(tmp_path / pooling, encoder)
    again = load_encoder(**reference) if case == "mini" else encoder
    assert again.identity == encoder.identity


def test_pooling_that_is_none(models):
    for case in ("log_mel", "ecapa"):
        with pytest.raises(InputError, match="takes no pooling"):
            load_encoder(*models[case], pooling="max")
        with pytest.raises(InputError, match=f"{case}' gives .* no frames"):
            load_encoder(*models[case]).frames(torch.zeros(1, 8000))
    with pytest.raises(InputError, match="pooling is 'sum': expected mean or"):
        load_encoder("mini", pooling="sum")


def test_a_cpu_encodes_so_many_seconds_at_a_time(monkeypatch, encoder_of):
    """However large the batch is, and to the same vectors."""
    encoder, seen = encoder_of("mini"), []
    lengths = torch.linspace(1, 0.6, 9)
    wavs = torch.randn(9, 50000, generator=torch.manual_seed(0))
    whole = encoder(wavs, lengths)
    encode = encoder.encode

    def spy(part, counts):
        seen.append(part.numel())
        return encode(part, counts)

    monkeypatch.setattr(encoder, "encode", spy)
    monkeypatch.setattr(pooled_encoder, "CPU_SECONDS", 7.0)
    error = (encoder(wavs, lengths) - whole).norm() / whole.norm()
    assert len(seen) == 4 and max(seen) <= 7 * 16000 and error < 1e-6


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


@pytest.mark.parametrize("case", ["log_mel", "wavlm group", "whisper"])
def test_silence_and_short_clips_are_finite(case, encoder_of):
    for n_samples in (1, 10, 159, 399, 401, 800, 8000):
        for batch in (wavs(n_samples)[0], torch.zeros(2, n_samples)):
            assert torch.isfinite(encoder_of(case)(batch)).all()
    # One shorter than the receptive field is padded.
    encoder, (short, _) = encoder_of("wav2vec2 group"), wavs(50)
    assert encoder.min_samples == 400
    padded = torch.nn.functional.pad(short, (0, 350))
    assert torch.equal(encoder(short), encoder(padded))


def test_bad_waveforms(encoder_of):
    encoder = encoder_of("log_mel")
    with pytest.raises(InputError, match=r"\[batch, time\].* got .*\[16000\]"):
        encoder(torch.zeros(16000))
    for batch, lens in ((1, 0), None), ((2, 9), torch.tensor([1.0, 0.0])):
        with pytest.raises(InputError, match="relative lengths|no samples"):
            encoder(torch.zeros(batch), lens)


def test_identity_follows_the_weights_not_the_folder(tmp_path, models):
    original = Path(models["wavlm group"][1])
    shutil.copytree(original, tmp_path / "copy")
    before = torch.get_rng_state()
    encoder = load_encoder("wavlm_base_plus", tmp_path / "copy")
    assert torch.equal(torch.get_rng_state(), before)
    same = load_encoder("wavlm_base_plus", original)
    assert encoder.identity == same.identity
    # Weights that change after loading are not packed under the old name.
    save_tiny(tmp_path / "copy", "wavlm", seed=1)
    other = load_encoder("wavlm_base_plus", tmp_path / "copy")
    assert other.identity["model"] != encoder.identity["model"]
    with pytest.raises(InputError, match="has changed"):
        pack_encoder(encoder, tmp_path / "encoder.ckpt")
    assert not (tmp_path / "encoder.ckpt").exists()


def test_identity_follows_all_parameters(models):
    """Every argument that changes vectors, and nothing else."""
    changes = dict(sample_rate=8000, n_mels=40, window_ms=32.0, hop_ms=5.0)
    changes |= dict(floor=0.1, n_segments=2)
    arguments = inspect.signature(LogMelStatistics).parameters
    assert set(changes) == set(arguments)
    plain = load_encoder("log_mel").identity
    for name, value in changes.items():
        overrides = {"encoder": {name: value}}
        changed = load_encoder("log_mel", overrides=overrides).identity
        assert changed.pop("parameters")[name] == value
        assert plain.items() >= changed.items()

    # The same weights through another wrapper.
    source = models["wavlm layer"][1]
    name = "wavlm_base", "wav2vec2_base"
    wavlm, other = (load_encoder(one, source).identity for one in name)
    assert wavlm["class"] == other["class"] and wavlm["model"] == other["model"]
    assert wavlm["parameters"] != other["parameters"]
    # A class of the user's cannot forget to say.
    with pytest.raises(TypeError, match="parameters"):
        PooledEncoder(16000)


@pytest.mark.parametrize("overrides", [None, {"encoder": {"n_mels": 40}}])
def test_a_changed_encoder_is_packed(overrides, tmp_path):
    """By a file of the user's, or by an option."""
    name, mine = "log_mel", tmp_path / "mine.yaml"
    if overrides is None:
        text = (ENCODERS / "log_mel.yaml").read_text()
        mine.write_text(text.replace("n_mels: 80", "n_mels: 40"))
        name = str(mine)
    encoder = load_encoder(name, overrides=overrides)
    assert encoder.dim == 280
    assert encoder.identity["name"] == Path(name).stem
    assert str(tmp_path) not in json.dumps(encoder.identity)
    assert encoder_reference(encoder) is None
    pack_encoder(encoder, tmp_path / "encoder.ckpt")
    unpack(tmp_path / "encoder.ckpt", encoder)
    # The path of a file of the package is still a name.
    named = load_encoder(ENCODERS / "log_mel.yaml")
    assert encoder_reference(named) == {"name": "log_mel"}


def yaml_with_source(path, source):
    """The file of an encoder, with a folder as its own source."""
    text = (ENCODERS / "wavlm_base_plus.yaml").read_text()
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("microsoft/wavlm-base-plus", source))
    return path


@pytest.mark.parametrize("quote", ["", '"'])
def test_folder_in_a_yaml_of_the_user_stays_here(quote, tmp_path, models):
    folder, path = tmp_path / "a" / "weights", tmp_path / "encoder.ckpt"
    shutil.copytree(models["wavlm group"][1], folder)
    mine = yaml_with_source(tmp_path / "mine.yaml", f"{quote}{folder}{quote}")
    mine.write_text(f"# In {folder}\n{mine.read_text()}")
    encoder = load_encoder(mine)
    pack_encoder(encoder, path)
    assert str(tmp_path).encode() not in path.read_bytes()
    # The same model in another place is the same encoder.
    shutil.move(folder, tmp_path / "b")
    moved = yaml_with_source(tmp_path / "c" / "mine.yaml", str(tmp_path / "b"))
    assert load_encoder(moved).identity == encoder.identity
    shutil.rmtree(tmp_path / "b")
    unpack(path, encoder)


@pytest.mark.parametrize("has_key", [True, False])
def test_folder_at_another_key_is_not_packed(
    has_key, tmp_path, models, monkeypatch
):
    """Without a key ``source`` the export could not be loaded."""
    folder = shutil.copytree(models["wavlm group"][1], tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    mine = yaml_with_source(tmp_path / "mine.yaml", "!ref <folder>")
    mine.write_text(f"folder: {folder}\n{mine.read_text()}")
    if not has_key:
        mine.write_text(
            "encoder: !new:speechbrain_ext.lobes.transformers_encoders."
            "TransformersEncoder\n    source: weights\n"
        )
    with pytest.raises(InputError, match="at the key 'source'"):
        pack_encoder(load_encoder(mine), tmp_path / "encoder.ckpt")
    assert not (tmp_path / "encoder.ckpt").exists()


def test_what_cannot_be_packed_or_unpacked(tmp_path):
    bare = PooledEncoder(16000, {})
    assert encoder_reference(bare) is None
    with pytest.raises(InputError, match="load_encoder"):
        pack_encoder(bare, tmp_path / "x")
    (tmp_path / "other.yaml").write_text("b: 1\n")
    log_mel = (ENCODERS / "log_mel.yaml").read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"a: !include:other.yaml\n{log_mel}")
    with pytest.raises(InputError, match="!include:"):
        pack_encoder(load_encoder(mine), tmp_path / "x")
    (tmp_path / "x.ckpt").write_bytes(b"not a tar archive")
    # An archive that would write outside of its folder.
    with tarfile.open(tmp_path / "y.ckpt", "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped.yaml"))
    for name, reason in (("x.ckpt", "ReadError"), ("y.ckpt", "OutsideDest")):
        with pytest.raises(InputError, match=f"not a packed encoder.*{reason}"):
            PackedEncoder().load(tmp_path / name)


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
    hub = "microsoft/wavlm-base-plus"
    assert encoder.identity["model"] == {"source": hub, "commit": commit}
    assert encoder_reference(encoder) == {
        "name": "wavlm_base_plus",
        "source": hub,
        "revision": commit,
    }
    # Safetensors were there, so nothing else was asked for.
    ((source, revision, patterns),) = asked
    assert (source, revision) == (hub, "main")
    assert not any(pattern.endswith(".bin") for pattern in patterns)

    # A model without them takes the other format, and nothing once more.
    weights = snapshot / "model.safetensors"
    torch.save(load_file(weights), snapshot / "pytorch_model.bin")
    weights.unlink()
    other = load_encoder("wavlm_base_plus")
    assert "pytorch_model.bin" in asked[-1][2]
    assert "config.json" not in asked[-1][2]
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
    parts = ("nobody/no-such-model", "'v1'", str(tmp_path), "source FOLDER")
    assert all(part in message for part in parts)


def test_local_folder_that_lacks_a_file(models, tmp_path):
    for case, file in (
        ("wavlm group", "config.json"),
        ("automodel group", "preprocessor_config.json"),
        ("automodel group", "model.safetensors"),
        ("ecapa", "hyperparams.yaml"),
    ):
        name, source = models[case]
        shutil.copytree(source, tmp_path / file)
        (tmp_path / file / file).unlink()
        with pytest.raises(InputError) as caught:
            load_encoder(name, tmp_path / file)
        assert f"{tmp_path / file}" in str(caught.value)
        assert file in str(caught.value).replace(str(tmp_path / file), "")


@pytest.mark.parametrize("name", ["wavlm_base_plus", "hf_encoder"])
def test_half_precision_runs_in_single_and_no_weights_are_made_up(
    name, models, tmp_path
):
    folder = shutil.copytree(models["wavlm group"][1], tmp_path / "model")
    model = transformers.AutoModel.from_pretrained(folder)
    model.half().save_pretrained(folder)
    encoder = load_encoder(name, folder)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layers.1.final_layer_norm.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights"):
        load_encoder(name, folder)


def test_bad_names_and_files(tmp_path, models):
    whisper = models["whisper"][1]
    for arguments, message in (
        (["nope"], "Unknown name 'nope'.*log_mel"),
        (["hf_encoder"], "hf_encoder' needs a source"),
        (["log_mel", "somewhere"], "log_mel' takes no source"),
        (["hf_encoder", "/no/such/folder"], "No model folder /no/such/folder"),
        (["hf_encoder", whisper, "main"], "has no revision"),
        (["wavlm_base", whisper], "use --encoder hf_encoder"),
    ):
        with pytest.raises(InputError, match=message):
            load_encoder(*arguments)
    for text, message in (
        ("- 1", "not a YAML mapping"),
        ("a: [", "mine.yaml: while parsing"),
        ("encoder: 3", "must make a PooledEncoder, got int"),
        (
            "encoder: !new:speechbrain_ext.lobes.pooled_encoder.PooledEncoder\n"
            "    sample_rate: 16000\n    parameters: {}",
            "cannot encode half a second",
        ),
    ):
        (tmp_path / "mine.yaml").write_text(f"{text}\n")
        with pytest.raises(InputError, match=message):
            load_encoder(tmp_path / "mine.yaml")


def test_layers_by_numbers(encoder_of):
    """Without any it is the last."""
    encoder = encoder_of("wavlm group")
    assert choose_layers(encoder) == choose_layers(encoder, [-1]) == [2]
    assert choose_layers(encoder, [0, -2, -1]) == [0, 1, 2]
    with pytest.raises(InputError, match="stands there twice"):
        choose_layers(encoder, [0, -3])
    for layers in ([3], [-4], [0.0], [], 0, "0", [True], "auto"):
        with pytest.raises(InputError):
            choose_layers(encoder, layers)
    with pytest.raises(InputError, match="3 layers, 0 to 2 or -1 to -3"):
        choose_layers(encoder, [3])
    with pytest.raises(InputError, match="1 layer, 0 to 0"):
        choose_layers(encoder_of("log_mel"), [1])


def test_a_packed_encoder_has_its_shape(encoder_of, tmp_path):
    mine = encoder_of("wavlm group")
    pack_encoder(mine, tmp_path / "packed")
    packed = unpack(tmp_path / "packed", mine)
    assert (packed.n_layers, packed.dim) == (mine.n_layers, mine.dim) == (3, 16)
    assert packed.identity == mine.identity
    assert choose_layers(packed) == [2]


def test_licence_of_a_packaged_model_goes_into_an_export(encoder_of, tmp_path):
    pack_encoder(encoder_of("mini"), tmp_path / "packed")
    with tarfile.open(tmp_path / "packed") as tar:
        text = tar.extractfile("model/LICENSE").read().decode()
    assert "MIT License" in text and "Useful Sensors" in text
