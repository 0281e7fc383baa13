"""All benchmarks of speed, one after the other, into one JSON file.

    python tests/benchmarks/all.py OUT.json [--grid GRID] \\
        [--recordings SOURCE] [--earlier CHECKOUT] [--quick] [NAME ...]
    python tests/benchmarks/all.py OUT.json --table

Each runs in a process of its own, on one thread. GRID is a rendered grid
(``data_folder`` of ``interventional.yaml``), SOURCE a folder or manifest of
recordings (the option may be given again), CHECKOUT one of an earlier version.
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
INPUTS = ("GRID", "RECORDINGS", "EARLIER")
# Name -> arguments of measure() in calls of their own, then those of --quick.
# One of INPUTS stands for what is given; RECORDINGS for each of them.
RUNS = {
    "embed_speed": (
        [("GRID", 1000), ("RECORDINGS", 1000)],
        [("GRID", 32, 1), ("RECORDINGS", 8, 1)],
    ),
    "extraction_speed": (
        [
            ("GRID", "mini", 128),
            ("RECORDINGS", "mini", 64, 5),
            ("GRID", "log_mel", 512, 9, 1),
        ],
        [("RECORDINGS", "mini", 8, 1), ("GRID", "log_mel", 32, 1, 1)],
    ),
    "encoder_rate": ([()], [(1, 1)]),
    "step_speed": ([()], [(1,)]),
    "onnx_speed": ([(5,)], [(1,)]),
    "sparse_grid": ([()], [(20_000, 1)]),
    "manifest_scale": ([()], [(1000,)]),
    "metrics_at_scale": ([(10**7, 3)], [(20_000, 1)]),
    "closed_forms": ([()], [(2000, 64, "channel_lda", "pca", "leakage")]),
    "group_norm": (
        [("RECORDINGS", "wav2vec2", "small")],
        [("RECORDINGS", "wav2vec2", "small", 1, 1)],
    ),
    "two_processes": ([("GRID",)],) * 2,
    "stages": ([("EARLIER",)], [("EARLIER", 1)]),
}
NAMED_ONLY = ("two_processes", "stages")


def measure(name, given):
    """What a benchmark measures; called in a process of its own."""
    return importlib.import_module(name).measure(*given)


def calls_of(name, inputs, quick):
    """Arguments of the calls of a benchmark, and inputs that are not given."""
    calls, missing = [], set()
    for given in RUNS[name][quick]:
        needed = [one for one in given if one in INPUTS]
        missing |= {one for one in needed if not inputs[one]}
        for source in inputs["RECORDINGS"] or [None]:
            values = inputs | {"RECORDINGS": source}
            call = [values.get(one, one) for one in given]
            if None not in call and call not in calls:
                calls.append(call)
    return calls, sorted(missing)


def run(name, inputs, quick):
    """The entry of a benchmark: its rows, and what went wrong."""
    calls, missing = calls_of(name, inputs, quick)
    rows, entry, begin = {}, {}, time.monotonic()
    if missing:
        flags = " ".join(f"--{one.lower()}" for one in missing)
        entry["left out"] = f"what needs {flags}, which is not given"
    for given in calls:
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


def arguments():
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--grid")
    parser.add_argument("--earlier")
    parser.add_argument("--recordings", action="append")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_intermixed_args()
    unknown = sorted(set(args.names) - set(RUNS))
    if unknown:
        parser.error(f"no benchmark {unknown}; there are {', '.join(RUNS)}")
    return args


def main():
    """Run what is asked for."""
    args = arguments()
    if args.table:
        print(*tables(json.loads(Path(args.out).read_text())), sep="\n")
        return
    inputs = {one: getattr(args, one.lower()) for one in INPUTS}
    found = {"machine": machine(), "quick": args.quick, "benchmarks": {}}
    for name in args.names or (one for one in RUNS if one not in NAMED_ONLY):
        print(name, flush=True)
        entry = run(name, inputs, args.quick)
        found["benchmarks"][name] = entry
        write_json(args.out, found)
        print(*tables({"benchmarks": {name: entry}}), sep="\n", flush=True)
    sys.exit(any("error" in one for one in found["benchmarks"].values()))


if __name__ == "__main__":
    main()
