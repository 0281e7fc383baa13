"""Thresholds without labels, calibration, and what decisions cost."""

import numpy as np
import pytest

from speechbrain_ext.metrics.calibration import (
    actual_dcf,
    cllr,
    fit_calibration,
    impostor_rates,
    impostor_thresholds,
    min_cllr,
)
from speechbrain_ext.utils.errors import InputError


def simulated(share, separation=2.5, count=20000, anchors=1000, seed=0):
    """Scores of pairs, of which a share agrees, anchors, and impostors."""
    rng = np.random.default_rng(seed)
    own = rng.normal(separation, 1, round(share * count))
    others = rng.normal(0, 1, count - len(own))
    anchors = rng.normal(separation, 1, anchors)
    return rng.permutation([*own, *others]), anchors, rng.normal(0, 1, 10**6)


@pytest.mark.parametrize("share", [0, 0.03, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_rates_hold_whatever_the_share_of_pairs_that_agree(share, seed):
    """Where taking all pairs for impostors would be wrong by far."""
    scores, anchors, strangers = simulated(share, seed=seed)
    found = impostor_thresholds(scores, anchors, [0.01, 0.05])
    for rate, threshold in found.items():
        assert rate / 2 < np.mean(strangers > threshold) < 2 * rate
    naive = np.quantile(scores, 0.99)
    assert (np.mean(strangers > naive) < 0.005) == (share > 0)
    assert impostor_rates(scores, anchors)[2] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("separation", [2, 3.5, 5])
def test_rates_are_right_on_average(separation):
    """Where a tenth of the pairs agrees, which anchors tell but roughly."""
    reached = {0.01: [], 0.05: []}
    for seed in range(20):
        scores, anchors, strangers = simulated(
            0.1, separation, 10000, 1000, seed
        )
        found = impostor_thresholds(scores, anchors, [*reached])
        for rate, threshold in found.items():
            reached[rate].append(np.mean(strangers[:100000] > threshold))
    for rate, found in reached.items():
        assert rate / 2 < np.median(found) < 2 * rate


def test_thresholds_follow_the_scale_of_the_scores():
    """And rise where less is to be accepted."""
    scores, anchors, _ = simulated(0.05)
    rates = (0.001, 0.01, 0.05, 0.2)
    one = impostor_thresholds(scores, anchors, rates)
    other = impostor_thresholds(scores / 9 - 1, anchors / 9 - 1, rates)
    assert list(one) == list(rates)
    assert sorted(one.values(), reverse=True) == list(one.values())
    for rate in rates:
        assert other[rate] == pytest.approx(one[rate] / 9 - 1)


def test_no_threshold_is_told_by_less_than_a_pair():
    scores = np.random.default_rng(0).permutation(100) / 100.0
    found = impostor_thresholds(scores, [2.0] * 20, [0.1, 0.01, 0.005])
    assert list(found) == [0.1, 0.01]
    for rate, threshold in found.items():
        assert np.mean(scores > threshold) <= rate


def test_anchors_that_do_not_stand_out():
    """The share has a limit, and the thresholds are of the scores."""
    scores = np.random.default_rng(0).normal(size=4000)
    _, rates, agreeing = impostor_rates(scores, scores[:400])
    assert agreeing == 0.5 and np.isfinite(rates).all()
    found = impostor_thresholds(np.full(50, 0.3), np.full(50, 0.3), [0.1])
    assert found == {0.1: pytest.approx(0.3)}


@pytest.mark.parametrize("targets", [200, 20000])
@pytest.mark.parametrize("unit", [1, 1e-3])
def test_ratios_of_gaussians(targets, unit):
    """ln N(x; 2, 1) - ln N(x; 0, 1) = 2 x - 2, whatever the share of each."""
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(2, 1, targets), rng.normal(0, 1, 20000)]
    labels = np.arange(len(scores)) < targets
    scale, offset = fit_calibration(unit * scores, labels)
    tolerance = 0.05 if targets == 20000 else 0.25
    assert scale * unit == pytest.approx(2, rel=tolerance)
    assert offset == pytest.approx(-2, rel=tolerance)
    # Better than uncalibrated, and as good as the truth.
    ratios = scale * unit * scores + offset
    assert cllr(ratios, labels) <= cllr(2 * scores - 2, labels) + 1e-3
    assert cllr(ratios, labels) < cllr(2 * scores, labels) - 0.05


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([0.1, 0.2], [1, 1], "need target and non-target"),
        ([0.1, np.nan], [1, 0], "NaN"),
        ([0.1, 0.2], [1, 0], "not above"),
        ([0.5] * 6, [1, 0] * 3, "not above"),
        ([0.1, 0.2], [0, 2], "must be 1"),
    ],
)
def test_what_cannot_be_calibrated(scores, labels, message):
    with pytest.raises(InputError, match=message):
        fit_calibration(scores, labels)


def test_costs_by_hand():
    odds = np.log(3)  # of 3 to 1
    bits = np.log2([1 + 1 / 3, 1 + 3])
    assert cllr([odds, -odds], [1, 0]) == pytest.approx(bits[0])
    assert cllr([-odds, odds], [1, 0]) == pytest.approx(bits[1])
    # Each kind counts by its mean
    found = cllr([odds, odds, -odds, -odds, odds], [1, 1, 0, 0, 0])
    wanted = (bits[0] + (2 * bits[0] + bits[1]) / 3) / 2
    assert found == pytest.approx(wanted)
    assert cllr([1e4, -1e4], [0, 1]) == pytest.approx(1e4 / np.log(2))
    # A prior of 1 % accepts from ln 99 = 4.6 on: half of the targets, and
    # one of four others.
    ratios, labels = [4.7, 4.5, 4.7, 4.5, 0, -9], [1, 1, 0, 0, 0, 0]
    wanted = (0.01 * 0.5 + 0.99 * 0.25) / 0.01
    assert actual_dcf(ratios, labels) == pytest.approx(wanted)
    # At even odds from 0 on: only misses of what is below.
    assert actual_dcf(ratios, labels, 0.5) == pytest.approx(0.5)
    # To accept nothing costs 1.
    assert actual_dcf([-9, -9], [1, 0]) == pytest.approx(1)
    assert actual_dcf([9, 9], [1, 0], 0.99) == pytest.approx(1)


def test_the_least_cost_of_any_calibration():
    """By hand: [0 | 1 0 | 1] pools the middle to even odds, 1 bit of half."""
    assert min_cllr([1, 2, 3, 4], [0, 1, 0, 1]) == pytest.approx(0.5)
    # Useless, reversed, perfect
    assert min_cllr([1, 1, 1, 1], [0, 1, 0, 1]) == pytest.approx(1)
    assert min_cllr([1, 2, 3, 4], [1, 1, 0, 0]) == pytest.approx(1)
    assert min_cllr([1, 2, 3, 4], [0, 0, 1, 1]) == 0
    # Tied scores are one step: pools of (1 of 3 targets, 0), (2 of 3, 1), ...
    found = min_cllr([1, 1, 2], [0, 1, 1])
    bits = np.log2(1 + 2), np.log2(1 + 1 / 2)
    assert found == pytest.approx((bits[0] / 2 + bits[1]) / 2)


def test_least_cost_does_not_depend_on_the_unit_or_shares():
    rng = np.random.default_rng(0)
    scores = np.r_[rng.normal(2, 1, 5000), rng.normal(0, 1, 5000)]
    labels = np.arange(10000) < 5000
    least = min_cllr(scores, labels)
    for mapped in (np.exp(scores), scores**3, 1e-20 * scores - 1e-17):
        assert min_cllr(mapped, labels) == pytest.approx(least, abs=1e-12)
    # The true ratios are calibrated: all but the fit to these trials is left.
    true = cllr(2 * scores - 2, labels)
    assert true - 0.01 < least < true
    assert least < cllr(scores, labels) - 0.05
    # Three of each target are no more than one.
    often = np.repeat(scores, np.where(labels, 3, 1))
    again = min_cllr(often, np.repeat(labels, np.where(labels, 3, 1)))
    assert again == pytest.approx(least)
