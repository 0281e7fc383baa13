"""Score normalisation and PLDA."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from speechbrain_ext.metrics import scoring
from speechbrain_ext.metrics.scoring import (
    PldaBackend,
    plda_scoring,
    s_norm_scoring,
)
from speechbrain_ext.metrics.trials import Trials, generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
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


def test_plda_beats_the_cosine_on_its_own_model():
    vectors, speakers = voices(30, 6, seed=1)
    trials = generate_trials(speakers)
    plda = PldaBackend(length_normalise=False).fit(*voices(200, 6))
    scores = plda.score(vectors, trials.enrol, trials.test)
    cosine = equal_error_rate(trials.score(vectors), trials.label)[0]
    assert equal_error_rate(scores, trials.label)[0] < 0.8 * cosine


def test_plda_score_is_the_likelihood_ratio():
    plda = PldaBackend(rank=3, length_normalise=False).fit(*voices(40, 5, 4))
    vectors = voices(2, 2, 4, seed=3)[0]
    score = plda.score(vectors, [0], [1])[0]
    factors, residual = plda.plda.F, plda.plda.Sigma
    between = factors @ factors.T
    total = between + residual
    x, y = plda._prepare(vectors)[:2] - plda.plda.mean
    joint = np.block([[total, between], [between, total]])
    ratio = multivariate_normal.logpdf([*x, *y], cov=joint)
    ratio -= multivariate_normal.logpdf([x, y], cov=total).sum()
    assert score == pytest.approx(ratio, abs=1e-6)


def test_plda_in_parts_and_trained_on_a_cohort(monkeypatch):
    vectors, speakers = voices(8, 4)
    trials = generate_trials(speakers)
    cohort = torch.tensor(vectors), speakers
    plda = PldaBackend(rank=3, iterations=2).fit(*cohort)
    whole = plda.score(vectors, trials.enrol, trials.test)
    same = plda_scoring(vectors, trials, cohort, rank=3, iterations=2)
    assert np.array_equal(whole, same)
    monkeypatch.setattr(scoring, "CHUNK", 70)
    order = np.random.default_rng(0).permutation(len(trials))
    parts = plda.score(vectors, trials.enrol[order], trials.test[order])
    assert np.allclose(whole[order], parts)


def test_plda_with_more_dimensions_than_utterances():
    vectors, speakers = voices(10, 3, dim=64)
    backend = PldaBackend().fit(vectors, speakers)
    scores = backend.score(vectors, [0, 0], [1, 9])
    assert scores[0] > scores[1]
    assert np.allclose(np.linalg.norm(backend._prepare(vectors), axis=1), 1)


def test_plda_refuses():
    with pytest.raises(InputError, match="2 speakers or more"):
        PldaBackend().fit(np.eye(3), list("abc"))
    with pytest.raises(InputError, match="PLDA was trained on 8"):
        PldaBackend().fit(*voices(5, 3)).score(np.eye(3), [0], [1])
