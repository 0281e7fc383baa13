"""Score normalisation, PLDA and categories of trials."""

import numpy as np
import pytest
import torch

from speechbrain_ext.evaluation import backends
from speechbrain_ext.evaluation.backends import PldaBackend, adaptive_s_norm
from speechbrain_ext.evaluation.categories import (
    category_rows,
    format_categories,
    pair_categories,
)
from speechbrain_ext.evaluation.verification import (
    Trials,
    equal_error_rate,
    generate_trials,
)
from speechbrain_ext.utils.errors import InputError


def voices(speakers=20, takes=6, dim=8, noise=0.5, seed=0):
    """Speaker means with anisotropic noise: the cosine is not the best."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), takes)
    spread = noise * np.logspace(-0.7, 0.7, dim)
    vectors = rng.normal(size=(speakers, dim))[speaker]
    return vectors + spread * rng.normal(size=vectors.shape), speaker


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_s_norm_equals_a_loop(monkeypatch, chunk):
    monkeypatch.setattr(backends, "CHUNK", chunk)
    vectors, speakers = voices(4, 3)
    cohort = voices(30, 1, seed=1)[0]
    trials = generate_trials(speakers)
    scores = trials.score(vectors)
    normalised = adaptive_s_norm(scores, trials, vectors, cohort, top=7)

    def unit(x):
        return x / np.linalg.norm(x)

    for t in range(len(trials)):
        sides = []
        for row in (trials.enrol[t], trials.test[t]):
            cosines = [unit(vectors[row]) @ unit(c) for c in cohort]
            top = np.sort(cosines)[-7:]
            sides.append((scores[t] - top.mean()) / top.std(ddof=1))
        assert normalised[t] == pytest.approx(np.mean(sides))


def test_s_norm_removes_an_offset_of_one_side():
    rng = np.random.default_rng(0)
    trials = Trials(*np.array([[0, 0], [0, 1], [1, 0]]))
    vectors, cohort = rng.normal(size=(2, 5)), rng.normal(size=(9, 5))
    scores = trials.score(vectors, vectors)
    both = adaptive_s_norm(scores, trials, vectors, cohort, 99, vectors)
    assert np.allclose(both, adaptive_s_norm(scores, trials, vectors, cohort))


def test_s_norm_refuses():
    trials = Trials(*np.array([[0], [1], [1]]))
    good = np.eye(2)
    with pytest.raises(InputError, match="cohort of 2 or more"):
        adaptive_s_norm([1.0], trials, good, good[:1])
    with pytest.raises(InputError, match="2 dimensions, the cohort 3"):
        adaptive_s_norm([1.0], trials, good, np.eye(3))
    with pytest.raises(InputError, match="NaN"):
        adaptive_s_norm([1.0], trials, good * np.nan, good)


def test_plda_beats_the_cosine_on_its_own_model():
    train = voices(200, 6)
    vectors, speakers = voices(30, 6, seed=1)
    trials = generate_trials(speakers)
    plda = PldaBackend(length_normalise=False).fit(*train)
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

    def log_density(z, covariance):
        precise = np.linalg.inv(covariance)
        return -0.5 * (z @ precise @ z + np.linalg.slogdet(covariance)[1])

    joint = np.block([[total, between], [between, total]])
    ratio = log_density(np.append(x, y), joint)
    ratio -= log_density(x, total) + log_density(y, total)
    assert score == pytest.approx(ratio, abs=1e-6)


def test_plda_in_parts_and_across_channels(monkeypatch):
    vectors, speakers = voices(8, 4)
    trials = generate_trials(speakers)
    plda = PldaBackend().fit(torch.tensor(vectors), speakers)
    whole = plda.score(vectors, trials.enrol, trials.test)
    other = plda.score(vectors, trials.enrol, trials.test, vectors + 0)
    monkeypatch.setattr(backends, "CHUNK", 70)
    order = np.random.default_rng(0).permutation(len(trials))
    parts = plda.score(vectors, trials.enrol[order], trials.test[order])
    assert np.allclose(whole, other)
    assert np.allclose(whole[order], parts)


def test_plda_with_more_dimensions_than_utterances():
    vectors, speakers = voices(10, 3, dim=64)
    scores = PldaBackend().fit(vectors, speakers).score(vectors, [0, 0], [1, 9])
    assert np.isfinite(scores).all()


def test_plda_refuses():
    with pytest.raises(InputError, match="2 speakers or more"):
        PldaBackend().fit(np.eye(3), list("abc"))
    backend = PldaBackend().fit(*voices(5, 3))
    with pytest.raises(InputError, match="PLDA was trained on 8"):
        backend.score(np.eye(3), [0], [1])


def test_categories_equal_separate_evaluations():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(8), 5)
    genders = np.where(speakers < 4, "f", "m")
    trials = generate_trials(speakers)
    scores = rng.normal(size=len(trials)) + trials.label
    kinds = pair_categories(genders, trials)
    rows = category_rows(scores, trials.label, kinds)
    assert list(rows) == ["all", "f-f", "f-m", "m-m"]
    eer, threshold = equal_error_rate(scores, trials.label)
    assert rows["all"]["eer"] == eer
    for name, row in rows.items():
        part = (kinds == name) | (name == "all")
        targets = part & (trials.label == 1)
        others = part & (trials.label == 0)
        assert (row["targets"], row["nontargets"]) == (
            targets.sum(),
            others.sum(),
        )
        assert row["false_alarm"] == np.mean(scores[others] > threshold)
        if name == "f-m":  # no target pairs
            assert row["eer"] is row["threshold"] is row["miss"] is None
        else:
            own = equal_error_rate(scores[part], trials.label[part])
            assert (row["eer"], row["threshold"]) == own
            assert row["miss"] == np.mean(scores[targets] <= threshold)
    assert "-" in format_categories(rows).splitlines()[4].split()


def test_a_given_threshold_is_used():
    rows = category_rows([0.9, 0.1], [1, 0], ["a", "b"], threshold=1.0)
    assert rows["a"]["miss"] == 1 and rows["a"]["false_alarm"] is None
    assert rows["b"]["miss"] is None and rows["b"]["false_alarm"] == 0


def test_categories_must_fit():
    with pytest.raises(InputError, match="categories: expected"):
        category_rows([0.9, 0.1], [1, 0], ["a"])
