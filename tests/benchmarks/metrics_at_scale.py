"""What verification, probes and trial lists cost when there are many trials.

    python tests/benchmarks/metrics_at_scale.py [trials [rounds]]

CPU time of one thread, each beside a plain operation on the same data, by
turns: medians of the rounds (default 5) for 1,000,000 trials, and for a tenth
where it tells what grows. Memory is the most that is held at a time beside the
input. The default takes two minutes, 10,000,000 trials ten; the bootstrap has
a million at most.
"""

import logging
import pathlib
import sys
import tempfile
import time
import tracemalloc

import numpy as np
from threadpoolctl import threadpool_limits

from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.metrics.trials import (
    Trials,
    generate_trials,
    read_trials,
    write_trials,
)
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import sort_trials

UTTERANCES, DIMS = 100_000, 256


def compare(what, function, plain, count, unit="trial", rounds=5):
    """Print seconds, their ratio, and bytes for each of ``count``."""
    times = []
    for _ in range(rounds):
        row = []
        for one in (function, plain[1]):
            start = time.process_time()
            one()
            row.append(time.process_time() - start)
        times.append(row)
    ours, theirs = np.median(times, axis=0)
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(
        f"{what:42} {ours:8.3f} s {ours / count * 1e6:8.3f} us/{unit} "
        f"{ours / theirs:6.2f} x {plain[0]} {peak / count:6.0f} B/{unit}",
        flush=True,
    )


def error_rates(count, rng, rounds):
    """EER and minDCF, and minCllr, beside a sort of the scores."""
    for share in (0.05, 0.2, 0.5):
        labels = (rng.random(count) < share).astype(int)
        scores = rng.normal(size=count) + 2 * labels
        plain = ("np.sort", lambda s=scores: np.sort(s))

        def two(scores=scores, labels=labels):
            trials = sort_trials(scores, labels)
            return trials.equal_error_rate(), trials.min_dcf()

        what = f"EER and minDCF, {share:.0%} targets"
        compare(what, two, plain, count, rounds=rounds)
    compare(
        "minCllr alone, 50% targets",
        lambda: sort_trials(scores, labels).min_cllr(),
        plain,
        count,
        rounds=rounds,
    )


def lists_and_scores(count, rng, rounds):
    """A list that is read, and scored, on 100,000 utterances."""
    ids = [f"id{n // 100:05d}/clip{n:08d}" for n in range(UTTERANCES)]
    enrol, test = rng.integers(UTTERANCES, size=(2, count))
    test = np.where(test == enrol, (test + 1) % UTTERANCES, test)
    trials = Trials(enrol, test, (enrol // 100 == test // 100).astype(int))
    vectors = rng.normal(size=(UTTERANCES, DIMS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "trials.txt")
        write_trials(path, trials, ids)

        def split():
            with open(path, encoding="utf-8") as file:
                for line in file:
                    line.split()

        plain, copy = ("line.split()", split), path.with_name("again.txt")
        for what, function in (
            ("read_trials", lambda: read_trials(path, ids)),
            ("write_trials", lambda: write_trials(copy, trials, ids)),
        ):
            compare(what, function, plain, count, rounds=min(rounds, 3))
    for part in (count // 10, count):
        some = Trials(enrol[:part], test[:part], None)

        def gather(some=some, step=1 << 11):
            for start in range(0, len(some), step):
                for rows in (some.enrol, some.test):
                    vectors[rows[start : start + step]]

        compare(
            f"cosine of {part} trials",
            lambda some=some: some.score(vectors),
            ("gathering the rows", gather),
            part,
            rounds=rounds,
        )


def intervals(count, rng, rounds):
    """EER in 1,000 resamples of 1,000 speakers."""
    speakers = np.repeat(np.arange(1000), 30)
    for part in (count // 10, count):
        trials = generate_trials(
            speakers, max_targets=part // 5, max_nontargets=part - part // 5
        )
        scores = rng.normal(size=len(trials)) + 2 * trials.label
        resamples = SpeakerResamples(speakers)

        ones = np.ones(len(trials))
        compare(
            f"EER of {len(trials)} in 1,000 resamples",
            lambda t=trials, s=scores, r=resamples: r.eer(s, t),
            ("1,000 sums", lambda one=ones: [one.sum() for _ in range(1000)]),
            len(trials),
            rounds=min(rounds, 3),
        )


def probes(rng, rounds):
    """A probe in 5 and 10 folds, beside one product of all its rows."""
    speakers, contents = np.divmod(np.arange(20_000), 200)
    vectors = rng.normal(size=(100, 512))[speakers] / 3
    vectors += rng.normal(size=vectors.shape)
    for folds in (5, 10):
        compare(
            f"probe of 20,000 x 512 in {folds} folds",
            lambda k=folds: linear_probe(vectors, speakers, contents, k),
            ("X.T @ X in float64", lambda: vectors.T @ vectors),
            len(vectors),
            "row",
            rounds=rounds,
        )


def main(count, rounds):
    """Run all and print."""
    logging.disable(logging.WARNING)  # pairs that are drawn twice
    rng = np.random.default_rng(0)
    error_rates(count, rng, rounds)
    lists_and_scores(count, rng, rounds)
    intervals(min(count, 10**6), rng, rounds)
    probes(rng, rounds)


if __name__ == "__main__":
    given = [int(float(one)) for one in sys.argv[1:]]
    with threadpool_limits(1):
        main(*(given + [1_000_000, 5][len(given) :]))
