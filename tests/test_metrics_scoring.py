"""Score normalisation."""

import numpy as np
import pytest

from speechbrain_ext.metrics import scoring
from speechbrain_ext.metrics.scoring import s_norm_scoring
from speechbrain_ext.metrics.trials import Trials, generate_trials
from speechbrain_ext.utils.errors import InputError


def voices(speakers=20, takes=6, dim=8, seed=0):
    """Speaker means with anisotropic noise: the cosine is not the best."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), takes)
    vectors = rng.normal(size=(speakers, dim))[speaker]
    noise = np.logspace(-0.7, 0.7, dim) * rng.normal(size=vectors.shape)
    return vectors + 0.5 * noise, speaker


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_s_norm_equals_a_loop(monkeypatch, chunk):
    """By the mean of the unit vectors of each speaker of the cohort."""
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    vectors, speakers = voices(4, 3)
    others, codes = voices(30, 2, seed=1)
    trials = generate_trials(speakers)
    scores = trials.score(vectors)
    normalised = s_norm_scoring(vectors, trials, (others, codes), top=7)

    def unit(x):
        return x / np.linalg.norm(x)

    cohort = [(unit(x) + unit(y)) / 2 for x, y in others.reshape(30, 2, 8)]
    for t, rows in enumerate(zip(trials.enrol, trials.test)):
        sides = []
        for row in rows:
            cosines = [unit(vectors[row]) @ unit(c) for c in cohort]
            top = np.sort(cosines)[-7:]
            sides.append((scores[t] - top.mean()) / top.std(ddof=1))
        assert normalised[t] == pytest.approx(np.mean(sides))
    # No more speakers count than there are.
    few = others[:10], codes[:10]
    every = s_norm_scoring(vectors, trials, few, top=5)
    assert np.array_equal(every, s_norm_scoring(vectors, trials, few))


def test_s_norm_refuses():
    trials, good = Trials(*np.array([[0], [1], [1]])), np.eye(2)
    for vectors, cohort, message in (
        (good, good[:1], "cohort of 2 speakers, got 1"),
        (good * np.nan, good, "NaN"),
        (good, good * np.nan, "cohort: .* NaN"),
    ):
        with pytest.raises(InputError, match=message):
            s_norm_scoring(vectors, trials, (cohort, range(len(cohort))))
