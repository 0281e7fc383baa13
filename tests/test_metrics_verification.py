"""Error rates against plain loops, SpeechBrain's, and known cases."""

import numpy as np
import pytest
import torch

from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_ext.metrics.trials import generate_trials, trial_groups
from speechbrain_ext.metrics.verification import (
    equal_error_rate,
    group_error_rates,
    min_dcf,
    sort_trials,
)
from speechbrain_ext.utils.errors import InputError


def gaussian_scores(targets, nontargets, shift=1.5):
    labels = np.repeat([1, 0], [targets, nontargets])
    noise = np.random.default_rng(0).normal(size=len(labels))
    return noise + shift * labels, labels


def rates_at(threshold, scores, labels):
    """(false alarm, miss), by counting."""
    accepted = [score > threshold for score in scores]
    alarms = sum(a for a, y in zip(accepted, labels) if y == 0)
    misses = sum(not a for a, y in zip(accepted, labels) if y == 1)
    return alarms / labels.count(0), misses / labels.count(1)


def crossing(points):
    """Where the polygon through all operating points crosses the diagonal."""
    for (fa0, miss0), (fa1, miss1) in zip(points, points[1:]):
        if fa1 == miss1:
            return miss1
        if fa1 < miss1:
            share = (fa0 - miss0) / ((fa0 - miss0) - (fa1 - miss1))
            return miss0 + share * (miss1 - miss0)


@pytest.mark.parametrize("seed", range(30))
def test_error_rates_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    labels = [1, 0, *rng.integers(2, size=rng.integers(1, 40)).tolist()]
    scores = rng.normal(size=len(labels)) + np.array(labels)
    scores = (np.round(scores) if seed % 2 else scores).tolist()  # many ties
    thresholds = [-np.inf, *sorted(set(scores))]
    points = [rates_at(t, scores, labels) for t in thresholds]
    eer, threshold = equal_error_rate(scores, labels)
    assert eer == crossing(points)
    # No other decision has rates that are nearer to each other.
    gaps = [abs(alarm - miss) for alarm, miss in points]
    alarm, miss = rates_at(threshold, scores, labels)
    assert abs(alarm - miss) == min(gaps)
    for p in (0.01, 0.3, 0.9):
        loop = min(p * miss + (1 - p) * alarm for alarm, miss in points)
        cost = min_dcf(scores, labels, p, normalize=False)
        assert cost == pytest.approx(loop)
        assert min_dcf(scores, labels, p) == pytest.approx(loop / min(p, 1 - p))


@pytest.mark.parametrize(
    "targets, nontargets, shift",
    [(50, 50, 1), (20, 300, 2), (300, 7, 0), (200, 400, -1)],
)
def test_error_rates_agree_with_speechbrain(targets, nontargets, shift):
    scores, labels = gaussian_scores(targets, nontargets, shift)
    sides = [torch.tensor(scores[labels == one]) for one in (1, 0)]
    eer, _ = equal_error_rate(scores, labels)
    assert abs(eer - EER(*sides)[0]) <= 1 / min(targets, nontargets)
    cost = min_dcf(scores, labels, normalize=False)
    assert cost == pytest.approx(minDCF(*sides)[0], abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perfect_reversed_and_tied_scores(dtype):
    labels = np.array([1, 1, 0, 0, 0])
    perfect = np.array([0.9, 0.8, 0.3, 0.2, 0.1], dtype)
    eer, threshold = equal_error_rate(perfect, labels)
    assert eer == 0 and threshold == pytest.approx(0.55)
    rates = [
        (equal_error_rate(scores, labels)[0], min_dcf(scores, labels))
        for scores in (perfect, -perfect, 0 * perfect)
    ]
    assert rates == [(0, 0), (1, 1), (0.5, 1)]
    # Without rounding where the curve has the point itself.
    scores = [0, 1, 2, 2, 2, 9, 2, 3, 3, 3, 3, 3]
    assert equal_error_rate(scores, [1] * 6 + [0] * 6)[0] == 5 / 6


def test_eer_of_equal_gaussians_in_any_order_and_scale():
    scores, labels = gaussian_scores(200_000, 200_000, 2)
    eer, threshold = equal_error_rate(scores, labels)
    assert eer == pytest.approx(0.15866, abs=2e-3)
    assert threshold == pytest.approx(1, abs=2e-2)
    shuffled = np.random.default_rng(1).permutation(len(scores))
    moved = torch.tensor(np.exp(scores))[shuffled]
    assert equal_error_rate(moved, torch.tensor(labels)[shuffled])[0] == eer


def test_corners_are_the_best_points_at_any_cost():
    rng = np.random.default_rng(0)
    for digits in (0, 1, 9):
        labels = rng.integers(2, size=60)
        scores = np.round(rng.normal(size=60) + labels, digits)
        thresholds = [-np.inf, *sorted(set(scores))]
        points = np.array(
            [rates_at(t, scores, labels.tolist()) for t in thresholds]
        )
        trials = sort_trials(scores, labels)
        misses, rejected = trials.corners()
        assert (np.diff(misses) > 0).all() and (np.diff(rejected) >= 0).all()
        corners = np.stack(
            [1 - rejected / sum(labels == 0), misses / labels.sum()], axis=1
        )
        assert len(corners) < len(points)
        for weight in np.linspace(0, 1, 50):
            costs = weight, 1 - weight
            best = (points @ costs).min()
            assert (corners @ costs).min() == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([0.1, np.nan], [1, 0], "1 of 2 scores are NaN"),
        ([0.1, np.inf], [1, 0], "infinite"),
        ([0.1, 0.2], [1, 1], "2 target and 0 non-target"),
        ([0.1, 0.2], [1, 2], "labels must be"),
        ([0.1, 0.2], [1, 0, 0], "one score and one label"),
        ([], [], "0 target and 0 non-target"),
    ],
)
def test_bad_scores(scores, labels, message):
    for function in (equal_error_rate, min_dcf, sort_trials):
        with pytest.raises(InputError, match=message):
            function(scores, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    scores, labels = torch.tensor([0.75, 0.5, 0.25, 0.125]), [1, 0, 1, 0]
    wanted = equal_error_rate(scores, labels)
    assert equal_error_rate(scores.to(dtype), labels) == wanted
    vectors = torch.eye(4, dtype=dtype)
    trials = generate_trials([0, 0, 1, 1])
    assert trials.score(vectors).tolist() == [0] * 6


def test_a_threshold_lies_between_neighbouring_numbers():
    """Two float32 numbers next to each other, each scored many times."""
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    labels = np.arange(100) % 2
    scores = np.where(labels == 1, high, low)
    trials = sort_trials(scores, labels)
    assert trials.at(trials.equal_error_rate()[1]) == (0, 0)


def test_bad_priors_and_groups():
    for p_target in (0, 1, -1, 2):
        with pytest.raises(InputError, match="p_target"):
            min_dcf([1, 0], [1, 0], p_target)
    with pytest.raises(InputError, match="groups: expected"):
        group_error_rates([0.9, 0.1], [1, 0], ["a"], 0.5)


def test_groups_equal_separate_evaluations():
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(8), 5)
    trials = generate_trials(speakers)
    labels = trials.label
    scores = rng.normal(size=len(trials)) + labels
    kinds = trial_groups(np.where(speakers < 4, "f", "m"), trials)
    threshold = equal_error_rate(scores, labels)[1]
    rates = {"": sort_trials(scores, labels).rates(threshold)}
    rates |= group_error_rates(scores, labels, kinds, threshold)
    assert list(rates) == ["", "f-f", "f-m", "m-m"]
    for name, found in rates.items():
        part = (kinds == name) | (name == "")
        targets, others = (scores[part & (labels == one)] for one in (1, 0))
        counts = found["targets"], found["nontargets"]
        assert counts == (len(targets), len(others))
        assert found["false_alarm"] == np.mean(others > threshold)
        own = found["eer"], found["threshold"]
        if name == "f-m":  # no target pairs
            assert own == (None, None) and found["miss"] is None
        else:
            assert own == equal_error_rate(scores[part], labels[part])
            assert found["miss"] == np.mean(targets <= threshold)
