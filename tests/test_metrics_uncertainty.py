"""Intervals over speakers, against repeated trials and known cases."""

import numpy as np
import pytest

from speechbrain_ext.metrics.trials import Trials, generate_trials
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.utils.errors import InputError


@pytest.mark.parametrize(
    "noise, shift, digits",
    # Hardly any distinct score; perfect; reversed.
    [(1, 1, 9), (1, 1, 1), (1, 1, 0), (0, 1, 9), (0, -1, 9)],
)
@pytest.mark.parametrize("seed", range(4))
def test_weights_equal_repetitions(noise, shift, digits, seed):
    rng = np.random.default_rng(seed)
    speakers = rng.integers(5 + 3 * seed, size=50)
    trials = generate_trials(speakers)
    scores = noise * rng.normal(size=len(trials)) + shift * trials.label
    scores = np.round(scores, digits)
    right = rng.random(50) < 0.7
    resamples = SpeakerResamples(speakers, 25, seed)
    draws = zip(resamples.eer(scores, trials), resamples.accuracy(right))
    code = np.unique(speakers, return_inverse=True)[1]
    for times, (drawn, accuracy) in zip(resamples.times, draws):
        assert accuracy == np.repeat(right, times[code]).mean()
        one, other = times[code[trials.enrol]], times[code[trials.test]]
        repeats = np.where(trials.label == 1, one, one * other)
        labels = np.repeat(trials.label, repeats)
        if len(set(labels)) < 2:
            assert np.isnan(drawn)
            continue
        eer = equal_error_rate(np.repeat(scores, repeats), labels)[0]
        assert drawn == pytest.approx(eer, abs=1e-12)


def test_spread_of_the_eer_is_that_of_new_speakers():
    """Drawing speakers from one sample spreads as drawing new samples does."""
    speakers = np.repeat(np.arange(30), 6)
    new, drawn = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        clarity = np.exp(0.5 * rng.normal(size=(30, 1)))[speakers]
        vectors = rng.normal(size=(30, 8))[speakers]
        vectors += clarity * rng.normal(size=vectors.shape)
        trials = generate_trials(speakers, max_nontargets=4000)
        scores = trials.score(vectors)
        new.append(equal_error_rate(scores, trials.label)[0])
        if seed < 12:
            resamples = SpeakerResamples(speakers, 150, seed)
            drawn.append(resamples.eer(scores, trials).std())
    assert np.mean(drawn) == pytest.approx(np.std(new), rel=0.25)


def test_draws_that_are_not_finite_are_left_out_if_few():
    draws = np.linspace(0, 1, 100)
    draws[:5] = np.nan
    expected = np.quantile(draws[5:], [0.025, 0.975])
    assert SpeakerResamples.interval(draws) == pytest.approx(expected)
    expected = np.quantile(draws[5:], [0.1, 0.9])
    assert SpeakerResamples.interval(draws, 0.8) == pytest.approx(expected)
    draws[5] = np.inf
    assert SpeakerResamples.interval(draws) is None


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_equal_systems_are_not_called_different(count):
    """Two systems whose errors have the same law, in many repetitions."""
    speakers = np.repeat(np.arange(count), 6)
    trials = generate_trials(speakers)
    called = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        resamples = SpeakerResamples(speakers, 100, seed)
        draws = {"eer": [], "accuracy": []}
        for _ in range(2):
            # The error of a system depends on the speakers, not on trials.
            level = rng.normal(size=(count, count))
            level = level[speakers[trials.enrol], speakers[trials.test]]
            scores = level + rng.normal(size=len(trials)) + 1.5 * trials.label
            draws["eer"].append(resamples.eer(scores, trials))
            right = rng.random(len(speakers)) < rng.random(count)[speakers]
            draws["accuracy"].append(resamples.accuracy(right))
        for one, other in draws.values():
            found = resamples.interval(one - other)
            assert (found is None) == (resamples.interval(one) is None)
            called.append(found and not found[0] <= 0 <= found[1])
    if count < 5:
        assert set(called) == {None}
    else:
        assert None not in called
        assert np.mean(called) < 0.2


def test_only_speakers_of_some_rows_are_drawn():
    speakers = np.repeat(np.arange(8), 3)
    rows = np.flatnonzero(speakers % 4 < 3)
    part = SpeakerResamples(speakers, 200, 1, rows)
    assert (part.times[:, [3, 7]] == 0).all()
    assert (part.times.sum(axis=1) == 6).all()
    # As if the others were not there, in the same draws.
    alone = SpeakerResamples(speakers[rows], 200, 1)
    assert np.array_equal(part.times[:, part.drawn], alone.times)
    right = np.random.default_rng(0).random(24) < 0.5
    assert np.array_equal(part.accuracy(right), alone.accuracy(right[rows]))
    trials = generate_trials(speakers[rows])
    scores = np.random.default_rng(0).normal(size=len(trials)) + trials.label
    there = Trials(rows[trials.enrol], rows[trials.test], trials.label)
    assert np.array_equal(
        part.eer(scores, there), alone.eer(scores, trials), equal_nan=True
    )
    few = SpeakerResamples(speakers, 9, rows=rows[:12])
    assert len(few.drawn) == 4
    assert np.isnan(few.accuracy(right)).all()
    assert np.isnan(few.eer(scores, there)).all()


def test_trials_of_few_speakers_have_no_interval():
    """Many speakers, but target trials of four of them only."""
    speakers = np.repeat(np.arange(20), 3)
    trials = generate_trials(speakers)
    kept = (trials.label == 0) | (speakers[trials.enrol] < 4)
    trials = Trials(trials.enrol[kept], trials.test[kept], trials.label[kept])
    draws = SpeakerResamples(speakers, 9).eer(1.0 * trials.label, trials)
    assert np.isnan(draws).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": [0, 0]}, "needs 2 or more, got 1"),
        ({"number": 1}, "2 resamples"),
        ({}, "each of 2 utterances"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        SpeakerResamples(["a", "b"], **options).accuracy([True])
