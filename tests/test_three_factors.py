"""Three factors: voices x sentences x speaking rates, from text to leakage."""

import csv
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.hparams import load_hparams

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
FACTORS = ["speaker", "content", "rate"]
SMALL = [
    *("--n_train_voices=6", "--n_train_sentences=8"),
    *("--n_valid_voices=2", "--n_valid_sentences=3"),
    *("--n_test_voices=4", "--n_test_sentences=5"),
    "--train_block={speaker: 3, content: 4, rate: 3}",
    "--subspace_widths={speaker: 12, content: 10, rate: 8}",
    "--number_of_epochs=3",
]


def call(script, *arguments):
    done = subprocess.run(
        [
            *(sys.executable, script, *arguments),
            *("--device=cpu", "--noprogressbar"),
        ],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one small run."""
    pytest.importorskip("espeakng_loader")
    work = tmp_path_factory.mktemp("three")
    call(
        "train.py",
        "hparams/three_factors.yaml",
        *SMALL,
        f"--data_folder={work / 'grid'}",
        f"--output_folder={work / 'out'}",
        f"--cache_folder={work / 'features'}",
    )
    return work


def test_options_fit_each_other(tmp_path, monkeypatch):
    """What is trained is in the grid, and blocks and levels as well."""
    monkeypatch.syspath_prepend(RECIPE)
    path = RECIPE / "hparams/three_factors.yaml"
    options = load_hparams(path, {"output_folder": str(tmp_path)})
    assert options["grid_factors"] == options["factors"] == FACTORS
    assert list(options["subspace_widths"]) == FACTORS
    assert options["network"].subspaces == FACTORS
    sizes = {
        "speaker": options["n_train_voices"],
        "content": options["n_train_sentences"],
        "rate": len(options["rates"]),
    }
    for factor, size in options["train_block"].items():
        assert 2 <= size <= sizes[factor]
    prepare = options["prepare"].keywords
    assert prepare["rates"] == options["rates"] == sorted(options["rates"])


def test_training(finished):
    results = json.loads((finished / "out/results.json").read_text())
    assert results["grid"]["factors"] == {"speaker": 6, "content": 8, "rate": 3}
    assert results["test_grid"]["utterances"] == 4 * 5 * 3
    dims = {
        system: [s["dim"] for s in entry["subspaces"].values()]
        for system, entry in results["systems"].items()
    }
    assert dims["joint"] == [12, 10, 8]
    assert dims["grid_lda"] == [5, 7, 2]  # one less than there are values
    log = (finished / "out/train_log.txt").read_text()
    for factor in FACTORS:
        assert f"valid excess_{factor}" in log
    with open(finished / "grid/manifest.csv", newline="") as file:
        row = next(csv.DictReader(file))
    for name in ("export", "export_grid_lda"):
        model = SubspaceEncoder.from_hparams(
            source=str(finished / "out" / name)
        )
        assert model.subspaces == list(model.hparams.thresholds) == FACTORS
        vector = model.encode_file(
            str(finished / "grid" / row["wav"]), subspace="rate"
        )
        assert vector.shape[-1] == (8 if name == "export" else 2)


def test_leakage_matrix(finished):
    out = finished / "out"
    printed = call(
        "evaluate.py",
        "hparams/evaluate.yaml",
        f"--export_folder=[{out / 'export'}, {out / 'export_grid_lda'}]",
        f"--data_folder={finished / 'grid'}",
        f"--output_folder={finished / 'evaluation'}",
        f"--cache_folder={finished / 'features'}",
        "--evaluated_split=test",
        "--tasks=[leakage]",
        "--leakage_factors=[speaker, content, rate]",
        "--resamples=20",
    )
    results = json.loads((finished / "evaluation/results.json").read_text())
    for condition in ("clean", "shifted"):
        report = results["conditions"][condition]["leakage"]
        assert {f: v["values"] for f, v in report["factors"].items()} == {
            "speaker": 4,
            "content": 5,
            "rate": 3,
        }
        for system in ("joint", "grid_lda"):
            for subspace in FACTORS:
                entry = report["subspaces"][f"{system} {subspace}"]
                assert list(entry["probe"]) == list(entry["eer"]) == FACTORS
    # Voices and sentences are new; the closed form tells all three apart.
    lda = results["conditions"]["clean"]["leakage"]["subspaces"]
    for subspace in FACTORS:
        eer = lda[f"grid_lda {subspace}"]["eer"]
        assert min(eer, key=eer.get) == subspace and eer[subspace] < 0.4, eer
    assert "linear probe of rate: chance 33.3 %" in printed
