"""What the benchmarks share: clocks, memory and tables.

It is imported before NumPy and torch, which then compute on one thread. Each
benchmark has a function ``measure``, which gives row -> column -> a number, a
word, or [median, least, most] of some rounds.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import resource
import sys
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np


def all_clocks():
    """Seconds: CPU, CPU of processes that it started and that ended, wall."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = others.ru_utime + others.ru_stime
    return time.process_time(), spent, time.monotonic()


def by_turns(functions, rounds, clock=time.process_time):
    """Seconds of functions {name: function}, each called once in a round.

    The clock gives seconds or several of them; arrays [rounds] or [rounds,
    clocks] for each name.
    """
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = clock()
            function()
            times[name].append(np.subtract(clock(), begin))
    return {name: np.array(found) for name, found in times.items()}


def spread(values):
    """[median, least, most]."""
    return [float(of(values)) for of in (np.median, np.min, np.max)]


def fresh(function, *given):
    """What a function of a module gives in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *given).result()


def peak(function):
    """Bytes that a function takes, the first one in a fresh process (Linux)."""

    def held(name):
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        [line] = (line for line in lines if line.startswith(name))
        return int(line.split()[1]) * 1024

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget VmHWM
    before = held("VmRSS")
    function()
    return held("VmHWM") - before


def traced(function):
    """What a function gives, its bytes, and the most that it took (NumPy)."""
    tracemalloc.start()
    result = function()
    found = result, *tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found


def table(rows):
    """Markdown of row -> column -> number, word or [median, least, most]."""

    def text(value):
        if isinstance(value, list):
            middle, least, most = map(text, value)
            return f"{middle} ({least} to {most})"
        if isinstance(value, str):
            return value
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    columns = list(dict.fromkeys(one for row in rows.values() for one in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        cells = (text(row[one]) if one in row else "" for one in columns)
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(measure):
    """Print what is measured with the arguments of the command line."""

    def number(text):
        try:
            return int(float(text))
        except ValueError:
            return text

    print(table(measure(*map(number, sys.argv[1:]))))
