"""The scripts for a cluster in the recipe's README, as they stand there."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from speechbrain_ext.evaluation.results import read_results

RECIPE = ROOT / "recipes/InterventionalTTS/post-training"
# Runs a command once for each of two nodes, at the same time.
SRUN = """#!/bin/bash
export SLURM_NTASKS=2 SLURM_LAUNCH_NODE_IPADDR=127.0.0.1
SLURM_PROCID=1 "$@" &
SLURM_PROCID=0 "$@" && wait $!
"""


def script(mark):
    """The block of the README that has a mark, with a port that is free."""
    text = (RECIPE / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    [block] = [one for one in blocks if mark in one]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return block.replace("29500", str(free.getsockname()[1]))


@pytest.fixture
def call(small_grid, tmp_path):
    """Runs a script of the README on a small grid."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(SRUN)
    (programs / "srun").chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(mark, **variables):
        done = subprocess.run(
            [
                *("bash", "-c", script(mark), "job"),
                "hparams/recorded_grid.yaml",
                f"--data_folder={small_grid}",
                f"--output_folder={tmp_path}/out",
                f"--cache_folder={tmp_path}/features",
                *(
                    "--train_block={speaker: 3, content: 4}",
                    "--device=cpu",
                    "--noprogressbar",
                ),
                *("--number_of_epochs=1", "--augmented_takes=1"),
                "--lr_interval=epoch",
            ],
            cwd=RECIPE,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"} | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_an_array_of_jobs(call, tmp_path):
    for index in ("0", "1"):
        array = {"SLURM_ARRAY_TASK_ID": index, "SLURM_ARRAY_TASK_COUNT": "2"}
        assert f"Shard [{index}, 2] is encoded" in call("--array", **array)
    found = {path.name for path in tmp_path.glob("features/*-recorded-*/*")}
    assert {f"features-{part}-of-2.npy" for part in range(2)} <= found


def test_two_nodes(call, tmp_path):
    printed = call("--nnodes")
    assert printed.count("out/report.html") == 1
    assert read_results(tmp_path / "out")["about"]["number_of_epochs"] == 1
    # Each encoded a part.
    found = {path.name for path in tmp_path.glob("features/*-recorded-*/*")}
    assert {f"features-{part}-of-2.npy" for part in range(2)} <= found
