"""PLDA against the densities of its model."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from test_metrics_scoring import voices

from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing import plda
from speechbrain_ext.processing.plda import Plda, plda_scoring
from speechbrain_ext.processing.scatter import Rows, Scatter
from speechbrain_ext.utils.errors import InputError


def test_score_is_the_likelihood_ratio():
    vectors, speakers = voices(40, 5, 4)
    backend = Plda(length_normalise=False).fit(vectors, speakers)
    # Between covariance as of its axes: within = I, between = ratio there
    back = np.linalg.pinv(backend.axes)
    between = back.T * backend.ratio @ back
    centred = vectors - vectors.mean(axis=0)
    within = Scatter(Rows(centred), {"speaker": speakers}).shrunk("speaker")
    x, y = voices(2, 2, 4, seed=3)[0][:2] - vectors.mean(axis=0)
    total = between + within
    joint = np.block([[total, between], [between, total]])
    expected = multivariate_normal.logpdf([*x, *y], cov=joint)
    expected -= multivariate_normal.logpdf([x, y], cov=total).sum()
    pair = np.stack([x, y]) + vectors.mean(axis=0)
    assert backend.score(pair, [0], [1])[0] == pytest.approx(expected)


def test_covariances_of_its_own_model():
    """Unequal numbers of utterances; what these add to means is taken off."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(4000), rng.integers(1, 4, 4000))
    vectors = 2 * rng.normal(size=(4000, 2))[speakers]
    vectors = vectors + rng.normal(size=vectors.shape)
    backend = Plda(length_normalise=False).fit(vectors, speakers)
    # Within, the maximum likelihood lacks the degrees of freedom of the means.
    freedom = 1 - 4000 / len(speakers)
    between = backend.ratio * freedom
    expected = 4 + (1 - freedom) * np.mean(1 / np.bincount(speakers))
    assert between == pytest.approx([expected, expected], rel=0.1)


def test_beats_the_cosine_on_its_own_model():
    vectors, speakers = voices(30, 6, seed=1)
    trials = generate_trials(speakers)
    backend = Plda(length_normalise=False).fit(*voices(200, 6))
    scores = backend.score(vectors, trials.enrol, trials.test)
    cosine = equal_error_rate(trials.score(vectors), trials.label)[0]
    assert equal_error_rate(scores, trials.label)[0] < 0.8 * cosine


def test_few_speakers_in_many_dimensions():
    """Without shrinkage the covariance within them would not be told."""
    rng = np.random.default_rng(0)
    few = rng.normal(size=(10, 300)) / np.sqrt(10)

    def many(n_speakers):
        speakers = np.repeat(np.arange(n_speakers), 20)
        vectors = (rng.normal(size=(n_speakers, 10)) @ few)[speakers]
        return vectors + rng.normal(size=(len(speakers), 300)), speakers

    test, speakers = many(10)
    trials = generate_trials(speakers)
    scores = Plda().fit(*many(18)).score(test, trials.enrol, trials.test)
    assert equal_error_rate(scores, trials.label)[0] < 0.1
    # More dimensions than utterances
    train, speakers = voices(10, 3, dim=64)
    scores = Plda().fit(train, speakers).score(train, [0, 0], [1, 9])
    assert scores[0] > scores[1]


def test_in_parts_and_fitted_to_a_cohort(monkeypatch):
    vectors, speakers = voices(8, 4)
    trials = generate_trials(speakers)
    cohort = torch.tensor(vectors), speakers
    whole = Plda().fit(*cohort).score(vectors, trials.enrol, trials.test)
    monkeypatch.setattr(plda, "CHUNK", 7)
    assert np.allclose(whole, plda_scoring(vectors, trials, cohort))


def test_refuses():
    with pytest.raises(InputError, match="no repeated value|repeat"):
        Plda().fit(np.eye(3), list("abc"))
    with pytest.raises(InputError, match="PLDA was trained on 8"):
        Plda().fit(*voices(5, 3)).score(np.eye(3), [0], [1])
    with pytest.raises(InputError, match="NaN"):
        Plda().fit(np.full((4, 2), np.nan), list("aabb"))
