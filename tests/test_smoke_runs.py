"""train.py --debug: all stages on stand-ins, in a folder of its own."""

import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, call_script
from crema_d import make_corpus
from tiny_models import tiny_teacher

from speechbrain_ext.evaluation.results import read_results
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.utils.files import read_csv

# Of a row of tests/recipes, what makes a student of the tiny teacher.
STUDENT = "--width --teacher_layers --copied_layers --config --tasks".split()


def smoke(recipe, hparams, folder, *options):
    """Run it as a user would, without --device; returns what was printed."""
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / recipe / "train.py",
         ROOT / "recipes" / recipe / "hparams" / hparams, "--debug",
         *options],
        cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("persistently", [False, True])
def test_synthesised_grid(tmp_path, persistently):
    pytest.importorskip("espeakng_loader")
    flags = ["--output_folder=out"]
    flags += ["--debug_persistently"] * persistently
    printed = smoke("InterventionalTTS/post-training", "interventional.yaml",
                    tmp_path, *flags)  # fmt: skip
    out = tmp_path / ("out" if persistently else "out/debug")
    about = read_results(out)["about"]
    assert about["smoke_run"]["n_train_voices"] == 6
    assert about["grid"]["factors"] == {"speaker": 6, "content": 6}
    SubspaceEncoder.from_hparams(out / "export")
    page = (out / "report.html").read_text()
    assert "SMOKE RUN" in page and page.count("<audio") > 4
    assert any((out / "save").glob("CKPT*")) == persistently
    assert [p.name for p in (tmp_path / "data").iterdir()] == [
        "InterventionalTTS_debug"
    ]
    # The plan, and no line twice
    assert "To encode: 0.1" in printed and "(there already: nothing)" in printed
    lines = (out / "log.txt").read_text().splitlines()
    said = [line.split(" - ", 1)[1] for line in lines if " - " in line]
    own = [line for line in said if line.startswith("speechbrain_ext")]
    assert len(own) == len(set(own)) > 3
    assert not [line for line in said if line.startswith("matplotlib")]


def test_three_factors_of_a_corpus(tmp_path):
    make_corpus(tmp_path / "corpus")
    smoke(
        "CREMA-D/post-training", "three_factors.yaml", tmp_path,
        "--data_folder=corpus", "--output_folder=out",
        "--split_ratios=[2, 1, 1]",
        "--train_block={speaker: 2, content: 2, emotion: 2}",
    )  # fmt: skip
    assert "SMOKE RUN" in (tmp_path / "out/debug/report.txt").read_text()
    about = read_results(tmp_path / "out/debug")["about"]
    assert about["smoke_run"] == {  # what was not the user's
        "cache_folder": "out/debug/features",
        "output_folder": "out/debug",
    }


def test_pretraining(tmp_path):
    pytest.importorskip("espeakng_loader")
    tiny_teacher(tmp_path / "teacher")
    row = read_csv(ROOT / "tests/recipes/MiniEncoder.csv")[0]
    flags = shlex.split(row["test_debug_flags"])
    student = [flag for flag in flags if flag.split("=")[0] in STUDENT]
    printed = smoke(
        "MiniEncoder/pretraining", "train.yaml", tmp_path,
        "--teacher_source=teacher", "--output_folder=out", *student,
    )  # fmt: skip
    assert (tmp_path / "out/debug/model/model.safetensors").is_file()
    assert "n_speakers" in printed


def test_evaluation(small_grid, tmp_path):
    """Six speakers, in a folder of its own, and it says so."""
    call_script(
        ROOT / "recipes/InterventionalTTS/post-training/evaluate.py",
        "hparams/evaluate.yaml",
        "--export_folder=packaged",
        f"--data_folder={small_grid}",
        f"--output_folder={tmp_path}",
        f"--cache_folder={tmp_path}/features",
        *("--tasks=[verification]", "--conditions=[recorded]"),
        *("--debug", "--device=cpu", "--noprogressbar"),
    )
    about = read_results(tmp_path / "debug")["about"]
    assert about["speakers"] == 6
    assert about["smoke_run"]["resamples"] == 10
    assert "SMOKE RUN" in (tmp_path / "debug/report.txt").read_text()
