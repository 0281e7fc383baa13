"""The published experiments: their values, and the whole way at small size."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from cloning import BuzzCloner
from conftest import ROOT, call_script, load_script
from libritts import build_libritts
from tiny_models import save_tiny

from speechbrain_ext.dataio.grid import Grid, GridFeatures
from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.nnet.losses import contrastive_floor
from speechbrain_ext.utils import jobs
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv
from speechbrain_ext.utils.hparams import load_hparams

RECIPE = ROOT / "recipes/LibriTTS/post-training"
EXPERIMENTS = ("joint", "speaker_only", "content_only", "baseline")
BACKBONES = {
    "wav2vec2_base": "wav2vec2",
    "hubert_base": "hubert",
    "wavlm_base": "wavlm",
}


@pytest.fixture(scope="module")
def base_sized(tmp_path_factory):
    """A WavLM with as many layers and dimensions as Base, but thin ones."""
    return save_tiny(
        tmp_path_factory.mktemp("wavlm"),
        "wavlm",
        hidden_size=768,
        num_hidden_layers=12,
        intermediate_size=4,
    )


def published(name, tmp_path, source, **overrides):
    """An experiment with all its values but the weights of the encoder."""
    folders = {
        "output_folder": str(tmp_path / "out"),
        "encoder_source": source,
    }
    system = load_hparams(RECIPE / "hparams/experiments.yaml")["systems"][name]
    options = folders | system.get("options", {}) | overrides
    return load_hparams(RECIPE / system["hparams"], yaml.safe_dump(options))


def published_grid(speakers, sentences):
    labels = {
        "speaker": [s for s in range(speakers) for _ in range(sentences)],
        "content": list(range(sentences)) * speakers,
    }
    features = torch.zeros(speakers * sentences, 1, 1)
    return GridFeatures(features, Grid(labels))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_number_of_parameters(name, base_sized, tmp_path):
    hparams = published(name, tmp_path, base_sized)
    shape = [len(hparams["layers"]), hparams["encoder_model"].dim]
    network = hparams["network"](input_shape=shape)
    wanted = {"speaker_only": 1_476_480, "content_only": 1_476_480}
    count = sum(p.numel() for p in network.parameters())
    assert count == wanted.get(name, 1_771_776)
    assert not network.standardise


# What one override changes, beside the encoder.
RELEASES = {
    "paper": ("wavlm_base", 800, "published"),
    "july": ("wavlm_base_plus", 480, "published"),
    "june": ("wavlm_base_plus", 1600, "published_batch"),
}


@pytest.mark.parametrize("release", RELEASES)
def test_blocks_steps_and_learning_rate(release, base_sized, tmp_path):
    encoder, steps, orthogonality = RELEASES[release]
    # The paper's is the default.
    options = {} if release == "paper" else {"release": release}
    hparams = published("joint", tmp_path, base_sized, **options)
    assert hparams["encoder"] == encoder
    assert hparams["loss"].orthogonality == orthogonality
    assert hparams["checkpoint"] == "best"
    brain = load_script(RECIPE / "train.py").InterventionalBrain(
        {"network": hparams["network"](input_shape=[1, 768])},
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={"device": "cpu"},
    )
    given = {}
    brain.fit = lambda *grids, **loaders: given.update(loaders)
    grids = published_grid(32, 256), published_grid(6, 256)
    brain.fit_grids(*grids)
    blocks = {
        split: list(given[f"{split}_loader_kwargs"]["batch_sampler"])
        for split in ("train", "valid")
    }
    assert [len(b) for b in blocks["train"]] == [512] * 16
    assert [len(b) for b in blocks["valid"]] == [768] * 2
    assert max(i % 256 for i in blocks["valid"][0]) == 127  # in order
    chosen = grids[0].codes[blocks["train"][0]].T
    assert [len(set(values.tolist())) for values in chosen] == [16, 32]
    # Groups of speakers in turn, each with the same contents
    columns = [grids[0].codes[b].T.tolist() for b in blocks["train"]]
    speakers, contents = zip(*[map(set, both) for both in columns])
    assert speakers == speakers[:1] * 8 + speakers[8:9] * 8
    assert contents[:8] == contents[8:] and not speakers[0] & speakers[8]
    floors = [contrastive_floor(values) for values in chosen]
    assert float(sum(floors)) == pytest.approx(6.142, abs=5e-4)
    # The schedule alone
    assert brain.total_steps == steps
    brain.init_optimizers()
    group = brain.optimizer.param_groups[0]
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(group["lr"])
        momenta.append(group["betas"][0])
        brain.on_fit_batch_end(None, None, None, should_step=True)
    assert rates[0] == pytest.approx(4e-6)
    assert max(rates) == pytest.approx(1e-4)
    assert rates.index(max(rates)) == steps // 10 - 1
    assert rates[-1] == pytest.approx(4e-9)
    assert momenta[0] == momenta[-1] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85)
    assert group["weight_decay"] == 0.01 and group["lr"] == rates[-1]
    assert brain.max_grad_norm == float("inf")


def test_hub_ids():
    """The tests' encoders differ from the users' by ``source`` alone."""
    for name, source in (
        ("wav2vec2_base", "facebook/wav2vec2-base"),
        ("hubert_base", "facebook/hubert-base-ls960"),
        ("wavlm_base", "microsoft/wavlm-base"),
        ("wavlm_base_plus", "microsoft/wavlm-base-plus"),
    ):
        text = (ROOT / f"hparams/encoders/{name}.yaml").read_text()
        assert f"\nsource: {source}\n" in text


def test_the_backend_is_an_option():
    path = RECIPE / "hparams/synthesis.yaml"

    def load(backend):
        return load_hparams(path, f"libritts_folder: x\nbackend: {backend}")

    backend = load("{nfe_step: 16, ckpt_file: f5.pt}")["backend"]
    assert backend.func.__name__ == "F5Synthesizer"
    assert backend.keywords == {"nfe_step": 16, "ckpt_file": "f5.pt"}
    assert load("!name:cloning.BuzzCloner")["backend"] is BuzzCloner
    # HyperPyYAML would hand these to F5-TTS, and fail on the next.
    with pytest.raises(InputError, match="--backend: .* as a list"):
        load("!name:cloning.BuzzCloner {a: 1}")
    with pytest.raises(InputError, match="key: value.*seconds"):
        load_hparams(path, "libritts_folder: x\nreference_seconds: {a: 1}")


SMALL = [
    "--train_block={speaker: 4, content: 3}",
    "--valid_block={speaker: 3, content: 2}",
    "--device=cpu",
    "--noprogressbar",
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder in LibriTTS's layout, rendered by the recipe in two parts."""
    work = tmp_path_factory.mktemp("libritts")
    source = build_libritts(work, speakers=8, chapters=2, sentences=4)
    for part in (0, 1):
        assert not (work / "grid/manifest.csv").exists()
        call_script(
            RECIPE / "synthesise.py",
            "hparams/synthesis.yaml",
            f"--libritts_folder={source}",
            f"--data_folder={work / 'grid'}",
            "--backend=!name:cloning.BuzzCloner",
            *("--n_train_speakers=4", "--n_train_sentences=6"),
            *("--n_valid_speakers=3", "--n_valid_sentences=4"),
            f"--shard=[{part}, 2]",
        )
    return work / "grid"


OVERRIDES = {
    "wav2vec2_base": ["--release=june", "--patience=1"],
    "hubert_base": [
        "--network={projection: 5, hidden: [7]}",
        "--loss={weights: {speaker: [0.0, 1.0, 1, 2], content: 0.5}}",
    ],
    "wavlm_base": [
        *("--optimizer_step_limit=3", "--lr_interval=epoch"),
        *("--block_order=shuffled", "--checkpoint=last"),
    ],
}


@pytest.mark.parametrize("encoder", BACKBONES)
def test_whole_pipeline(encoder, grid, tmp_path):
    """Render, extract, train, evaluate and export, by the users' files.

    With each backbone some of the other options.
    """
    model = save_tiny(tmp_path / "m", BACKBONES[encoder], num_hidden_layers=12)
    call_script(
        RECIPE / "train.py",
        "hparams/joint.yaml",
        f"--encoder={encoder}",
        f"--encoder_source={model}",
        f"--data_folder={grid}",
        f"--output_folder={tmp_path / 'out'}",
        f"--cache_folder={tmp_path / 'features'}",
        "--number_of_epochs=2",
        *OVERRIDES[encoder],
        *SMALL,
    )
    about, rows = read_results(tmp_path / "out").values()
    assert about["layers"] == [12]
    assert about["grid"]["factors"] == {"speaker": 4, "content": 6}
    assert about["test_grid"]["factors"] == {"speaker": 3, "content": 4}
    dims = select(rows, system="joint", measure="dimension")
    assert [row["value"] for row in dims] == [384] * 4
    export = SubspaceEncoder.from_hparams(source=str(tmp_path / "out/export"))
    wav = next((grid / "wav").glob("*/*.wav"))
    assert export.encode_file(str(wav), subspace="content").shape == (1, 1, 384)


@pytest.fixture
def jobs_here(monkeypatch):
    """Jobs run in this process, which has imported everything."""

    def here(command, stdout, **_):
        script, hparams = (Path(x).absolute() for x in command[1:3])
        stdout.write(call_script(script, hparams, *command[3:]))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(jobs.subprocess, "run", here)


def test_paper_and_releases_by_the_runner(grid, tmp_path, jobs_here):
    """All systems of the experiments on a WavLM of two layers.

    Nothing of the joint ones is overridden but a limit of steps.
    """
    model = save_tiny(tmp_path / "m", "wavlm")
    releases = {"joint": "paper", "joint_july": "july", "joint_june": "june"}
    systems = ("baseline", "speaker_only", "content_only", *releases)
    call_script(
        RECIPE / "run_experiments.py",
        "hparams/experiments.yaml",
        f"--data_folder={grid}",
        f"--output_folder={tmp_path / 'runs'}",
        f"--cache_folder={tmp_path / 'features'}",
        f"--encoders=[{{encoder: wavlm_base, encoder_source: {model}}}]",
        *("--layers=[[2]]", "--seeds=[1]"),
        f"--experiments=[{', '.join(systems)}]",
        f"--evaluations={{voxceleb1: {{data_folder: {grid}, voxceleb1: False, "
        "conditions: [recorded], tasks: [verification], resamples: 0}}",
        *("--", *SMALL, "--optimizer_step_limit=3"),
    )
    [cell] = (tmp_path / "runs").glob("*/layers_2")
    for name, release in releases.items():
        _, steps, orthogonality = RELEASES[release]
        text = (cell / name / "1/save/settings.json").read_text()
        settings = json.loads(text)
        assert settings["number_of_epochs"] == steps // 16
        assert settings["loss"]["orthogonality"] == orthogonality
        assert settings["block_order"] == "grouped"
        # Two blocks an epoch
        log = (cell / name / "1/train_log.txt").read_text().splitlines()
        assert len(log) == 2
    rows = read_csv(tmp_path / "runs/results.csv")
    eers = select(rows, task="verification", measure="eer", seed="1", group="")
    found = {(row["system"], row["subspace"]) for row in eers}
    own = {(name, sub) for name in releases for sub in ("speaker", "content")}
    own |= {("speaker_only", "speaker"), ("content_only", "content")}
    assert own <= found


def test_experiments_over_layers_and_seeds(grid, tmp_path, jobs_here):
    model, runs = tmp_path / "m", tmp_path / "runs"
    save_tiny(model, "wavlm", num_hidden_layers=12)
    run = functools.partial(
        call_script,
        RECIPE / "run_experiments.py",
        "hparams/experiments.yaml",
        f"--data_folder={grid}",
        f"--output_folder={runs}",
        f"--cache_folder={tmp_path / 'features'}",
        f"--encoders=[{{encoder: wavlm_base, encoder_source: {model}}}]",
        *("--layers=[[12]]", "--sweep=[[3]]"),
        "--experiments=[baseline, joint]",
        "--train_options={number_of_epochs: 2, "
        "subspace_widths: {speaker: 8, content: 8}}",
        f"--evaluations={{voxceleb1: {{data_folder: {grid}, voxceleb1: False, "
        "conditions: [recorded], resamples: 20}}",
    )
    run("--seeds=[1]", "--", *SMALL)
    trained = {path: path.stat().st_mtime_ns for path in runs.rglob("*.ckpt")}
    assert trained
    # A further seed: what is there is not trained again, and both are judged.
    printed = run("--seeds=[1, 2]", "--", *SMALL)
    for path, time in trained.items():
        assert path.stat().st_mtime_ns == time
    rows = read_csv(runs / "results.csv")
    eers = select(rows, condition="recorded", task="verification", group="")
    found = {
        (row["layers"], row["system"], row["seed"]): float(row["value"])
        for row in select(eers, measure="eer", subspace=("speaker", ""))
        if row["system"] in ("baseline", "joint", "pca")
    }
    assert sorted(found) == [
        *(("12", "baseline", ""), ("12", "joint", "1"), ("12", "joint", "2")),
        *(("12", "joint", "all"), ("12", "pca", "1")),
        *(("3", "baseline", ""), ("3", "joint", "1"), ("3", "pca", "1")),
    ]
    # What all trainings are told does not make the baseline one.
    logs = sorted(runs.glob("*/layers_12/*/1/train_log.txt"))
    assert [path.parts[-3] for path in logs] == ["joint"]
    assert len(logs[0].read_text().splitlines()) == 2
    assert (runs / "summary.md").read_text(encoding="utf-8") in printed
    assert list(runs.glob("layers_voxceleb1_*.png"))
