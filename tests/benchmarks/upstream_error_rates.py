"""SpeechBrain's EER and minDCF before and after what we contribute.

    python tests/benchmarks/upstream_error_rates.py CHECKOUT \\
        [ROUNDS [SECONDS [TRIALS ...]]]

CHECKOUT is a clone of SpeechBrain: "before" is its commit, "after" the part
``fast-error-rates`` of ``tests/upstream/series`` on it, in work trees of their
own. 10,000 and 1,000,000 trials, half of them positive, single precision. Each
call is the first one in a process of its own, on one thread, by turns (5
rounds, or one where it takes over a minute): CPU seconds, their ratio, and MB
(10^6 bytes) of additional memory at the peak. What both give must be equal. A
call may use 8 GB of address space and SECONDS (2,400) of wall time: of one that
does not fit, the table has the memory that the allocator was asked for, or that
it was stopped.
"""

import re
import resource
import signal
import sys
import time
from pathlib import Path

import clock
import numpy as np
import torch

UPSTREAM = Path(__file__).resolve().parent.parent / "upstream"
MEMORY = 8 * 10**9


def stop(*_):
    """What the alarm does."""
    raise TimeoutError


def call(tree, name, trials, seconds):
    """Seconds, bytes and results of a function; a word if it does not fit.

    Arguments
    ---------
    tree : str
        A checkout, of which SpeechBrain is imported.
    name : str
        "EER" or "minDCF".
    trials : int
        Half of them positive.
    seconds : int
        When it is stopped.

    Returns
    -------
    (float, int, (float, float)) or str
    """
    sys.path.insert(0, tree)
    from speechbrain.utils import metric_stats

    assert Path(metric_stats.__file__).is_relative_to(tree)
    metric = getattr(metric_stats, name)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, trials // 2, generator=generator)
    scores[0] += 2
    metric(*scores[:, :10])  # What the first call loads is not counted.
    found = []

    def timed():
        begin = time.process_time()
        found.append(metric(*scores))
        found.append(time.process_time() - begin)

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        most = clock.peak(timed)
    except TimeoutError:
        return f"stopped after {seconds} s"
    except RuntimeError as error:
        asked = re.search(r"tried to allocate (\d+) bytes", str(error))
        if not asked:
            raise
        return f"asks for {int(asked[1]) / 1e9:,.0f} GB"
    finally:
        signal.alarm(0)
    return found[1], most, found[0]


def compare(trees, name, trials, seconds, rounds):
    """The row of a function."""
    found = {which: [] for which in trees}
    begin = time.monotonic()
    while len(found["after"]) < rounds:
        for which, tree in trees.items():
            if not any(isinstance(one, str) for one in found[which]):
                got = clock.fresh(call, tree, name, trials, seconds)
                found[which].append(got)
        if time.monotonic() - begin > 60 and len(found["after"]) == 1:
            break
    row, times = {}, {}
    for which, calls in found.items():
        if isinstance(calls[-1], str):
            row[f"{which}, s"] = row[f"{which}, MB"] = calls[-1]
            continue
        times[which], most, values = map(np.array, zip(*calls))
        row[f"{which}, s"] = clock.spread(times[which])
        row[f"{which}, MB"] = np.median(most) / 1e6
        assert (values == found["after"][0][2]).all()
    if len(times) == 2:
        row["before / after"] = clock.spread(times["before"] / times["after"])
    return row


def measure(checkout, rounds=5, seconds=2400, *counts):
    """A row for each function and number of trials."""
    sys.path.insert(0, str(UPSTREAM))
    import contribute

    [part] = contribute.read_series(["fast-error-rates"])
    root = Path(checkout).resolve()
    contribute.check_checkout(root, [])
    with (
        contribute.work_tree(root, "--detach") as before,
        contribute.work_tree(root, "--detach") as after,
    ):
        part.write(after, [])
        trees = {"before": str(before), "after": str(after)}
        return {
            f"{name} of {trials:,}": compare(
                trees, name, trials, seconds, rounds
            )
            for trials in counts or (10**4, 10**6)
            for name in ("EER", "minDCF")
        }


if __name__ == "__main__":
    clock.main(measure)
