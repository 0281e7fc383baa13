"""Time of our error rates and intervals, beside SpeechBrain's error rates.

    python tests/benchmarks/bench_verification.py [trials]

Prints seconds and the ratio for the same scores (default 10,000 trials: the
memory of SpeechBrain's minDCF grows with their square), then a million trials
and the interval over speakers with ours alone.
"""

import sys
import time

import numpy as np
import torch

from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import equal_error_rate, min_dcf


def clock(name, function):
    """Best of three runs, in seconds, and the result."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    print(f"{name:45} {min(times):9.4f} s")
    return min(times), result


def rates(scores, labels):
    """EER and minDCF, as SpeechBrain scales it."""
    eer = equal_error_rate(scores, labels)[0]
    return eer, min_dcf(scores, labels, normalize=False)


def main(count):
    """Run all and print."""
    rng = np.random.default_rng(0)
    labels = (np.arange(1_000_000) % 5 == 0).astype(int)
    scores = rng.normal(size=len(labels)) + 2 * labels
    few = scores[:count], labels[:count]
    sides = [torch.tensor(few[0][few[1] == one]) for one in (1, 0)]
    theirs, found = clock(
        f"speechbrain, EER and minDCF of {count} trials",
        lambda: (EER(*sides)[0], minDCF(*sides)[0]),
    )
    ours, own = clock("speechbrain_ext, the same", lambda: rates(*few))
    print(f"ratio {theirs / ours:.0f}; values {found} and {own}")
    clock("1000000 trials", lambda: rates(scores, labels))

    speakers = np.repeat(np.arange(67), 30)
    vectors = rng.normal(size=(67, 64))[speakers]
    vectors += 2 * rng.normal(size=vectors.shape)
    _, trials = clock(
        "trials of 2010 rows, 970000 non-target ones",
        lambda: generate_trials(speakers, max_nontargets=970_000),
    )
    _, scores = clock("cosine scores", lambda: trials.score(vectors))
    resamples = SpeakerResamples(speakers)
    clock("EER in 1000 resamples", lambda: resamples.eer(scores, trials))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
