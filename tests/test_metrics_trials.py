"""Trials and trial lists against plain loops."""

import itertools

import numpy as np
import pytest

from speechbrain_ext.metrics import trials as trials_module
from speechbrain_ext.metrics.trials import (
    check_labels,
    cosine_scores,
    generate_trials,
    read_trials,
    write_trials,
)
from speechbrain_ext.utils.errors import InputError

SPEAKERS = np.repeat(["a", "b", "c", "d"], 6)


@pytest.mark.parametrize("chunk", [1, 1 << 22])  # both ways of computing
def test_cosine_scores_equal_a_loop(monkeypatch, chunk):
    monkeypatch.setattr(trials_module, "CHUNK", chunk)
    monkeypatch.setattr(trials_module, "CACHED", 9 * 5)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 5))
    vectors[3] = 0
    enrol, test = rng.integers(30, size=(2, 40))
    enrol[0] = 3
    for score, i, j in zip(cosine_scores(vectors, enrol, test), enrol, test):
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        assert score == pytest.approx(vectors[i] @ vectors[j] / (norms or 1))


def test_bad_embeddings_and_rows():
    for vectors, enrol, test, message in (
        (np.eye(3) * np.nan, [0], [1], "NaN"),
        (np.eye(3), [0, 3], [1, 1], "rows 0 to 3"),
        (np.eye(3), [-1], [1], "rows -1 to -1"),
        (np.eye(3), [0.0], [1], "integer"),
        (np.eye(3), [0, 1], [1], "2 enrolment rows, 1 test rows"),
    ):
        with pytest.raises(InputError, match=message):
            cosine_scores(vectors, enrol, test)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("different", [True, False])
@pytest.mark.parametrize("same_gender", [True, False])
def test_all_trials_are_the_pairs_of_a_double_loop(
    different, same_gender, seed
):
    """Of a grid with holes and several takes."""
    rng = np.random.default_rng(seed)
    speakers, contents = rng.integers([12, 3], size=(25, 2)).T
    genders = speakers % 2
    trials = generate_trials(
        speakers, contents, genders, different, same_gender
    )
    expected = set()
    for i, j in itertools.combinations(range(25), 2):
        target = speakers[i] == speakers[j]
        if different and contents[i] == contents[j]:
            continue
        if same_gender and genders[i] != genders[j]:
            continue
        expected.add((i, j, int(target)))
    found = list(zip(trials.enrol, trials.test, trials.label))
    assert len(found) == len(set(found)) and set(found) == expected
    assert trials.label.sum() == sum(label for _, _, label in expected)


@pytest.mark.parametrize("maximum", [5, 100])
def test_selected_trials_are_distinct_allowed_and_seeded(maximum):
    rng = np.random.default_rng(0)
    speakers, contents = rng.integers(40, size=(2, 900))

    def make(seed):
        most = {"max_targets": maximum, "max_nontargets": maximum}
        return generate_trials(speakers, contents, seed=seed, **most)

    trials = make(0)
    assert trials.label.tolist() == [1] * maximum + [0] * maximum
    assert len(set(zip(trials.enrol, trials.test))) == 2 * maximum
    check_labels(trials, speakers)
    with pytest.raises(InputError, match="mine: .* labels contradict"):
        check_labels(trials, contents, "mine")
    assert (contents[trials.enrol] != contents[trials.test]).all()
    assert (trials.enrol < trials.test).all()
    assert np.array_equal(make(0).enrol, trials.enrol)
    assert not np.array_equal(make(1).enrol, trials.enrol)


@pytest.mark.parametrize("maximum", [30, 1000])  # rejection and enumeration
def test_selection_is_uniform(maximum):
    speakers, contents = np.divmod(np.arange(80), 8)
    every = generate_trials(speakers, contents)
    counts = np.zeros((80, 80))
    for seed in range(30000 // maximum):
        trials = generate_trials(
            speakers, contents, max_nontargets=maximum, seed=seed
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
        (["a", "a", "b"], None, {"max_targets": 0}, "max_targets is 0: exp"),
        (["a", "a", "b"], None, {"max_targets": 1.5}, "max_targets is 1.5"),
        (["a", "a", "b"], None, {"max_nontargets": "2"}, "nontargets is '2'"),
        (["a", "a", "b"], None, {"seed": -1}, "seed is -1: expected a whole"),
        ([1, "1", 2], None, {}, "speakers: '1' in row 1 after 1 in row 0"),
        (["a", "a", None], None, {}, "speakers: None in row 2 .* none missing"),
        ([1.0, np.nan, 1.0], None, {}, "speakers: nan in row 1 after 1.0"),
        (["a", np.nan, "a"], None, {}, "speakers: nan in row 1 after 'a'"),
        ([["a"], ["b", "c"]], None, {}, "speakers: expected one value for ea"),
        ([], None, {}, "no utterances"),
    ],
)
def test_trials_that_cannot_be_made(speakers, contents, options, message):
    with pytest.raises(InputError, match=message):
        generate_trials(speakers, contents, **options)


def test_more_pairs_than_fit_in_memory(monkeypatch):
    monkeypatch.setattr(trials_module, "MAX_PAIRS", 200)
    with pytest.raises(InputError, match="216 non-target pairs do not fit"):
        generate_trials(SPEAKERS)
    assert len(generate_trials(SPEAKERS, max_nontargets=200)) == 260


def test_trial_lists_survive_a_round_trip(tmp_path):
    ids = [f"{s}/{i}" for i, s in enumerate(SPEAKERS)]
    trials = generate_trials(SPEAKERS)
    path = tmp_path / "new" / "trials.txt"
    write_trials(path, trials, ids)
    assert path.read_text().startswith("1 a/0.wav a/1.wav\n")
    for suffix in ("", ".wav", ".flac"):
        again = read_trials(path, [f"{name}{suffix}" for name in ids])
        for field in ("enrol", "test", "label"):
            assert np.array_equal(getattr(again, field), getattr(trials, field))


def test_pairs_that_are_repeated_are_warned_of(tmp_path, caplog):
    path = tmp_path / "trials.txt"
    path.write_text("1 a b\n1 b a\n1 a b\n0 a c\n")
    assert len(read_trials(path, "abc")) == 4
    assert caplog.text.count("2 of 4 trials repeat the pair of another") == 1


@pytest.mark.parametrize(
    "text, ids, message",
    [
        ("1 a.wav\n", "ab", "line 1: expected 'label enrol.wav test.wav'"),
        ("\n2 a.wav b.wav\n", "ab", "line 2: expected"),
        ("1 a.wav b.wav\n0 a.wav x.wav\n", "ab", r"'x.wav' \(line 2\)"),
        ("\n", "ab", "no trials"),
        ("1 a.wav a.wav\n", ["a", "a.wav"], "1 of 2 utterance names occur"),
        (None, "ab", "cannot read the trial list"),
    ],
)
def test_bad_trial_lists(tmp_path, text, ids, message):
    path = tmp_path / "trials.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_trials(path, ids)


def test_trials_without_labels(tmp_path):
    """All have a label, or none has."""
    path = tmp_path / "trials.txt"
    path.write_text("b.wav c\n\na b.wav\n")
    trials = read_trials(path, "abc", labelled=False)
    assert (trials.enrol.tolist(), trials.test.tolist()) == ([1, 0], [2, 1])
    assert trials.label is None and len(trials) == 2
    for text in ("a b\n1 b c\n", "1 a b\nb c\n"):
        path.write_text(text)
        with pytest.raises(InputError, match="line 2: some trials have a la"):
            read_trials(path, "abc", labelled=False)
