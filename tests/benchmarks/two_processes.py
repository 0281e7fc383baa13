"""Two processes of torchrun beside one, and with processes that are killed.

    python tests/benchmarks/two_processes.py GRID [WORK]

GRID is a rendered grid (data_folder of interventional.yaml), WORK a new folder.
Rows are the differences in losses, heads and results after 480 steps, and those
of a smaller run that was killed at five moments from one that was not; and for
each moment, after how long the other process had ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import clock
import torch
import yaml

from speechbrain_ext.evaluation.results import read_results

RECIPE = Path(__file__).parents[2] / "recipes/InterventionalTTS/post-training"
COMMON = ("--device=cpu", "--noprogressbar")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
# 15 epochs of 64 x 64 in blocks of 8 x 16: 480 steps
LONG = ("hparams/recorded_grid.yaml", "--encoder=mini", "--number_of_epochs=15")
LONG += ("--train_block={speaker: 8, content: 16}",)
SIZES = {"train": (12, 16), "valid": (4, 16), "test": (6, 16)}
SHORT = ("hparams/interventional.yaml", "--number_of_epochs=40")
SHORT += ("--train_block={speaker: 4, content: 8}",)
for split, (n_voices, n_sentences) in SIZES.items():
    SHORT += (f"--n_{split}_voices={n_voices}",)
    SHORT += (f"--n_{split}_sentences={n_sentences}",)


def start(work, processes, *options, cache="features"):
    """train.py in one process or in two."""
    launcher = TORCHRUN if processes > 1 else ()
    folders = f"--output_folder={work}/out", f"--cache_folder={work / cache}"
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "log.txt", "a") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, "train.py", *options]
            + [*folders, *COMMON],
            cwd=RECIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def last_loss(out):
    """Validation loss of the newest checkpoint."""
    newest = max(out.glob("save/CKPT*/CKPT.yaml"), key=os.path.getmtime)
    return yaml.safe_load(newest.read_text())["loss"]


def differences(one, other):
    """By how much two runs differ: loss, heads, results."""
    one, other = one / "out", other / "out"
    found = {"loss": abs(last_loss(one) - last_loss(other))}
    for export in sorted(one.glob("export*")):
        first, second = (
            torch.load(out / export.name / "network.ckpt")
            for out in (one, other)
        )
        found[export.name] = max(
            (value - second[key]).abs().max().item()
            for key, value in first.items()
        )
    rows = (read_results(out)["rows"] for out in (one, other))
    for row, again in zip(*rows, strict=True):
        same = ("system", "subspace", "condition", "task", "measure")
        assert all(row[name] == again[name] for name in same)
        measure = row["measure"]
        difference = abs(row["value"] - again["value"])
        found[measure] = max(found.get(measure, 0), difference)
    return found


def is_encoded(features):
    """Whether the last cache has its name."""
    return any(not one.suffix for one in features.glob("*-channels-*"))


def ranks(launcher):
    """Rank -> number of the process, of a call of torchrun."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # has ended
            continue
        if int(parent) == launcher.pid:
            named = dict(one.partition(b"=")[::2] for one in variables)
            if b"RANK" in named:
                found[int(named[b"RANK"])] = int(folder.name)
    return found


def kill(work, rank, moment, reached, *options):
    """Kill one process at a moment: seconds until the other has ended."""
    launcher = start(work, 2, *options)
    while not reached():
        if launcher.poll() is not None:
            raise RuntimeError(f"{moment}: ended before, see {work}/log.txt")
        time.sleep(0.01)
    known = ranks(launcher)
    os.kill(known[rank], signal.SIGKILL)
    begin = time.monotonic()
    launcher.wait(120)
    assert not any(Path(f"/proc/{one}").exists() for one in known.values())
    return time.monotonic() - begin


def finish(work, processes, *options, **more):
    """Seconds of a run that is to end well."""
    begin = time.monotonic()
    if start(work, processes, *options, **more).wait():
        raise RuntimeError(f"Failed, see {work}/log.txt")
    return time.monotonic() - begin


def measure(grid, work=None):
    """Long runs side by side, then a short one that is killed."""
    work = Path(work or tempfile.mkdtemp()).resolve()
    long = (*LONG, f"--data_folder={Path(grid).resolve()}")
    # Of the same features, so that only the rest differs
    walls = {
        f"{n} processes, wall s": finish(
            work / str(n), n, *long, cache="../features"
        )
        for n in (1, 2)
    }
    rows = {"two processes": differences(work / "1", work / "2") | walls}
    # Killed at five moments, called again each time
    calm, wild = work / "calm", work / "killed"
    finish(calm, 2, *SHORT, f"--data_folder={calm}/data")
    options, out = (*SHORT, f"--data_folder={wild}/data"), wild / "out"
    moments = (
        (1, "rendering", lambda: len([*wild.glob("data/wav/*/*.wav")]) > 20),
        (0, "encoding", lambda: any(wild.glob("features/*take1*.partial"))),
        (1, "choosing", lambda: is_encoded(wild / "features")),
        (1, "training", lambda: any(out.glob("save/CKPT*"))),
        (0, "exporting", lambda: (out / "results.csv").exists()),
    )
    ended = {
        f"{moment[1]}, s": kill(wild, *moment, *options) for moment in moments
    }
    finish(wild, 2, *options)
    return rows | {"killed": differences(calm, wild) | ended}


if __name__ == "__main__":
    clock.main(measure)
