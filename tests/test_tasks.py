"""The tasks of an evaluation, on subspaces with known answers."""

import numpy as np
import pytest
import torch
from test_metrics_probes import CONTENTS, SPEAKERS, parts

from speechbrain_ext.evaluation.results import Subspace, select
from speechbrain_ext.evaluation.tasks import (
    ContentRetrieval,
    Embedded,
    Keywords,
    Leakage,
    Verification,
    run_tasks,
)
from speechbrain_ext.metrics.keywords import keyword_classification
from speechbrain_ext.metrics.scoring import s_norm_scoring
from speechbrain_ext.metrics.trials import Trials, generate_trials, trial_groups
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import group_error_rates, min_dcf
from speechbrain_ext.utils.errors import InputError

GRID = {"speaker": SPEAKERS, "content": CONTENTS}
NOISY = {
    Subspace("joint", name): part + parts()[2]
    for name, part in zip(GRID, parts())
}


def value(rows, **columns):
    """The value of the one row with these columns."""
    (row,) = select(rows, **columns)
    return row["value"]


def test_rows_of_pure_subspaces():
    vectors = {
        Subspace("joint", "speaker", "mel", "2+4", 7): np.eye(12)[SPEAKERS],
        Subspace("joint", "content", "mel", "2+4", 7): np.eye(20)[CONTENTS],
    }
    tasks = [
        Verification("speaker", generate_trials(*GRID.values())),
        ContentRetrieval("content", CONTENTS, SPEAKERS),
    ]
    embedded = Embedded("channels", {"test": vectors})
    rows = run_tasks(tasks, embedded, data="vox")
    found = [
        (row["task"], row["subspace"], row["target"], row["measure"],
         round(row["value"], 2), row["n"])
        for row in rows
        if row["measure"] not in ("threshold", "miss", "false_alarm")
    ]  # fmt: skip
    # Pairs of different content: the content says nothing of the speaker.
    pairs = 12 * 190 + 66 * 380
    assert found == [
        ("", "speaker", "", "dimension", 12, ""),
        ("", "content", "", "dimension", 20, ""),
        ("verification", "speaker", "speaker", "eer", 0, pairs),
        ("verification", "content", "speaker", "eer", 0.5, pairs),
        ("verification", "speaker", "speaker", "min_dcf", 0, pairs),
        ("verification", "content", "speaker", "min_dcf", 1, pairs),
        ("content", "speaker", "content", "accuracy", 0.05, 240),
        ("content", "content", "content", "accuracy", 1, 240),
        ("content", "", "content", "chance", 0.05, 240),
    ]
    for row in rows:
        assert row["condition"] == "channels" and row["data"] == "vox"
        assert (row["low"], row["high"]) == ("", "")
        if row["measure"] != "chance":
            assert row["layers"] == "2+4" and row["seed"] == 7


def test_verification_has_scores_groups_and_intervals():
    trials = generate_trials(SPEAKERS[40:])  # two people are in no trial
    trials = Trials(trials.enrol + 40, trials.test + 40, trials.label)
    groups = [
        trial_groups(np.array(names)[SPEAKERS % 2], trials)
        for names in (["f", "m"], ["old", "new"])
    ]
    task = Verification(
        "speaker", trials, SPEAKERS, groups, s_norm_scoring, "s-norm",
        cohort=CONTENTS, list_name="mine", resamples=50, seed=3,
    )  # fmt: skip
    cohort = {o: parts()[n] for n, o in enumerate(NOISY)}
    rows = task(Embedded("recorded", {"test": NOISY, "cohort": cohort}))
    resamples = SpeakerResamples(SPEAKERS, 50, 3, rows=np.arange(40, 240))
    draws = []
    for origin, one in NOISY.items():
        scores = s_norm_scoring(one, trials, (cohort[origin], CONTENTS))
        assert np.array_equal(task.scores["recorded"][origin], scores)
        own = select(rows, subspace=origin.subspace)
        rates = group_error_rates(scores, trials.label, groups[0])
        rates |= group_error_rates(scores, trials.label, groups[1])
        assert len(rates) == 9
        for group, found in rates.items():
            counts = found["targets"], found["nontargets"]
            for measure, n in (
                *(("eer", sum(counts)), ("threshold", sum(counts))),
                *zip(("miss", "false_alarm"), counts),
            ):
                expected = (found[measure], n)
                row = select(own, group=group, measure=measure)
                assert [(r["value"], r["n"]) for r in row] == (
                    [] if found[measure] is None else [expected]
                )
        assert value(own, measure="min_dcf") == min_dcf(scores, trials.label)
        draws.append(resamples.eer(scores, trials))
        (row,) = select(own, measure="eer", group="")
        assert (row["backend"], row["list"]) == ("s-norm", "mine")
        assert [row["low"], row["high"]] == resamples.interval(draws[-1])
    (row,) = select(rows, measure="eer_difference")
    interval = resamples.interval(draws[1] - draws[0])
    assert [row["low"], row["high"]] == interval
    assert row["subspace"] == "content" and row["value"] > 0


def test_keywords():
    training = {o: v[SPEAKERS > 3] for o, v in NOISY.items()}
    test = {o: v[SPEAKERS <= 3] for o, v in NOISY.items()}
    words = np.array(list("abcde"))[CONTENTS // 4]
    labels = words[SPEAKERS > 3], words[SPEAKERS <= 3]
    task = Keywords(
        "content", *labels, SPEAKERS[SPEAKERS <= 3],
        resamples=9, reference="joint content",
    )  # fmt: skip
    rows = task(Embedded("channels", {"test": test, "training": training}))
    for origin in NOISY:
        expected = keyword_classification(
            training[origin], labels[0], test[origin], labels[1]
        )
        own = select(rows, subspace=origin.subspace)
        for measure in ("accuracy", "balanced_accuracy", "macro_f1"):
            assert value(own, measure=measure) == expected[measure]
        recall = {r["group"]: r["value"] for r in select(own, measure="recall")}
        assert recall == expected["recall"]
        assert {r["n"] for r in select(own, measure="recall")} == {16}
        predicted = task.predicted["channels"][origin]
        assert np.array_equal(predicted, expected["predicted"])
    assert value(rows, measure="chance") == value(rows, measure="majority")
    difference = value(rows, measure="accuracy_difference")
    accuracies = [r["value"] for r in select(rows, measure="accuracy")]
    assert difference == accuracies[0] - accuracies[1] < -0.3


def leakage(vectors, factors, features=None, **options):
    """Rows of vectors, name -> [N, D], each a subspace of a system s."""
    vectors = {Subspace("s", name): v for name, v in vectors.items()}
    task = Leakage(factors, **options)
    return task(Embedded("recorded", {"test": vectors}, features))


def told(rows, subspace, target, measure="accuracy"):
    return value(rows, subspace=subspace, target=target, measure=measure)


def test_leakage_of_pure_and_copied_subspaces():
    speaker, content, noise = parts()
    features = np.hstack([speaker, content]) + 0.1 * np.hstack([noise, noise])
    rows = leakage(
        {
            "speaker": np.eye(12)[SPEAKERS],
            "content": content,
            "noise": noise,
            "copy": features,
        },
        GRID,
        torch.tensor(features).reshape(240, 2, 16),
    )
    assert told(rows, "speaker", "speaker") == 1
    assert told(rows, "content", "content") == 1
    # What holds only the other factor is at chance: 1/20 and 1/12.
    assert told(rows, "speaker", "content") <= 0.05 + 1e-9
    assert told(rows, "content", "speaker") <= 1 / 12 + 1e-9
    for factor, values in (("speaker", 12), ("content", 20)):
        deviation = np.sqrt(1 / values / 240)
        assert abs(told(rows, "noise", factor) - 1 / values) < 4 * deviation
        assert told(rows, "copy", factor) == told(rows, "input", factor)
        for measure in ("chance", "majority"):
            assert told(rows, "", factor, measure) == 1 / values
    assert told(rows, "speaker", "speaker", "eer") == 0
    assert told(rows, "speaker", "content", "eer") == 0.5
    assert told(rows, "speaker", "speaker", "variance") == pytest.approx(1)
    controls = select(rows, system="control", measure="dimension")
    assert {row["subspace"]: row["value"] for row in controls} == {
        "input": 32, "PCA 12": 12, "random 12": 12, "PCA 16": 16,
        "random 16": 16, "PCA 32": 32, "random 32": 32,
    }  # fmt: skip
    shared = select(rows, measure="cka")
    assert len(shared) == 6 and {row["system"] for row in shared} == {"s"}
    assert value(shared, subspace="content", target="copy") > 0.2
    assert value(shared, subspace="speaker", target="noise") < 0.2


def test_a_probe_finds_what_the_cosine_does_not_show():
    """The speaker in a direction of little variance."""
    _, content, noise = parts()
    vectors = np.hstack([20 * content + noise, 0.1 * np.eye(12)[SPEAKERS]])
    rows = leakage({"content": vectors}, GRID)
    assert told(rows, "content", "speaker", "eer") > 0.4
    assert told(rows, "content", "speaker") > 0.95


def test_leakage_has_intervals_over_speakers():
    rows = leakage(
        {"s": parts()[0] + 2 * parts()[2]},
        GRID,
        speakers=SPEAKERS,
        resamples=50,
    )
    for row in select(rows, measure="accuracy"):
        assert row["low"] < row["value"] < row["high"]


def test_a_third_factor_does_not_let_cells_leak():
    """A vector that only names its (speaker, content), in three styles."""
    vectors = {"cell": np.repeat(parts(32)[2], 3, axis=0)}
    factors = {name: np.repeat(codes, 3) for name, codes in GRID.items()}
    factors["style"] = np.tile(np.arange(3), 240)
    rows = leakage(vectors, factors)
    assert not select(rows, measure="variance")
    for factor in factors:
        chance = told(rows, "", factor, "chance")
        # All takes of a cell are alike: 240 independent utterances.
        deviation = np.sqrt(chance * (1 - chance) / 240)
        assert told(rows, "cell", factor) - chance < 3 * deviation, factor
        assert told(rows, "cell", factor, "eer") > 0.45, factor
    # The order says which factor is held apart: by style, no cell is new.
    order = ("style", "speaker", "content")
    rows = leakage(vectors, {f: factors[f] for f in order})
    assert told(rows, "cell", "speaker") > 0.3


@pytest.mark.parametrize(
    "content, reason, others",
    [
        (np.arange(240), "occurs in 2 groups", {"speaker", "style"}),
        (np.zeros(240), "got 1 and 12", {"style"}),  # which parts speakers too
    ],
)
def test_impossible_probes_are_left_out(content, reason, others, caplog):
    vectors = {"s": parts()[0] + parts()[2]}
    factors = {"speaker": SPEAKERS, "content": content, "style": CONTENTS % 2}
    rows = leakage(vectors, factors, vectors["s"][:, None])
    assert "No probe of content: " in caplog.text and reason in caplog.text
    for measure in ("accuracy", "eer"):
        found = select(rows, measure=measure)
        assert {row["target"] for row in found} == others
        assert len(found) == 4 * len(others)  # with three controls


def test_what_leakage_refuses():
    labels = {"speaker": [1, 1, 2, 2], "content": [1, 2, 1, 2]}
    with pytest.raises(InputError, match="2 folds"):
        Leakage(labels, folds=1)
    with pytest.raises(InputError, match="two factors or more, got speaker"):
        Leakage({"speaker": labels["speaker"]})
    with pytest.raises(InputError, match="subspace s content: .* NaN"):
        leakage({"content": np.full((4, 2), np.nan)}, labels)
