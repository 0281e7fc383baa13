"""Probes and untrained projections on cases with known answers."""

import numpy as np
import pytest
from helpers import CONTENTS, SPEAKERS, parts
from scipy.linalg import solve
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from speechbrain_ext.metrics.probes import (
    control_projections,
    lda_predictions,
    linear_probe,
)
from speechbrain_ext.processing.scatter import Rows, Scatter
from speechbrain_ext.utils.errors import InputError


def test_probe_agrees_with_logistic_regression():
    speaker, content, noise = parts()
    vectors = 0.5 * speaker + content + noise
    closed = linear_probe(vectors, SPEAKERS, CONTENTS).mean()
    logistic = linear_probe(
        vectors, SPEAKERS, CONTENTS,
        make_classifier=lambda: LogisticRegression(max_iter=300),
    ).mean()  # fmt: skip
    assert 0.3 < logistic < 0.99
    assert closed > logistic - 0.05


class Recorder(NearestCentroid):
    """A probe that keeps what it is trained and tested on."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def fit(self, vectors, values):
        self.training = vectors
        return super().fit(vectors, values)

    def predict(self, vectors):
        self.seen.append((self.training, vectors))
        return super().predict(vectors)


@pytest.mark.parametrize("folds, expected", [(4, 4), (99, 20)])
def test_folds_are_whole_groups_standardised_by_the_training(folds, expected):
    vectors, seen = 5 + 3 * parts()[2], []
    vectors[:, 0] = CONTENTS
    right = linear_probe(
        vectors, SPEAKERS, CONTENTS, folds,
        make_classifier=lambda: Recorder(seen),
    )  # fmt: skip
    assert right.dtype == bool and right.shape == (240,)
    assert len(seen) == expected
    for training, test in seen:
        assert len(training) + len(test) == 240
        assert len(np.unique(test[:, 0].round(9))) == 20 / expected
        assert np.allclose(training.mean(axis=0), 0)
        assert np.allclose(training.std(axis=0), 1)
        assert not np.isin(test[:, 0], training[:, 0]).any()


def test_probe_is_seeded():
    vectors = (parts()[0] + 2 * parts()[2]).tolist()
    first, again, other = (
        linear_probe(vectors, SPEAKERS, CONTENTS, seed=seed).tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_probe_of_constant_and_of_wide_vectors():
    right = linear_probe(np.ones((240, 3)), SPEAKERS, CONTENTS)
    assert right.mean() == pytest.approx(1 / 12)
    speaker, _, noise = parts(600)
    assert linear_probe(speaker + noise, SPEAKERS, CONTENTS).all()


class PlainLda:
    """The same from the rows of the training folds themselves."""

    def fit(self, vectors, values):
        self.classes, codes = np.unique(values, return_inverse=True)
        scatter = Scatter(Rows(vectors), {"a": codes})
        means, covariance = scatter.means["a"], scatter.shrunk("a")
        self.weight = solve(covariance, means.T)
        self.bias = -np.sum(means.T * self.weight, axis=0) / 2

    def predict(self, vectors):
        scores = vectors @ self.weight + self.bias
        return self.classes[scores.argmax(axis=1)]


@pytest.mark.parametrize("seed", range(12))
def test_subtracted_folds_equal_fits_to_the_others(seed):
    """Also classes of one fold, far means, and dimensions without variance."""
    rng = np.random.default_rng(seed)
    dims, folds = rng.integers([4, 2], [300, 9])
    speakers, contents = np.divmod(np.arange(400), 20)
    kept = rng.random(400) < (speakers + 1) / 10
    speakers, contents = speakers[kept], contents[kept]
    vectors = rng.normal(size=(20, dims))[speakers] / 2
    vectors += 100 + rng.normal(size=(len(speakers), dims))
    vectors[:, 1:4] = np.stack([contents == 0, contents * 0, contents], 1)
    found = [
        linear_probe(vectors, speakers, contents, folds, seed, **options)
        for options in ({}, {"make_classifier": PlainLda})
    ]
    assert np.array_equal(*found) and 0.1 < found[0].mean() < 1


def test_probe_is_the_optimal_rule_of_its_model():
    """Equal covariances: the boundary is the plane half-way, whitened."""
    rng = np.random.default_rng(0)
    values = np.repeat([0, 1], [30000, 10000])
    mixing = np.array([[1.0, 0], [0.9, 0.3]])
    means = np.array([[5.0, 5], [6, 5]])
    vectors = rng.normal(size=(40000, 2)) @ mixing.T + means[values]
    found = lda_predictions(vectors, values, rng.integers(4, size=40000))
    direction = np.linalg.solve(mixing @ mixing.T, [1, 0])
    optimal = (vectors - means.mean(axis=0)) @ direction > 0
    assert np.mean(found == optimal) > 0.995


def test_controls():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2, 20)) @ np.diag(np.arange(1, 21))
    controls = control_projections(features, [5])
    assert controls["input"].std(axis=0) == pytest.approx(np.ones(40))
    assert controls["PCA 5"].shape == controls["random 5"].shape == (300, 5)
    variances = np.linalg.eigvalsh(np.cov(controls["input"].T))
    kept = np.trace(np.cov(controls["PCA 5"].T))
    assert kept == pytest.approx(variances[-5:].sum())
    wide = control_projections(rng.normal(size=(30, 1, 1200)), [4])
    assert wide["input"].shape == (30, 29)  # centred: a rank of 29


def test_components_of_full_rank_tell_what_the_input_tells():
    """Each scaled by itself, the last ones would hide the speakers."""
    rng = np.random.default_rng(0)
    speakers, contents = np.divmod(np.arange(120), 10)
    features = rng.normal(size=(12, 200))[speakers] / 2
    features += rng.normal(size=(120, 200))
    controls = control_projections(features, [119])
    told = {
        name: linear_probe(vectors, speakers, contents).mean()
        for name, vectors in controls.items()
    }
    assert told["PCA 119"] == pytest.approx(told["input"], abs=0.05)
    assert told["input"] > 0.8


def test_controls_are_named_by_their_dimension():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40))
    for vectors in (features, features.astype(np.float32)):
        controls = control_projections(vectors, [2, 16, 24])
        assert {n: c.shape[1] for n, c in controls.items()} == {
            "input": 40, "PCA 2": 2, "random 2": 2, "PCA 3": 3,
            "random 16": 16, "random 24": 24,
        }  # fmt: skip
    with np.errstate(invalid="ignore"):
        constant = control_projections(np.ones((5, 3)), [2])
    assert constant["PCA 1"].shape == (5, 1)


@pytest.mark.parametrize(
    "values, groups, folds, message",
    [
        ([1, 1, 1, 1], [1, 2, 1, 2], 5, "2 values and 2 groups"),
        ([1, 1, 2, 2], [1, 1, 1, 1], 5, "got 2 and 1"),
        ([1, 1, 2, 2], [1, 2, 1, 2], 1, "2 folds"),
        ([1, 1, 2, 2], [1, 1, 2, 2], 5, "occurs in 2 groups"),
        ([1, 1, 2], [1, 2, 1, 2], 5, "values: expected"),
    ],
)
def test_what_is_refused(values, groups, folds, message):
    with pytest.raises(InputError, match=message):
        linear_probe(np.ones((4, 2)), values, groups, folds)
