"""Stages of the main job: CPU time beside an earlier checkout's.

    python tests/benchmarks/stages.py EARLIER_CHECKOUT [REPEATS]

Runs the README's main job of that checkout and of this one by turns, each in a
new folder (3 times); CPU seconds of each stage (its processes and those that it
started), medians, and the ratio. "rest" is start, checks and reports.
"""

import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import clock
import numpy as np

HERE = Path(__file__).parents[2]
RECIPE = "recipes/InterventionalTTS/post-training"
# Stage -> functions of train.py, in this checkout or an earlier one.
STAGES = {
    "render": ("prepare_grid", "run_on_main"),
    "encode": ("encode_planned",),
    "choose layers": ("choose",),
    "train the network": ("fit_network",),
    "fit closed forms": ("fit_heads",),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "page": ("write_page",),
}


def cpu_seconds():
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def timed_run(folder):
    """The main job in this process; prints its stages as JSON."""
    sys.path.insert(0, ".")
    import train

    spent, open_stages = collections.Counter(), []

    def timed(stage, function):
        """The function, whose time counts for its stage alone."""

        def call(*args, **kwargs):
            begin = cpu_seconds()
            open_stages.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took, inner = cpu_seconds() - begin, open_stages.pop()
                spent[stage] += took - inner
                if open_stages:
                    open_stages[-1] += took

        return call

    for stage, names in STAGES.items():
        for name in names:
            if hasattr(train, name):
                setattr(train, name, timed(stage, getattr(train, name)))
    folders = [
        f"--{name}_folder={folder}/{name}"
        for name in ("data", "output", "cache")
    ]
    options = ["hparams/interventional.yaml", *folders, "--noprogressbar"]
    timed("rest", train.main)(options)
    print(json.dumps(spent))


def stages_of(checkout):
    """CPU seconds of the stages of one run of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, __file__, "--timed", folder],
            cwd=Path(checkout, RECIPE),
            env=os.environ | {"PYTHONPATH": str(Path(checkout).absolute())},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    return json.loads(found.stdout.splitlines()[-1])


def measure(earlier, repeats=3):
    """A row for each stage."""
    runs = [[stages_of(one) for one in (earlier, HERE)] for _ in range(repeats)]
    table = {}
    for stage in ("all", *STAGES, "rest"):
        spent = [
            [sum(one.values()) if stage == "all" else one[stage] for one in run]
            for run in runs
        ]
        before, now = np.array(spent).T
        table[stage] = {
            "before, s": np.median(before),
            "now, s": np.median(now),
            "ratio": clock.spread(now / before),
        }
    return table


if __name__ == "__main__":
    if sys.argv[1] == "--timed":
        timed_run(sys.argv[2])
    else:
        clock.main(measure)
