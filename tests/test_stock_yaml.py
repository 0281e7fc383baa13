"""The contract of the YAML files for SpeechBrain's unchanged scripts."""

import re
import shutil

import pytest
import torch
from conftest import ROOT, write_manifest
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference import EncoderClassifier, SpeakerRecognition
from test_encoders import save_ecapa, save_tiny

from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork
from speechbrain_ext.utils.errors import InputError

RECIPES = ROOT / "recipes"
SPEAKERS = RECIPES / "VoxCeleb/SpeakerRec/hparams"
YAMLS = {
    "cosine": SPEAKERS / "verification_subspace.yaml",
    "plda": SPEAKERS / "verification_plda_subspace.yaml",
    "keywords": RECIPES / "Google-speech-commands/hparams/subspace.yaml",
}
OPTIONS = (
    "system export_folder subspace encoder encoder_source encoder_layers "
    "domain_statistics target_manifest"
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


def build_export(folder, encoder, layers=(-1,), standardise=True, seed=0):
    """An export with random weights, and statistics that are not trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SubspaceNetwork(
            [len(layers), encoder.dim],
            ["speaker", "content"],
            {"speaker": 6, "content": 5},
            hidden=[16],
            standardise=standardise,
        )
        features = encoder(torch.randn(8, 8000))[:, list(layers)]
        network.fit_statistics(features)
    export_subspaces(folder, encoder, network, layers)
    return folder


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


def load(which, **overrides):
    overrides = {k: v for k, v in overrides.items() if v is not None}
    overrides = {"data_folder": "nowhere", **overrides}
    for key in ("export_folder", "encoder_source", "target_manifest"):
        if key in overrides:
            overrides[key] = str(overrides[key])
    with open(YAMLS[which], encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)


def embed(hparams, wavs, *lens):
    """As the scripts do: lengths reach mean_var_norm, perhaps no further."""
    modules = hparams.get("modules", hparams)
    full = torch.ones(len(wavs))
    feats = modules["compute_features"](wavs)
    feats = modules["mean_var_norm"](feats, *(lens or [full]))
    if "modules" in hparams:
        return modules["embedding_model"](feats)
    return modules["embedding_model"](feats, *(lens or [full]))


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
    assert hparams["embedding_model"].dim == dim


@pytest.mark.parametrize("which", YAMLS)
def test_other_subspace(which, exports):
    hparams = load(which, export_folder=exports["raw"], subspace="content")
    assert embed(hparams, torch.randn(2, 8000)).shape == (2, 1, 5)
    if which == "plda":
        assert hparams["emb_dim"] == 5


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
    with_gradient = {
        name
        for name, parameter in modules.named_parameters()
        if parameter.grad is not None
    }
    assert with_gradient and all(
        name.startswith("classifier.") for name in with_gradient
    )
    assert not [
        p for p in modules["embedding_model"].parameters() if p.requires_grad
    ]
    assert set(hparams["checkpointer"].recoverables) == {
        "classifier",
        "counter",
    }
    assert hparams["prepare_noise_data"]() == hparams["prepare_rir_data"]()


def test_no_lengths(exports):
    """train_speaker_embeddings.py calls embedding_model(feats)."""
    model = load("cosine", export_folder=exports["log_mel"])["embedding_model"]
    wavs = torch.randn(2, 8000)
    assert torch.equal(model(wavs), model(wavs, torch.ones(2)))


def test_pooled_rows(exports, tmp_path):
    torch.manual_seed(2)
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.8])
    rows = {
        system: embed(
            load("cosine", export_folder=exports["wavlm"], system=system),
            wavs,
            lens,
        )
        for system in ("pooled", "pooled_standardised")
    }
    export = SubspaceEncoder.from_hparams(source=str(exports["wavlm"]))
    embedding = export.mods.embedding_model
    pooled = embedding.pooled(wavs, lens)
    expected = pooled.flatten(1).unsqueeze(1)
    assert expected.shape == (2, 1, 32)  # two layers of 16
    assert torch.equal(rows["pooled"], expected)
    expected = embedding.network.standardiser(pooled).flatten(1).unsqueeze(1)
    assert torch.equal(rows["pooled_standardised"], expected)

    source = save_ecapa(tmp_path / "ecapa")
    for which in YAMLS:
        hparams = load(
            which, system="pooled", encoder="ecapa", encoder_source=source
        )
        expected = load_encoder("ecapa", source)(wavs, lens)
        assert torch.equal(embed(hparams, wavs, lens), expected)
    log_mel = load("cosine", system="pooled", encoder="log_mel")
    assert embed(log_mel, wavs).shape == (2, 1, 560)


def test_target_statistics(exports, small_grid, tmp_path):
    """On a manifest of nothing but ID and wav."""
    dataset = load_manifest(small_grid / "manifest.csv")
    rows = [
        {"ID": key, "wav": item["wav"]}
        for key, item in list(dataset.data.items())[:10]
    ]
    manifest = write_manifest(tmp_path / "target.csv", rows)
    target = {"domain_statistics": "target", "target_manifest": manifest}
    wavs = torch.randn(2, 8000)
    grid = embed(load("cosine", export_folder=exports["log_mel"]), wavs)
    found = embed(
        load("cosine", export_folder=exports["log_mel"], **target), wavs
    )
    model = SubspaceEncoder.from_hparams(source=str(exports["log_mel"]))
    model.estimate_statistics(manifest)
    assert torch.equal(found, model.encode_batch(wavs, subspace="speaker"))
    assert not torch.allclose(found, grid)

    # The same statistics for the pooled rows, wherever the encoder is from.
    standardiser = model.mods.embedding_model.network.standardiser
    pooled = model.mods.embedding_model.pooled(wavs)
    expected = standardiser(pooled).flatten(1).unsqueeze(1)
    for chosen in (
        {"export_folder": exports["log_mel"]},
        {"export_folder": exports["raw"]},
        {"encoder": "log_mel"},
    ):
        hparams = load(
            "cosine", system="pooled_standardised", **chosen, **target
        )
        assert torch.allclose(embed(hparams, wavs), expected)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({}, "No export_folder"),
        (
            {"export_folder": "/no/such/export"},
            "No export in '/no/such",
        ),
        ({"export_folder": "ecapa"}, "no export of a post-training recipe"),
        ({"export_folder": "damaged"}, "Cannot load the export"),
        ({"subspace": "accent"}, "has speaker, content"),
        ({"system": "joint"}, "expected subspace, pooled"),
        ({"encoder": "ecapa"}, "set --system pooled"),
        ({"encoder_source": "somewhere"}, "without encoder"),
        ({"system": "pooled", "encoder": "nonsense"}, "one of ecapa"),
        (
            {"system": "pooled", "encoder": "log_mel", "encoder_layers": [3]},
            "Layer 3 does not exist",
        ),
        (
            {"system": "pooled_standardised", "encoder": "log_mel"},
            "no statistics of a grid",
        ),
        (
            {"system": "pooled_standardised", "export_folder": "raw"},
            "takes features as they are",
        ),
        ({"domain_statistics": "test"}, "expected grid or target"),
        ({"domain_statistics": "target"}, "No target_manifest"),
        (
            {"domain_statistics": "target", "target_manifest": "no.csv"},
            "No target_manifest no.csv",
        ),
        (
            {"domain_statistics": "target", "system": "pooled"},
            "uses no statistics",
        ),
    ],
)
def test_bad_options(overrides, message, exports, tmp_path):
    folder = overrides.get("export_folder")
    if folder == "ecapa":
        folder = save_ecapa(tmp_path / "ecapa")
    elif folder == "damaged":
        folder = tmp_path / "damaged"
        shutil.copytree(exports["log_mel"], folder)
        (folder / "network.ckpt").write_bytes(b"nonsense")
    elif folder == "raw" or (not folder and overrides):
        folder = exports[folder or "log_mel"]
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        load("cosine", **{**overrides, "export_folder": folder})
    assert "\n" not in str(raised.value).strip()


def test_other_rate(exports, tmp_path):
    source = save_ecapa(tmp_path / "ecapa")
    file = tmp_path / "ecapa/hyperparams.yaml"
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
