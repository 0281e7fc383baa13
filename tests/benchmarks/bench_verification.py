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


def clock(function, repeats=1):
    """Best of some runs, in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def main(count):
    """Run all and print."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 5 == 0).astype(int)
    scores = rng.normal(size=count) + 2 * labels
    positive = torch.tensor(scores[labels == 1])
    negative = torch.tensor(scores[labels == 0])
    ours, (eer, dcf) = clock(
        lambda: (
            equal_error_rate(scores, labels)[0],
            min_dcf(scores, labels, normalize=False),
        ),
        repeats=5,
    )
    theirs, (their_eer, their_dcf) = clock(
        lambda: (EER(positive, negative)[0], minDCF(positive, negative)[0])
    )
    print(f"{count} trials, EER and minDCF")
    print(
        f"  speechbrain      {theirs:9.3f} s  {their_eer:.5f} {their_dcf:.5f}"
    )
    print(f"  speechbrain_ext  {ours:9.4f} s  {eer:.5f} {dcf:.5f}")
    print(f"  ratio            {theirs / ours:9.0f}")

    labels = (np.arange(1_000_000) % 5 == 0).astype(int)
    scores = rng.normal(size=len(labels)) + 2 * labels
    seconds = clock(
        lambda: (equal_error_rate(scores, labels), min_dcf(scores, labels))
    )[0]
    print(f"1000000 trials, EER and minDCF: {seconds:.2f} s")

    speakers = np.repeat(np.arange(67), 30)
    vectors = rng.normal(size=(67, 64))[speakers]
    vectors += 2 * rng.normal(size=vectors.shape)
    seconds, trials = clock(
        lambda: generate_trials(speakers, max_nontargets=970_000)
    )
    print(f"{len(trials)} trials from {len(speakers)} rows: {seconds:.2f} s")
    seconds, scores = clock(lambda: trials.score(vectors))
    print(f"cosine scores: {seconds:.2f} s")
    resamples = SpeakerResamples(speakers)
    seconds, draws = clock(lambda: resamples.eer(scores, trials))
    print(f"EER in {len(draws)} resamples of speakers: {seconds:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
