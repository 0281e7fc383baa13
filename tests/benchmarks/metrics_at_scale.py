"""What verification, probes and trial lists cost when there are many trials.

    python tests/benchmarks/metrics_at_scale.py [TRIALS [ROUNDS]]

CPU time of one thread, each beside a plain operation on the same data, by
turns (5 rounds): for 1,000,000 trials, and for a tenth where it tells what
grows; beside SpeechBrain's error rates for 5,000, since its minDCF takes memory
that grows with their square. The bytes of a trial (of a row, for probes) are
the most that is held at a time beside the input. Lists and the bootstrap have a
million trials at most.
"""

import logging
import pathlib
import tempfile
from functools import partial

import clock
import numpy as np
import torch

from speechbrain.utils.metric_stats import EER, minDCF
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


def compare(function, plain, plain_function, count, rounds):
    """The row of a function beside a plain one, for so many trials."""
    measured = {"ours": function, "plain": plain_function}
    times = clock.by_turns(measured, rounds)
    return {
        "us": 1e6 * np.median(times["ours"]) / count,
        "bytes": clock.traced(function)[2] / count,
        "ratio": clock.spread(times["ours"] / times["plain"]),
        "beside": plain,
    }


def rates(scores, labels):
    """EER and minDCF."""
    trials = sort_trials(scores, labels)
    return trials.equal_error_rate(), trials.min_dcf()


def error_rates(count, rng, rounds):
    """Beside a sort of the scores, and beside SpeechBrain."""
    for share in (0.05, 0.2, 0.5):
        labels = (rng.random(count) < share).astype(int)
        scores = rng.normal(size=count) + 2 * labels
        plain = "np.sort", partial(np.sort, scores)
        yield (
            f"EER and minDCF of {count:,}, {share:.0%} targets",
            compare(partial(rates, scores, labels), *plain, count, rounds),
        )
    alone = compare(
        lambda: sort_trials(scores, labels).min_cllr(), *plain, count, rounds
    )
    yield f"minCllr of {count:,}, 50% targets", alone
    few = scores[:5000], labels[:5000]
    sides = [torch.tensor(few[0][few[1] == one]) for one in (1, 0)]
    theirs = "SpeechBrain's", lambda: (EER(*sides), minDCF(*sides))
    row = compare(partial(rates, *few), *theirs, 5000, rounds)
    yield "EER and minDCF of 5,000, 50% targets", row


def lists(trials, ids, rounds):
    """A list that is written and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "trials.txt")
        write_trials(path, trials, ids)

        def split():
            with open(path, encoding="utf-8") as file:
                for line in file:
                    line.split()

        copy = path.with_name("again.txt")
        for what, function in (
            ("read_trials", lambda: read_trials(path, ids)),
            ("write_trials", lambda: write_trials(copy, trials, ids)),
        ):
            row = compare(function, "line.split()", split, len(trials), rounds)
            yield f"{what} of {len(trials):,}", row


def lists_and_scores(count, rng, rounds):
    """A list, and trials that are scored, on 100,000 utterances."""
    ids = [f"id{n // 100:05d}/clip{n:08d}" for n in range(UTTERANCES)]
    enrol, test = rng.integers(UTTERANCES, size=(2, count))
    test = np.where(test == enrol, (test + 1) % UTTERANCES, test)
    listed = slice(min(count, 10**6))
    labels = (enrol // 100 == test // 100).astype(int)
    some = Trials(enrol[listed], test[listed], labels[listed])
    yield from lists(some, ids, rounds)
    vectors = rng.normal(size=(UTTERANCES, DIMS)).astype(np.float32)
    for part in (count // 10, count):
        some = Trials(enrol[:part], test[:part], None)

        def gather(some=some, step=1 << 11):
            for start in range(0, len(some), step):
                for rows in (some.enrol, some.test):
                    vectors[rows[start : start + step]]

        beside = "gathering the rows", gather, part, rounds
        row = compare(lambda some=some: some.score(vectors), *beside)
        yield f"cosine of {part:,}", row


def intervals(count, rng, rounds):
    """EER in 1,000 resamples of 1,000 speakers."""
    speakers = np.repeat(np.arange(1000), 30)
    resamples = SpeakerResamples(speakers)
    for part in (count // 10, count):
        trials = generate_trials(
            speakers, max_targets=part // 5, max_nontargets=part - part // 5
        )
        scores = rng.normal(size=len(trials)) + 2 * trials.label
        ones = np.ones(len(trials))
        row = compare(
            lambda t=trials, s=scores: resamples.eer(s, t),
            "1,000 sums",
            lambda one=ones: [one.sum() for _ in range(1000)],
            len(trials),
            rounds,
        )
        yield f"EER of {len(trials):,} in 1,000 resamples", row


def probes(rng, rounds):
    """A probe in 5 and 10 folds, beside one product of all its rows."""
    speakers, contents = np.divmod(np.arange(20_000), 200)
    vectors = rng.normal(size=(100, 512))[speakers] / 3
    vectors += rng.normal(size=vectors.shape)
    for folds in (5, 10):
        row = compare(
            lambda k=folds: linear_probe(vectors, speakers, contents, k),
            "X.T @ X in float64",
            lambda: vectors.T @ vectors,
            len(vectors),
            rounds,
        )
        yield f"probe of 20,000 x 512 in {folds} folds", row


def measure(count=10**6, rounds=5):
    """A row for each of all."""
    logging.disable(logging.WARNING)  # pairs that are drawn twice
    rng = np.random.default_rng(0)
    return dict(
        (
            *error_rates(count, rng, rounds),
            *lists_and_scores(count, rng, min(rounds, 3)),
            *intervals(min(count, 10**6), rng, min(rounds, 3)),
            *probes(rng, rounds),
        )
    )


if __name__ == "__main__":
    clock.main(measure)
