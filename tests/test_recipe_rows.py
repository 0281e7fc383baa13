"""The rows of tests/recipes: files exist, and the flags run."""

import csv
import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

ROWS = {
    path.stem: list(csv.DictReader(path.open(encoding="utf-8")))
    for path in sorted((ROOT / "tests/recipes").glob("*.csv"))
}
# Scripts of SpeechBrain that our option files go with.
UPSTREAM = (
    "recipes/VoxCeleb/SpeakerRec/speaker_verification",
    "recipes/VoxCeleb/SpeakerRec/voxceleb_prepare.py",
    "recipes/Google-speech-commands/train.py",
    "recipes/Google-speech-commands/prepare_GSC.py",
)


@pytest.mark.parametrize("name", ROWS)
def test_files_exist(name):
    for row in ROWS[name]:
        for column, path in row.items():
            if column.endswith("_file") and path:
                assert path.startswith(UPSTREAM) or (ROOT / path).is_file()


def test_main_recipe_runs_with_the_flags_of_its_rows(tmp_path):
    """As SpeechBrain's own recipe tests call it, first row first."""
    pytest.importorskip("espeakng_loader")
    for number, row in enumerate(ROWS["InterventionalTTS"]):
        script = ROOT / row["Script_file"]
        output = tmp_path / f"output{number}"
        subprocess.run(
            [
                sys.executable,
                script,
                ROOT / row["Hparam_file"],
                f"--output_folder={output}",
                *shlex.split(row["test_debug_flags"]),
                "--debug",
                "--debug_persistently",
                "--device=cpu",
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(script.parent)},
            check=True,
            capture_output=True,
        )
        wanted = row["test_debug_checks"].split("[")[1].rstrip("]")
        for name in wanted.split(","):
            assert (output / name).is_file(), name
