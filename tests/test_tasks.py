"""The tasks of an evaluation, on subspaces with known answers."""

import numpy as np
import pytest
import torch
from helpers import CONTENTS, SPEAKERS, parts

from speechbrain_ext.evaluation.leakage import Leakage
from speechbrain_ext.evaluation.results import Subspace, identity, select
from speechbrain_ext.evaluation.tasks import (
    Embedded,
    Keywords,
    Verification,
    run_tasks,
)
from speechbrain_ext.metrics.keywords import keyword_classification
from speechbrain_ext.metrics.scoring import s_norm_scoring
from speechbrain_ext.metrics.trials import Trials, generate_trials, trial_groups
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.metrics.verification import (
    group_error_rates,
    min_dcf,
    sort_trials,
)
from speechbrain_ext.utils.errors import InputError

GRID = {"speaker": SPEAKERS, "content": CONTENTS}
NOISY = {
    Subspace("joint", name): part + parts()[2]
    for name, part in zip(GRID, parts())
}


def told(rows, subspace, target, measure="accuracy"):
    (row,) = select(rows, subspace=subspace, target=target, measure=measure)
    return row["value"]


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
    for origin, vectors in NOISY.items():
        scores = s_norm_scoring(vectors, trials, (cohort[origin], CONTENTS))
        assert np.array_equal(task.scores["recorded"][origin], scores)
        draws.append(resamples.eer(scores, trials))
        own = select(rows, subspace=origin.subspace, list="mine")
        (row,) = select(own, measure="eer", group="", backend="s-norm")
        assert [row["low"], row["high"]] == resamples.interval(draws[-1])
        cost = told(own, origin.subspace, "speaker", "min_dcf")
        assert cost == min_dcf(scores, trials.label)
        for kinds in groups:
            whole = sort_trials(scores, trials.label)
            threshold = whole.equal_error_rate()[1]
            rates = {"": whole.rates(threshold)} | group_error_rates(
                scores, trials.label, kinds, threshold
            )
            for group, one in rates.items():
                found = select(own, group=group, measure=tuple(one))
                assert {row["measure"]: row["value"] for row in found} == {
                    name: value
                    for name, value in one.items()
                    if value is not None and "targets" not in name
                }
    # Of five women: 5 * 190 target trials, 10 * 400 others.
    numbers = {row["measure"]: row["n"] for row in select(own, group="f-f")}
    assert numbers["miss"] == 950 and numbers["false_alarm"] == 4000
    assert numbers["eer"] == numbers["threshold"] == 4950
    (row,) = select(rows, measure="eer_difference")
    interval = resamples.interval(draws[1] - draws[0])
    assert [row["low"], row["high"]] == interval
    assert row["subspace"] == "content" and row["value"] > 0


def test_keywords():
    kept = SPEAKERS > 3
    training = {origin: vectors[kept] for origin, vectors in NOISY.items()}
    test = {origin: vectors[~kept] for origin, vectors in NOISY.items()}
    words = np.array(list("abcde"))[CONTENTS // 4]
    task = Keywords(
        "content", words[kept], words[~kept], SPEAKERS[~kept],
        resamples=9, reference="joint content",
    )  # fmt: skip
    rows = task(Embedded("channels", {"test": test, "training": training}))
    for origin in NOISY:
        expected = keyword_classification(
            training[origin], words[kept], test[origin], words[~kept]
        )
        for measure in ("accuracy", "balanced_accuracy", "macro_f1"):
            found = told(rows, origin.subspace, "content", measure)
            assert found == expected[measure]
        recall = select(rows, subspace=origin.subspace, measure="recall")
        recall = {row["group"]: (row["value"], row["n"]) for row in recall}
        assert recall == {k: (r, 16) for k, r in expected["recall"].items()}
        predicted = task.predicted["channels"][origin]
        assert np.array_equal(predicted, expected["predicted"])
    for measure in ("chance", "majority"):
        assert told(rows, "", "content", measure) == 0.2
    (difference,) = select(rows, measure="accuracy_difference")
    assert difference["subspace"] == "speaker" and difference["value"] < -0.3


def test_all_measures_have_a_mean_over_the_seeds():
    """A table of several seeds has one line for each system."""
    trials = generate_trials(SPEAKERS, CONTENTS, max_nontargets=2000)
    genders = np.array(["f", "m"])[SPEAKERS % 2]
    asked = [
        Verification("speaker", trials, groups=[trial_groups(genders, trials)]),
        Keywords("content", CONTENTS, CONTENTS, SPEAKERS),
        Leakage(GRID),
    ]
    seeds = {
        origin._replace(seed=seed): vectors + 0.1 * seed * parts()[2]
        for origin, vectors in NOISY.items()
        for seed in (1, 2)
    }
    vectors = {"test": seeds, "training": seeds}
    rows = run_tasks(asked, Embedded("recorded", vectors))
    keys = {
        seed: {identity(r | {"seed": "all"}, r["measure"]) for r in found}
        for seed in (1, "all")
        if (found := select(rows, seed=seed))
    }
    missing = keys[1] - keys["all"]
    # Each seed has its own test.
    alone = {key[-1] for key in missing}
    assert len(keys[1]) > 90 and alone == {"cka", "mcnemar_p"}
    (dimension,) = select(rows, seed="all", subspace="speaker", task="")[:1]
    assert dimension["measure"] == "dimension" and dimension["value"] == 16


def leakage(vectors, factors=GRID, features=None, **options):
    """Rows of vectors, name -> [N, D], each a subspace of a system s."""
    vectors = {Subspace("s", name): v for name, v in vectors.items()}
    task = Leakage(factors, **options)
    features = {} if features is None else {("", ""): features}
    return task(Embedded("recorded", {"test": vectors}, features))


def test_leakage_of_pure_and_copied_subspaces():
    speaker, content, noise = parts()
    copy = np.hstack([speaker, content]) + 0.1 * np.hstack([noise, noise])
    pure = np.eye(12)[SPEAKERS]
    rows = leakage(
        {"speaker": pure, "content": content, "noise": noise, "copy": copy},
        features=torch.tensor(copy).reshape(240, 2, 16),
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
    assert told(rows, "content", "copy", "cka") > 0.2
    assert told(rows, "speaker", "noise", "cka") < 0.2


def test_a_probe_finds_what_the_cosine_does_not_show():
    """The speaker in a direction of little variance."""
    _, content, noise = parts()
    vectors = np.hstack([20 * content + noise, 0.1 * np.eye(12)[SPEAKERS]])
    rows = leakage({"content": vectors})
    assert told(rows, "content", "speaker", "eer") > 0.4
    assert told(rows, "content", "speaker") > 0.95


def test_leakage_has_intervals_over_speakers():
    vectors = {"s": parts()[0] + 2 * parts()[2]}
    rows = leakage(vectors, speakers=SPEAKERS, resamples=50)
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
    with pytest.raises(InputError, match="2 folds"):
        Leakage(GRID, folds=1)
    with pytest.raises(InputError, match="two factors or more, got speaker"):
        Leakage({"speaker": SPEAKERS})
    with pytest.raises(InputError, match="subspace s content: .* NaN"):
        leakage({"content": np.full((240, 2), np.nan)})


def test_what_the_thresholds_of_exports_do():
    """Of four pairs that differ two are accepted, of two that agree none."""
    vectors = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6], [-1, 0.0]])
    trials = generate_trials(list("aabb"))
    known = {("x", 1, "speaker"): 0.7, ("y", 1, "speaker"): 0.0}
    origin = Subspace("x", "speaker", seed=1)
    task = Verification("speaker", trials, thresholds=known)
    rows = task(Embedded("recorded", {"test": {origin: vectors}}))
    found = {row["measure"]: row for row in rows}
    scores = vectors @ vectors.T
    differ = [scores[i, j] > 0.7 for i in (0, 1) for j in (2, 3)]
    assert found["false_accepts"]["value"] == np.mean(differ) == 0.5
    assert found["false_rejects"]["value"] == 1.0
    assert (found["false_accepts"]["n"], found["false_rejects"]["n"]) == (4, 2)
    others = Verification("speaker", trials)
    rows = others(Embedded("recorded", {"test": {origin: vectors}}))
    assert "false_accepts" not in {row["measure"] for row in rows}


def test_ratios_of_calibrated_exports_and_of_scorings():
    """Ln 3 for each pair that agrees, minus that for each that differs."""
    vectors = np.array([[1, 0], [1, 0], [-1, 0], [-1, 0.0]])
    trials = generate_trials(list("aabb"))
    known = Subspace("x", "speaker", seed=1)
    given = {known: vectors, known._replace(system="y"): vectors}
    embedded = Embedded("recorded", {"test": given})
    odds = np.log(3)
    calibration = {("x", 1, "speaker"): (odds, 0.0)}
    rows = Verification("speaker", trials, calibration=calibration)(embedded)
    [row] = select(rows, measure="cllr")
    assert row["system"] == "x" and row["n"] == 6
    assert row["value"] == pytest.approx(np.log2(4 / 3))
    # To accept at a prior of 1 % the ratios are too small.
    [row] = select(rows, measure="actual_dcf")
    assert (row["system"], row["value"]) == ("x", 1)
    found = [row["value"] for row in select(rows, measure="min_cllr")]
    assert found == [0, 0]
    # Cosines of 1 and -1 as if they were ratios.
    rows = Verification("speaker", trials, ratios=True)(embedded)
    found = [row["value"] for row in select(rows, measure="cllr")]
    assert found == [pytest.approx(np.log2(1 + np.exp(-1)))] * 2


def test_keywords_are_tested_against_the_reference_of_the_same_seed():
    words = np.tile(list("ab"), 10)
    right = np.eye(2)[(words == "b").astype(int)]

    def mixed(count):
        """Vectors of which the first ones say the other word."""
        return np.where(np.arange(20)[:, None] < count, 1 - right, right)

    errors = {("base", 1): 6, ("base", 2): 0, ("x", 1): 0, ("x", 2): 0}
    given = {
        Subspace(name, seed=seed): mixed(count)
        for (name, seed), count in errors.items()
    }
    training = dict.fromkeys(given, right)
    embedded = Embedded("recorded", {"test": given, "training": training})
    task = Keywords("content", words, words, np.arange(20), reference="base")
    rows = select(task(embedded), measure="mcnemar_p")
    assert {(row["system"], row["seed"]): row["value"] for row in rows} == {
        ("x", 1): pytest.approx(2**-6),
        ("x", 2): 1,
    }
