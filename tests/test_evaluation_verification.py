"""Error rates, trials and trial lists against plain loops and SpeechBrain."""

import itertools

import numpy as np
import pytest
import torch
from speechbrain.utils.metric_stats import EER, minDCF

from speechbrain_ext.evaluation.verification import (
    Trials,
    cosine_scores,
    det_curve,
    equal_error_rate,
    generate_trials,
    min_dcf,
    read_trials,
    write_trials,
)
from speechbrain_ext.utils.errors import InputError


def gaussian_scores(targets, nontargets, shift=1.5, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.append(
        rng.normal(shift, 1, targets), rng.normal(0, 1, nontargets)
    )
    return scores, np.repeat([1, 0], [targets, nontargets])


def loop_points(scores, labels):
    """(false alarm, miss) of every threshold, by counting."""
    points = []
    for threshold in [-np.inf, *sorted(set(scores))]:
        accepted = [score > threshold for score in scores]
        alarms = sum(a for a, y in zip(accepted, labels) if y == 0)
        misses = sum(not a for a, y in zip(accepted, labels) if y == 1)
        points.append((alarms / labels.count(0), misses / labels.count(1)))
    return points


def loop_eer(scores, labels):
    """Where the polygon through all operating points crosses the diagonal."""
    points = loop_points(scores, labels)
    for (fa0, miss0), (fa1, miss1) in zip(points, points[1:]):
        if fa1 <= miss1:
            share = (fa0 - miss0) / ((fa0 - miss0) - (fa1 - miss1))
            return miss0 + share * (miss1 - miss0)


@pytest.mark.parametrize("seed", range(20))
def test_error_rates_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    labels = [1, 0, *rng.integers(2, size=rng.integers(1, 40))]
    scores = rng.normal(size=len(labels)) + np.array(labels)
    if seed % 2:  # many ties
        scores = np.round(scores)
    scores = scores.tolist()
    points = loop_points(scores, labels)
    assert equal_error_rate(scores, labels)[0] == pytest.approx(
        loop_eer(scores, labels), abs=1e-12
    )
    for p in (0.01, 0.3, 0.9):
        loop = min(p * miss + (1 - p) * alarm for alarm, miss in points)
        assert min_dcf(scores, labels, p, normalize=False) == pytest.approx(
            loop
        )
        assert min_dcf(scores, labels, p) == pytest.approx(loop / min(p, 1 - p))
    false_alarm, miss, _ = det_curve(scores, labels)
    assert np.allclose(np.transpose([false_alarm, miss]), points)


@pytest.mark.parametrize(
    "targets, nontargets, shift",
    [(50, 50, 1), (20, 300, 2), (300, 7, 0), (200, 400, -1)],
)
def test_error_rates_agree_with_speechbrain(targets, nontargets, shift):
    scores, labels = gaussian_scores(targets, nontargets, shift)
    positive = torch.tensor(scores[labels == 1])
    negative = torch.tensor(scores[labels == 0])
    eer, threshold = equal_error_rate(scores, labels)
    theirs, their_threshold = EER(positive, negative)
    assert abs(eer - theirs) <= 1 / min(targets, nontargets)
    assert min_dcf(scores, labels, normalize=False) == pytest.approx(
        minDCF(positive, negative)[0], abs=1e-6
    )
    # Their threshold and ours make decisions of the same quality.
    miss = np.mean(scores[labels == 1] <= threshold)
    alarm = np.mean(scores[labels == 0] > threshold)
    their_miss = np.mean(scores[labels == 1] <= their_threshold)
    their_alarm = np.mean(scores[labels == 0] > their_threshold)
    assert abs(miss - alarm) <= abs(their_miss - their_alarm) + 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_perfect_reversed_and_tied_scores(dtype):
    labels = np.array([1, 1, 0, 0, 0])
    perfect = np.array([0.9, 0.8, 0.3, 0.2, 0.1], dtype)
    eer, threshold = equal_error_rate(perfect, labels)
    assert eer == 0 and 0.3 < threshold < 0.8
    assert min_dcf(perfect, labels) == 0
    assert equal_error_rate(-perfect, labels)[0] == 1
    assert min_dcf(-perfect, labels) == 1
    tied = np.zeros(5, dtype)
    assert equal_error_rate(tied, labels)[0] == 0.5
    assert min_dcf(tied, labels) == 1


def test_eer_of_equal_gaussians():
    scores, labels = gaussian_scores(200_000, 200_000, shift=2)
    assert equal_error_rate(scores, labels)[0] == pytest.approx(
        0.15866, abs=2e-3
    )
    assert equal_error_rate(scores, labels)[1] == pytest.approx(1, abs=2e-2)


def test_error_rates_do_not_depend_on_order_or_scale():
    scores, labels = gaussian_scores(40, 90)
    shuffled = np.random.default_rng(1).permutation(len(scores))
    eer = equal_error_rate(scores, labels)[0]
    assert equal_error_rate(scores[shuffled], labels[shuffled])[0] == eer
    assert equal_error_rate(np.exp(scores), labels)[0] == eer
    assert (
        equal_error_rate(torch.tensor(scores), torch.tensor(labels))[0] == eer
    )


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
    for function in (equal_error_rate, min_dcf, det_curve):
        with pytest.raises(InputError, match=message):
            function(scores, labels)


@pytest.mark.parametrize("p_target", [0, 1, -1, 2])
def test_bad_prior(p_target):
    with pytest.raises(InputError, match="p_target"):
        min_dcf([1, 0], [1, 0], p_target)


def test_det_curve_thinned_keeps_the_ends_and_the_shape():
    scores, labels = gaussian_scores(3000, 7000)
    full, thin = det_curve(scores, labels), det_curve(scores, labels, 200)
    assert 100 < len(thin[0]) <= 204
    assert [c[0] for c in thin[:2]] == [1, 0]
    assert [c[-1] for c in thin[:2]] == [0, 1]
    at = np.interp(0.1, thin[1], thin[0])
    assert at == pytest.approx(np.interp(0.1, full[1], full[0]), abs=5e-3)


@pytest.mark.parametrize("trials", [3, 400])  # both ways of computing
def test_cosine_scores_equal_a_loop(trials):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(30, 5)), rng.normal(size=(20, 5))
    left[3] = 0
    enrol, test = rng.integers(30, size=trials), rng.integers(20, size=trials)
    enrol[0] = 3
    scores = cosine_scores(left, enrol, test, right)
    assert scores[0] == 0
    for score, i, j in zip(scores[1:], enrol[1:], test[1:]):
        norms = np.linalg.norm(left[i]) * np.linalg.norm(right[j])
        loop = left[i] @ right[j] / norms if norms else 0
        assert score == pytest.approx(loop)


def test_bad_embeddings_and_rows():
    good = np.eye(3)
    with pytest.raises(InputError, match="NaN"):
        cosine_scores(good * np.nan, [0], [1])
    with pytest.raises(InputError, match="rows 0 to 3"):
        cosine_scores(good, [0, 3], [1, 1])
    with pytest.raises(InputError, match="integer"):
        cosine_scores(good, [0.0], [1])
    with pytest.raises(InputError, match="3 dimensions"):
        cosine_scores(good, [0], [1], np.ones((2, 2)))


SPEAKERS = np.repeat(["a", "b", "c", "d"], 6)
CONTENTS = np.tile([1, 2, 3, 1, 2, 3], 4)  # two takes a cell
GENDERS = np.repeat(["f", "f", "m", "m"], 6)


@pytest.mark.parametrize("different", [True, False])
@pytest.mark.parametrize("same_gender", [True, False])
def test_all_trials_are_the_pairs_of_a_double_loop(different, same_gender):
    trials = generate_trials(
        SPEAKERS, CONTENTS, GENDERS, different, same_gender
    )
    expected = set()
    for i, j in itertools.combinations(range(len(SPEAKERS)), 2):
        target = SPEAKERS[i] == SPEAKERS[j]
        if different and CONTENTS[i] == CONTENTS[j]:
            continue
        if same_gender and not target and GENDERS[i] != GENDERS[j]:
            continue
        expected.add((i, j, int(target)))
    found = list(zip(trials.enrol, trials.test, trials.label))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert trials.targets + trials.nontargets == len(trials)


@pytest.mark.parametrize("maximum", [5, 100])
def test_selected_trials_are_distinct_allowed_and_seeded(maximum):
    rng = np.random.default_rng(0)
    speakers, contents = rng.integers(40, size=(2, 900))

    def make(seed):
        return generate_trials(
            speakers, contents, max_targets=maximum, max_nontargets=maximum,
            seed=seed,
        )  # fmt: skip

    trials = make(0)
    assert trials.targets == trials.nontargets == maximum
    pairs = set(zip(trials.enrol.tolist(), trials.test.tolist()))
    assert len(pairs) == 2 * maximum
    same = speakers[trials.enrol] == speakers[trials.test]
    assert np.array_equal(same, trials.label == 1)
    assert (contents[trials.enrol] != contents[trials.test]).all()
    assert (trials.enrol < trials.test).all()
    assert np.array_equal(make(0).enrol, trials.enrol)
    assert not np.array_equal(make(1).enrol, trials.enrol)


@pytest.mark.parametrize("maximum", [30, 3000])  # rejection and enumeration
def test_selection_is_uniform(maximum):
    speakers = np.repeat(np.arange(10), 8)
    contents = np.tile(np.arange(8), 10)
    every = generate_trials(speakers, contents)
    counts = np.zeros((80, 80))
    repeats = 30000 // maximum
    for seed in range(repeats):
        trials = generate_trials(
            speakers, contents, max_nontargets=min(maximum, 1000), seed=seed
        )
        part = trials.label == 0
        np.add.at(counts, (trials.enrol[part], trials.test[part]), 1)
    part = every.label == 0
    drawn = counts[every.enrol[part], every.test[part]]
    assert drawn.sum() == counts.sum()
    expected = drawn.mean()
    # Chi-square of a uniform draw: about one a degree of freedom.
    chi = ((drawn - expected) ** 2 / expected).sum() / len(drawn)
    assert chi < 1.15


@pytest.mark.parametrize(
    "speakers, contents, options, message",
    [
        (["a", "a"], None, {}, "no non-target pair .*1 speaker"),
        (["a", "b"], None, {}, "no target pair"),
        (["a", "a", "b"], [1, 1, 2], {}, "no target pair of different content"),
        (["a", "a", "b"], [1, 2], {}, "contents: expected"),
        (["a", "a", "b"], None, {"same_gender": True}, "needs the genders"),
        (["a", "a", "b"], None, {"max_targets": 0}, "maximum"),
        ([], None, {}, "no utterances"),
    ],
)
def test_trials_that_cannot_be_made(speakers, contents, options, message):
    with pytest.raises(InputError, match=message):
        generate_trials(speakers, contents, **options)


def test_trial_lists_survive_a_round_trip(tmp_path):
    ids = [f"{s}/{i}" for i, s in enumerate(SPEAKERS)]
    trials = generate_trials(SPEAKERS, CONTENTS)
    path = tmp_path / "new" / "trials.txt"
    write_trials(path, trials, ids)
    line = path.read_text().splitlines()[0].split()
    assert line[0] == "1" and line[1].endswith(".wav")
    for names in (ids, [f"{i}.wav" for i in ids], [f"{i}.flac" for i in ids]):
        again = read_trials(path, names)
        for field in ("enrol", "test", "label"):
            assert np.array_equal(getattr(again, field), getattr(trials, field))


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 a.wav\n", "line 1: expected 'label enrol.wav test.wav'"),
        ("\n2 a.wav b.wav\n", "line 2: expected"),
        ("1 a.wav b.wav\n0 a.wav x.wav\n", r"'x.wav' \(line 2\)"),
        ("\n", "no trials"),
    ],
)
def test_bad_trial_lists(tmp_path, text, message):
    path = tmp_path / "trials.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_trials(path, ["a", "b"])


def test_missing_trial_list_and_repeated_names(tmp_path):
    with pytest.raises(InputError, match="cannot read the trial list"):
        read_trials(tmp_path / "none.txt", ["a"])
    with pytest.raises(InputError, match="occur twice"):
        read_trials(tmp_path / "none.txt", ["a", "a.wav"])


def test_scoring_a_second_channel():
    trials = Trials(np.array([0, 0]), np.array([0, 1]), np.array([1, 0]))
    shifted = np.eye(2)[::-1]
    assert trials.score(np.eye(2), shifted).tolist() == [0, 1]
