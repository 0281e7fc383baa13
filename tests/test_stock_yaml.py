"""The contract of the YAML files for SpeechBrain's unchanged scripts."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_manifest
from helpers import TRAININGS, YAMLS, build_export
from hyperpyyaml import load_hyperpyyaml, resolve_references
from tiny_models import save_ecapa, save_tiny

from speechbrain.inference import EncoderClassifier, SpeakerRecognition
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.utils.errors import InputError

OPTIONS = (
    "system export_folder subspace encoder encoder_source encoder_layers "
    "domain_statistics target_manifest trust"
).split()
# What the scripts of SpeechBrain 1.1 read.
VERIFICATION = (
    "data_folder output_folder save_folder verification_file train_data "
    "enrol_data test_data split_ratio skip_prep n_train_snts "
    "train_dataloader_opts enrol_dataloader_opts test_dataloader_opts "
    "compute_features mean_var_norm embedding_model pretrainer"
).split()
KEYS = {
    "cosine": VERIFICATION,
    "plda": [*VERIFICATION, "emb_dim", "seg_dur", "compute_plda"],
    "keywords": (
        "data_folder output_folder save_folder number_of_commands "
        "train_annotation valid_annotation test_annotation skip_prep "
        "validation_percentage testing_percentage percentage_unknown "
        "percentage_silence prepare_noise_data prepare_rir_data modules "
        "opt_class checkpointer epoch_counter dataloader_options "
        "compute_cost lr_annealing train_logger error_stats"
    ).split(),
}

TRAINING_KEYS = (
    "data_folder output_folder save_folder verification_file split_ratio "
    "sentence_len sample_rate random_chunk skip_prep train_annotation "
    "valid_annotation prepare_noise_data prepare_rir_data modules opt_class "
    "checkpointer epoch_counter dataloader_options compute_cost lr_annealing "
    "train_logger error_stats"
).split()


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Name -> folder: log-mel, a tiny WavLM of two layers, a raw head."""
    work = tmp_path_factory.mktemp("exports")
    log_mel = load_encoder("log_mel")
    wavlm = load_encoder("wavlm_base_plus", save_tiny(work / "model", "wavlm"))
    return {
        "log_mel": build_export(work / "log_mel", log_mel),
        "wavlm": build_export(work / "wavlm", wavlm, layers=[0, 2]),
        "raw": build_export(work / "raw", log_mel, standardise=False),
    }


@pytest.fixture(scope="module")
def ecapa(tmp_path_factory):
    """Folder of a tiny ECAPA."""
    return Path(save_ecapa(tmp_path_factory.mktemp("work") / "ecapa"))


def load(which, **overrides):
    """The file of a script, with options as the command line has them."""
    options = {"data_folder": "nowhere"} | {
        key: str(value) if isinstance(value, Path) else value
        for key, value in overrides.items()
        if value is not None
    }
    with open((YAMLS | TRAININGS)[which], encoding="utf-8") as file:
        return load_hyperpyyaml(file, options)


def embed(hparams, wavs, lens=None):
    """As the scripts do: lengths reach mean_var_norm, perhaps no further."""
    modules = hparams.get("modules", hparams)
    lens = torch.ones(len(wavs)) if lens is None else lens
    feats = modules["mean_var_norm"](modules["compute_features"](wavs), lens)
    known = () if "modules" in hparams else (lens,)
    return modules["embedding_model"](feats, *known)


@pytest.mark.parametrize("which", YAMLS)
def test_keys(which, exports):
    hparams = load(which, export_folder=exports["log_mel"])
    missing = {*KEYS[which], *OPTIONS} - {*hparams}
    assert not missing
    # In the cosine script the mere key switches normalisation on.
    assert "score_norm" not in hparams
    text = YAMLS[which].read_text(encoding="utf-8")
    for key in hparams:
        used = key in KEYS[which] or key.startswith("__")
        assert used or f"!ref <{key}" in text or f"<{key}>" in text, key
    # The upstream harness fills in nothing but these two.
    left = re.findall(r"^(\w+): !PLACEHOLDER", text, re.MULTILINE)
    assert left == ["data_folder"]


@pytest.mark.parametrize("encoder", ["log_mel", "wavlm"])
@pytest.mark.parametrize("which", YAMLS)
def test_chain(which, encoder, exports):
    hparams = load(which, export_folder=exports[encoder])
    if "pretrainer" in hparams:
        hparams["pretrainer"].collect_files()
        hparams["pretrainer"].load_collected()
    name = "content" if which == "keywords" else "speaker"
    dim = 5 if which == "keywords" else 6
    torch.manual_seed(1)
    wavs, lens = torch.randn(3, 9000), torch.tensor([1.0, 0.5, 0.7])
    found = embed(hparams, wavs, lens)
    assert found.shape == (3, 1, dim) and found.dtype == torch.float32
    model = SubspaceEncoder.from_hparams(source=str(exports[encoder]))
    expected = model.encode_batch(wavs, lens, subspace=name)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    # Neither padding nor its content matters, nor the neighbours.
    alone = embed(hparams, wavs[1:2, :4500])
    assert torch.allclose(found[1:2], alone, rtol=1e-4, atol=1e-5)
    # train_speaker_embeddings.py calls embedding_model(feats).
    model = hparams["embedding_model"]
    assert model.dim == dim
    assert torch.equal(model(wavs), model(wavs, torch.ones(3)))
    other = load(which, export_folder=exports["raw"], subspace="content")
    assert embed(other, wavs).shape == (3, 1, 5)
    assert which != "plda" or other["emb_dim"] == 5


def test_frozen(exports):
    """What a Brain does with the modules of the keyword script."""
    hparams = load("keywords", export_folder=exports["wavlm"])
    modules = torch.nn.ModuleDict(hparams["modules"])
    wavs, lens = torch.randn(4, 8000), torch.tensor([1.0, 0.6, 1.0, 0.8])
    before = embed(hparams, wavs, lens)
    modules.train()
    assert not any(m.training for m in modules["embedding_model"].modules())
    assert modules["classifier"].training
    embeddings = embed(hparams, wavs, lens)
    assert torch.equal(embeddings, before)  # no dropout of the tiny WavLM
    logits = modules["softmax"](modules["classifier"](embeddings))
    assert logits.shape == (4, 1, 12)
    loss = hparams["compute_cost"](logits, torch.tensor([[0], [1], [2], [3]]))
    loss.backward()
    for name, parameter in modules.named_parameters():
        trained = name.startswith("classifier.")
        assert parameter.requires_grad == trained
        assert (parameter.grad is not None) == trained
    recovered = set(hparams["checkpointer"].recoverables)
    assert recovered == {"classifier", "counter"}
    assert hparams["prepare_noise_data"]() == hparams["prepare_rir_data"]()


ECAPA = {"channels": [8, 8, 8, 8, 24], "res2net_scale": 2, "se_channels": 4}
SMALL = {"encoder": "mini", "embedding_model": {"model": ECAPA}}


@pytest.mark.parametrize("which", TRAININGS)
def test_training(which, exports):
    options = {"subspace": {"export_folder": exports["wavlm"]}, "frames": SMALL}
    hparams = load(which, **options[which], out_n_neurons=4, emb_dim=7)
    assert not {*TRAINING_KEYS} - {*hparams}
    text = TRAININGS[which].read_text(encoding="utf-8")
    optional = ("wav_augment", "embedding_model")
    for key in hparams:
        used = key in (*TRAINING_KEYS, *optional) or key.startswith("__")
        assert used or f"<{key}>" in text or f"<{key}." in text, key

    # As the script: in train mode, without lengths at the end.
    modules = torch.nn.ModuleDict(hparams["modules"]).train()
    wavs, lens = torch.randn(4, 16000), torch.tensor([1.0, 0.5, 0.7, 0.3])
    if "wav_augment" in hparams:
        more, lens = hparams["wav_augment"](wavs, lens)
        assert torch.equal(more[:4], wavs) and len(more) == 8
        wavs = more
    speakers = torch.arange(4)[:, None].repeat(len(wavs) // 4, 1)
    embeddings = embed(hparams, wavs, lens)
    assert embeddings.shape == (len(wavs), 1, 7)
    outputs = modules["classifier"](embeddings)
    hparams["compute_cost"](outputs, speakers, lens).backward()
    learns = {n for n, p in modules.named_parameters() if p.grad is not None}
    frozen = {n for n, p in modules.named_parameters() if not p.requires_grad}
    assert not learns & frozen and learns | frozen == {
        n for n, _ in modules.named_parameters()
    }
    assert frozen and not any(
        m.training for n, m in modules.named_modules() if "encoder" in n
    )
    # All that learns is in the checkpoint, and nothing else.
    saved = hparams["checkpointer"].recoverables.values()
    saved = [
        p
        for s in saved
        if isinstance(s, torch.nn.Module)
        for p in s.parameters()
    ]
    assert len(saved) == len(learns)

    # An utterance does not see its padding and its neighbours.
    modules.eval()
    together = embed(hparams, wavs[:4], lens[:4])
    alone = hparams["embedding_model"](wavs[1:2, :8000], torch.ones(1))
    assert torch.allclose(together[1], alone[0], rtol=1e-3, atol=1e-4)
    scored = hparams["embedding_model"](wavs[:4], lens[:4])
    assert torch.allclose(together, scored, rtol=1e-3, atol=1e-4)


def test_trainings_that_cannot_start(exports, tmp_path):
    for options, message in (
        ({"encoder": "log_mel"}, "'log_mel' gives .* no frames: take another"),
        ({"encoder": "mini", "encoder_layers": [5]}, "Layer 5 does not exist"),
        ({"encoder": "mini", "sample_rate": 8000}, "audio of 16000 Hz"),
    ):
        with pytest.raises(InputError, match=message):
            load("frames", **options)
    (tmp_path / "hyperparams.yaml").write_text("checkpointer: null\n")
    trained = {"system": "trained", "export_folder": tmp_path}
    with pytest.raises(InputError, match="not of train_speaker_embeddings.py"):
        load("cosine", **trained)
    (tmp_path / "hyperparams.yaml").unlink()
    with pytest.raises(InputError, match="There is no .*hyperparams.yaml: sys"):
        load("cosine", **trained)
    with pytest.raises(InputError, match="System trained uses no statistics"):
        manifest = {"target_manifest": __file__}
        load("cosine", **trained, **TARGET, **manifest)
    with pytest.raises(InputError, match="set --system pooled"):
        load("cosine", **trained, encoder="mini")
    with pytest.raises(InputError, match="encoder_layers without encoder"):
        load("cosine", **trained, encoder_layers=[0])
    with open(tmp_path / "hyperparams.yaml", "w") as file:
        text = TRAININGS["subspace"].read_text()
        overrides = f"{{data_folder: x, output_folder: {tmp_path}, system: "
        overrides += "pooled, encoder: log_mel}"
        file.write(resolve_references(text, overrides).getvalue())
    with pytest.raises(InputError, match="this training has no checkpoint"):
        load("cosine", **trained)


def test_pooled_rows(exports, ecapa):
    torch.manual_seed(2)
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.8])
    export = SubspaceEncoder.from_hparams(source=str(exports["wavlm"]))
    embedding = export.mods.embedding_model
    pooled = embedding.pooled(wavs, lens)
    systems = {"pooled": pooled}
    systems["pooled_standardised"] = embedding.network.standardiser(pooled)
    for system, expected in systems.items():
        row = load("cosine", export_folder=exports["wavlm"], system=system)
        found = embed(row, wavs, lens)
        assert found.shape == (2, 1, 32)  # two layers of 16
        assert torch.equal(found, expected.flatten(1).unsqueeze(1))
    expected = load_encoder("ecapa", ecapa)(wavs, lens)
    own = {"system": "pooled", "encoder": "ecapa", "encoder_source": ecapa}
    for which in YAMLS:
        assert torch.equal(embed(load(which, **own), wavs, lens), expected)
    assert embed(load("cosine", **POOLED), wavs).shape == (2, 1, 560)


def test_target_statistics(exports, small_grid, tmp_path):
    """On a manifest of nothing but ID and wav."""
    dataset = load_manifest(small_grid / "manifest.csv")
    ten = list(dataset.data.items())[:10]
    rows = [{"ID": key, "wav": item["wav"]} for key, item in ten]
    manifest = write_manifest(tmp_path / "target.csv", rows)
    target = {"domain_statistics": "target", "target_manifest": manifest}
    wavs = torch.randn(2, 8000)
    own = {"export_folder": exports["log_mel"]}
    grid = embed(load("cosine", **own), wavs)
    found = embed(load("cosine", **own, **target), wavs)
    model = SubspaceEncoder.from_hparams(source=str(exports["log_mel"]))
    model.estimate_statistics(manifest)
    assert torch.equal(found, model.encode_batch(wavs, subspace="speaker"))
    assert not torch.allclose(found, grid)

    # The same statistics for the pooled rows, wherever the encoder is from.
    standardiser = model.mods.embedding_model.network.standardiser
    pooled = model.mods.embedding_model.pooled(wavs)
    expected = standardiser(pooled).flatten(1).unsqueeze(1)
    for chosen in (
        own,
        {"export_folder": exports["raw"]},
        {"encoder": "log_mel"},
    ):
        hparams = load("cosine", **chosen, **STANDARDISED, **target)
        assert torch.allclose(embed(hparams, wavs), expected)


TARGET = {"domain_statistics": "target"}
POOLED = {"system": "pooled", "encoder": "log_mel"}
STANDARDISED = {"system": "pooled_standardised"}
BAD_OPTIONS = {
    "No export_folder": {},
    "No export in '/no/such": {"export_folder": "/no/such/export"},
    "not an export of a post-training recipe": {"export_folder": "ecapa"},
    "is not the file that was written": {"export_folder": "damaged"},
    "has speaker, content": {"subspace": "accent"},
    "system is 'joint': expected subspace or pooled": {"system": "joint"},
    "set --system pooled": {"encoder": "ecapa"},
    "without encoder": {"encoder_source": "somewhere"},
    "one of ecapa": {"system": "pooled", "encoder": "nonsense"},
    "Layer 3 does not exist": {**POOLED, "encoder_layers": [3]},
    "no statistics of a grid": {**POOLED, **STANDARDISED},
    "takes features as they are": {**STANDARDISED, "export_folder": "raw"},
    "expected grid or target": {"domain_statistics": "test"},
    "target_manifest is None": TARGET,
    "target_manifest is no.csv": {**TARGET, "target_manifest": "no.csv"},
    "uses no statistics": {**TARGET, "system": "pooled"},
}


@pytest.mark.parametrize("message", BAD_OPTIONS)
def test_bad_options(message, exports, ecapa, tmp_path):
    damaged = shutil.copytree(exports["log_mel"], tmp_path / "damaged")
    (damaged / "network.ckpt").write_bytes(b"nonsense")
    folders = exports | {"ecapa": ecapa, "damaged": damaged}
    overrides = dict(BAD_OPTIONS[message])
    folder = overrides.pop("export_folder", "log_mel" if overrides else None)
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        load("cosine", export_folder=folders.get(folder, folder), **overrides)
    assert "\n" not in str(raised.value).strip()


def test_other_rate(ecapa, tmp_path):
    source = shutil.copytree(ecapa, tmp_path / "ecapa")
    file = source / "hyperparams.yaml"
    file.write_text(file.read_text().replace("e: 16000", "e: 8000"))
    with pytest.raises(InputError, match="takes audio of 8000 Hz"):
        load("cosine", system="pooled", encoder="ecapa", encoder_source=source)


@pytest.mark.parametrize("which", YAMLS)
def test_results_do_not_mix(which, exports, tmp_path):
    """Scripts reuse what is in the folder: another system, another folder."""
    export = tmp_path / "export"
    shutil.copytree(exports["log_mel"], export)
    seen = set()
    for overrides in (
        {},
        {"subspace": "speaker" if which == "keywords" else "content"},
        {"system": "pooled"},
        {"system": "pooled", "encoder": "log_mel"},
    ):
        hparams = load(which, **{"export_folder": export, **overrides})
        seen.add(hparams["output_folder"])
        assert hparams["save_folder"].startswith(hparams["output_folder"])
    again = load(which, export_folder=export)["output_folder"]
    assert again in seen and len(seen) == 4
    build_export(export, load_encoder("log_mel"), seed=1)  # trained again
    assert load(which, export_folder=export)["output_folder"] not in seen


def test_same_data_for_every_system(exports):
    """The keyword script draws its clips right after reading the file."""
    drawn = []
    for name in ("log_mel", "wavlm"):
        load("keywords", export_folder=exports[name])
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("stock", [EncoderClassifier, SpeakerRecognition])
def test_stock_classes(stock, exports):
    model = stock.from_hparams(source=str(exports["wavlm"]))
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.5])
    hparams = load("cosine", export_folder=exports["wavlm"])
    found = model.encode_batch(wavs, lens)
    assert torch.allclose(
        found, embed(hparams, wavs, lens), rtol=1e-4, atol=1e-5
    )
