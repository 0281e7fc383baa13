"""All benchmarks of speed, one after the other, into one JSON file.

    python tests/benchmarks/all.py OUT.json [--grid GRID] \\
        [--recordings SOURCE] [--earlier CHECKOUT] [--upstream CHECKOUT] \\
        [--quick] [NAME ...]
    python tests/benchmarks/all.py OUT.json --table

Each runs in a process of its own, on one thread. GRID is a rendered grid
(``data_folder`` of ``interventional.yaml``), SOURCE a folder or manifest of
recordings (the option may be given again), CHECKOUT one of an earlier version,
and one of SpeechBrain.
What lacks its input is left out, with the reason in the file; where one fails,
its error is there, the others go on, and the exit status is 1. The last two,
which train, run where they are named. ``--quick`` shows in some minutes, with
small sizes, that all work. ``--table`` prints such a file as Markdown.
"""

import argparse
import datetime
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path

import clock

from speechbrain_ext.utils.files import write_json

HERE = Path(__file__).parent
PACKAGES = ("torch", "numpy", "scipy", "speechbrain", "transformers")


def runs_of(grid, recordings, earlier, upstream):
    """Name -> arguments of measure() in calls of their own; with --quick."""

    def each(*given):
        return [(one, *given) for one in recordings]

    full = {
        "extraction_speed": [
            (grid, "mini", 128),
            (grid, "mini", 1000, 3),
            (grid, "log_mel", 512, 9, 1),
            *each("mini", 64, 5),
            *each("mini", 500, 3),
        ],
        "step_speed": [()],
        "onnx_speed": [(5,)],
        "sparse_grid": [()],
        "manifest_scale": [()],
        "metrics_at_scale": [(10**7, 3)],
        "closed_forms": [()],
        "group_norm": each("wav2vec2", "small"),
        "upstream_error_rates": [(upstream,)],
        "two_processes": [(grid,)],
        "stages": [(earlier,)],
    }
    quick = full | {
        "extraction_speed": [(grid, "log_mel", 32, 1, 1), *each("mini", 8, 1)],
        "step_speed": [(1,)],
        "onnx_speed": [(1,)],
        "sparse_grid": [(20_000, 1)],
        "manifest_scale": [(1000,)],
        "metrics_at_scale": [(20_000, 1)],
        "closed_forms": [(2000, 64, "channel_lda", "pca", "leakage")],
        "group_norm": each("wav2vec2", "small", 1, 1),
        "upstream_error_rates": [(upstream, 1, 5, 1000)],
        "stages": [(earlier, 1)],
    }
    return full, quick


def measure(name, given):
    """What a benchmark measures; called in a process of its own."""
    return importlib.import_module(name).measure(*given)


def run(name, calls):
    """The entry of a benchmark: its rows, and what went wrong."""
    rows, entry, begin = {}, {}, time.monotonic()
    for given in calls:
        missing = [one for one in given if str(one).startswith("--")]
        if missing:
            entry["left out"] = f"what needs {missing[0]}, which is not given"
            continue
        try:
            rows |= clock.fresh(measure, name, given)
        except Exception as error:  # with the trace of its process
            trace = "".join(traceback.format_exception(error))
            entry["error"] = entry.get("error", "") + trace
    minutes = (time.monotonic() - begin) / 60
    return entry | {"minutes": round(minutes, 2), "rows": rows}


def machine():
    """What the numbers are of."""
    git = ("git", "-C", str(HERE), "describe", "--always", "--dirty")
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if "model name" in line]
    return {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "commit": commit,
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def tables(found):
    """Markdown of a file."""
    for name, entry in found["benchmarks"].items():
        yield f"## {name}, {entry['minutes']} minutes\n"
        for kind in ("left out", "error"):
            if kind in entry:
                yield f"{kind}: {entry[kind]}\n"
        if entry["rows"]:
            yield clock.table(entry["rows"]) + "\n"


def main():
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--grid", default="--grid")
    parser.add_argument("--earlier", default="--earlier")
    parser.add_argument("--upstream", default="--upstream")
    parser.add_argument("--recordings", action="append")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_intermixed_args()
    if args.table:
        print(*tables(json.loads(args.out.read_text())), sep="\n")
        return
    recordings = args.recordings or ["--recordings"]
    runs = runs_of(args.grid, recordings, args.earlier, args.upstream)
    runs = runs[args.quick]
    unknown = sorted(set(args.names) - set(runs))
    if unknown:
        parser.error(f"no benchmark {unknown}; there are {', '.join(runs)}")
    found = {"machine": machine(), "quick": args.quick, "benchmarks": {}}
    for name in args.names or [*runs][:-2]:
        entry = run(name, runs[name])
        found["benchmarks"][name] = entry
        write_json(args.out, found)
        print(*tables({"benchmarks": {name: entry}}), sep="\n", flush=True)
    sys.exit(any("error" in one for one in found["benchmarks"].values()))


if __name__ == "__main__":
    main()
