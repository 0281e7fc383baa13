"""The published experiments: their values, and the whole way at small size."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import yaml
from cloning import BuzzCloner
from conftest import ROOT
from libritts import build_libritts
from speechbrain.utils.checkpoints import Checkpointer
from test_encoders import save_tiny

from speechbrain_ext.core import InterventionalBrain
from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.nnet.losses import contrastive_floor
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.hparams import load_hparams

RECIPE = ROOT / "recipes/LibriTTS/post-training"
EXPERIMENTS = ("joint", "speaker_only", "content_only", "baseline")
BACKBONES = {
    "wav2vec2_base": "wav2vec2",
    "hubert_base": "hubert",
    "wavlm_base_plus": "wavlm",
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
    return load_hparams(
        RECIPE / f"hparams/{name}.yaml", yaml.safe_dump(folders | overrides)
    )


def published_grid(speakers, sentences):
    labels = {
        "speaker": [s for s in range(speakers) for _ in range(sentences)],
        "content": list(range(sentences)) * speakers,
    }
    return Grid(labels)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_number_of_parameters(name, base_sized, tmp_path):
    network = published(name, tmp_path, base_sized)["network"]
    wanted = {"speaker_only": 1_476_480, "content_only": 1_476_480}
    count = sum(p.numel() for p in network.parameters())
    assert count == wanted.get(name, 1_771_776)
    assert not network.standardise


@pytest.mark.parametrize(
    "options, steps", [({}, 480), ({"number_of_epochs": 100}, 1600)]
)
def test_blocks_steps_and_learning_rate(options, steps, base_sized, tmp_path):
    hparams = published("joint", tmp_path, base_sized, **options)
    grids = {"train": published_grid(32, 256), "valid": published_grid(6, 256)}
    blocks = {
        split: BlockSampler(grid, hparams[f"{split}_block"], seed=0)
        for split, grid in grids.items()
    }
    assert [len(b) for b in blocks["train"]] == [512] * 16
    assert [len(b) for b in blocks["valid"]] == [768] * 2
    block = next(iter(blocks["train"]))
    labels = {f: grids["train"].labels(f) for f in ("speaker", "content")}
    chosen = {f: [values[i] for i in block] for f, values in labels.items()}
    assert [len(set(values)) for values in chosen.values()] == [16, 32]
    floors = [contrastive_floor(torch.tensor(v)) for v in chosen.values()]
    assert float(sum(floors)) == pytest.approx(6.142, abs=5e-4)

    brain = InterventionalBrain(
        hparams["modules"], hparams["opt_class"], hparams,
        run_opts={"device": "cpu"},
        checkpointer=Checkpointer(tmp_path / "save"),
    )  # fmt: skip
    brain.fit = lambda *arguments, **options: None  # the schedule alone
    features = {
        split: GridFeatures(
            torch.zeros(len(grid.labels("speaker")), 1, 1), grid
        )
        for split, grid in grids.items()
    }
    brain.fit_grid(
        hparams["epoch_counter"], *features.values(), *blocks.values()
    )
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
    assert hparams["max_grad_norm"] == float("inf")


def test_experiments_differ_in_the_marked_lines_only():
    texts = {
        name: (RECIPE / f"hparams/{name}.yaml").read_text().splitlines()[2:]
        for name in EXPERIMENTS
    }
    for name, lines in texts.items():
        assert len(lines) == len(texts["joint"])
        for line, other in zip(lines, texts["joint"]):
            assert line == other or line.endswith("# <- experiment"), name


@pytest.mark.parametrize("name, source", [
    ("wav2vec2_base", "facebook/wav2vec2-base"),
    ("hubert_base", "facebook/hubert-base-ls960"),
    ("wavlm_base", "microsoft/wavlm-base"),
    ("wavlm_base_plus", "microsoft/wavlm-base-plus"),
])  # fmt: skip
def test_hub_ids(name, source):
    """The tests' encoders differ from the users' by ``source`` alone."""
    text = (ROOT / f"hparams/encoders/{name}.yaml").read_text()
    assert f"\nsource: {source}\n" in text


def call(script, *arguments, cwd=RECIPE, stream="stdout"):
    """A script, as on the command line; returns what it printed."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return getattr(done, stream)


def test_the_backend_is_an_option(tmp_path):
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


SIZES = {
    "n_train_speakers": 4, "n_train_sentences": 6, "n_valid_speakers": 3,
    "n_valid_sentences": 4,
}  # fmt: skip
SMALL = [
    "--train_block={speaker: 4, content: 3}",
    "--valid_block={speaker: 3, content: 2}",
    "--number_of_epochs=2",
    "--device=cpu",
    "--noprogressbar",
]


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A folder in LibriTTS's layout, rendered by the recipe in two parts."""
    work = tmp_path_factory.mktemp("libritts")
    source = build_libritts(work, speakers=8, chapters=2, sentences=4)
    command = [
        "synthesise.py",
        "hparams/synthesis.yaml",
        f"--libritts_folder={source}",
        f"--data_folder={work / 'grid'}",
        "--backend=!name:cloning.BuzzCloner",
        *(f"--{name}={size}" for name, size in SIZES.items()),
    ]
    said = call(*command, "--shard=[0, 2]", stream="stderr")
    assert "cells are left to the other shards: no manifest yet" in said
    assert not (work / "grid/manifest.csv").exists()
    call(*command, "--shard=[1, 2]")
    return work / "grid"


@pytest.mark.parametrize("encoder", BACKBONES)
def test_whole_pipeline(encoder, grid, tmp_path):
    """Render, extract, train, evaluate and export, by the users' files."""
    model = save_tiny(tmp_path / "m", BACKBONES[encoder], num_hidden_layers=12)
    printed = call(
        "train.py",
        "hparams/joint.yaml",
        f"--encoder={encoder}",
        f"--encoder_source={model}",
        f"--data_folder={grid}",
        f"--output_folder={tmp_path / 'out'}",
        f"--cache_folder={tmp_path / 'features'}",
        *SMALL,
    )
    assert "joint" in printed
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["layers"] == [12]
    assert results["grid"]["factors"] == {"speaker": 4, "content": 6}
    assert results["test_grid"]["factors"] == {"speaker": 3, "content": 4}
    joint = results["systems"]["joint"]["subspaces"]
    assert joint["speaker"]["dim"] == joint["content"]["dim"] == 384
    export = SubspaceEncoder.from_hparams(source=str(tmp_path / "out/export"))
    wav = next((grid / "wav").glob("*/*.wav"))
    assert export.encode_file(str(wav), subspace="content").shape == (1, 1, 384)


def experiments(grid, model, work, *arguments):
    return call(
        "run_experiments.py",
        "hparams/experiments.yaml",
        f"--data_folder={grid}",
        f"--output_folder={work / 'runs'}",
        f"--cache_folder={work / 'features'}",
        f"--encoders=[{{encoder: wavlm_base, encoder_source: {model}}}]",
        "--layers=[[12]]",
        "--sweep=[[3]]",
        "--train_options={number_of_epochs: 2}",
        f"--evaluations={{voxceleb1: {{data_folder: {grid}, voxceleb1: False, "
        "trials: null, content_factor: content, tasks: [verification, "
        "leakage]}}",
        *arguments,
        "--",
        *(a for a in SMALL if not a.startswith("--number_of_epochs")),
    )


def test_experiments_over_layers_and_seeds(grid, tmp_path):
    model = save_tiny(tmp_path / "m", "wavlm", num_hidden_layers=12)
    run = partial(experiments, grid, model, tmp_path)
    printed = run("--experiments=[baseline, joint]", "--seeds=[1]")
    runs = tmp_path / "runs"
    trained = {path: path.stat().st_mtime_ns for path in runs.rglob("*.ckpt")}
    assert trained
    # A further seed: what is there is not trained again, and both are judged.
    printed = run("--experiments=[baseline, joint]", "--seeds=[1, 2]")
    for path, time in trained.items():
        assert path.stat().st_mtime_ns == time
    rows = {
        (row["layers"], row["measure"], row["system"]): row
        for row in _csv(runs / "summary.csv")
        if row["condition"] == "clean"
    }
    assert rows["12", "EER", "joint speaker"]["seeds"] == "2"
    assert rows["3", "EER", "joint speaker"]["seeds"] == "1"
    assert rows["12", "EER", "grid_lda content"]["seeds"] == "1"
    for row in rows.values():
        assert 0 <= float(row["mean"]) <= 1
    two = [
        json.loads((path / "results.json").read_text())["systems"]["joint"]
        for path in sorted((runs).glob("*/layers_12/joint/*"))
    ]
    assert len(two) == 2 and two[0] != two[1]
    # What all trainings are told does not make the baseline one.
    logs = sorted(runs.glob("*/layers_12/*/1/train_log.txt"))
    assert [path.parts[-3] for path in logs] == ["joint"]
    assert len(logs[0].read_text().splitlines()) == 2
    assert "| joint speaker | 2 |" in printed
    assert list(runs.glob("layers_voxceleb1_*.png"))


def _csv(path):
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
