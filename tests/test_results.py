"""Rows of the one long table, and its pivots."""

import numpy as np
import pytest
from helpers import read_table

from speechbrain_ext.evaluation.results import (
    COLUMNS,
    Subspace,
    differs,
    find_reference,
    make_row,
    measure_rows,
    pivot,
    read_results,
    select,
    write_results,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

BASE, SINGLE = Subspace("base"), Subspace("b", "x", seed=1)
ONE, TWO, THREE, MEAN = (Subspace("a", "x", seed=s) for s in (1, 2, 3, "all"))
VALUES = {BASE: 0.3, ONE: 0.2, TWO: 0.3, THREE: 0.28, SINGLE: 0.35}
SHARED = 0.3 + 0.1 * np.random.default_rng(0).normal(size=200)
OWN = 0.01 * np.random.default_rng(1).normal(size=(3, 200))
DRAWS = {
    BASE: SHARED,
    ONE: SHARED - 0.1 + OWN[0],
    TWO: SHARED + OWN[1],
    THREE: SHARED + OWN[2],
    SINGLE: SHARED + 0.5,
}
DRAWN_MEAN = SHARED - 0.1 / 3 + OWN.mean(axis=0)


def by_measure(reference=None):
    """Measure -> origin -> row, of several seeds."""
    rows = measure_rows(
        VALUES, DRAWS, reference, measure="eer", task="verification", n=99
    )
    found = {}
    for row in rows:
        origin = Subspace(*(row[name] for name in Subspace._fields))
        assert row["task"] == "verification"
        assert row["n"] == (99 if row["measure"] == "eer" else "")
        found.setdefault(row["measure"], {})[origin] = row
    assert sum(map(len, found.values())) == len(rows)
    return found


def check(row, value, draws):
    assert row["value"] == pytest.approx(value)
    interval = np.quantile(draws, [0.025, 0.975])
    assert [row["low"], row["high"]] == pytest.approx(interval)


def test_mean_deviation_and_paired_differences_over_seeds():
    """Noise that the seeds share with the reference leaves the difference."""
    found = by_measure()
    assert set(found) == {"eer", "eer_sd", "eer_difference"}
    assert set(found["eer"]) == {*VALUES, MEAN}
    for origin, value in VALUES.items():
        check(found["eer"][origin], value, DRAWS[origin])
    check(found["eer"][MEAN], 0.26, DRAWN_MEAN)
    (deviation,) = found["eer_sd"].values()
    assert found["eer_sd"] == {MEAN: deviation}
    expected = np.sqrt((0.06**2 + 0.04**2 + 0.02**2) / 2)
    assert deviation["value"] == pytest.approx(expected)
    differences = found["eer_difference"]
    assert set(differences) == {*VALUES, MEAN} - {BASE}
    check(differences[MEAN], -0.04, DRAWN_MEAN - SHARED)
    check(differences[TWO], 0, OWN[1])
    assert [differs(differences[o]) for o in (MEAN, TWO, SINGLE)] == [1, 0, 1]
    assert not differs(deviation)


def test_a_reference_with_seeds_stands_for_its_mean():
    differences = by_measure("a x")["eer_difference"]
    assert MEAN not in differences
    check(differences[SINGLE], 0.09, DRAWS[SINGLE] - DRAWN_MEAN)
    check(differences[ONE], -0.06, DRAWS[ONE] - DRAWN_MEAN)
    assert find_reference([ONE, TWO], "a x") == ONE
    with pytest.raises(InputError, match="'a y': there are base, a x, b x"):
        by_measure("a y")


@pytest.mark.parametrize("draws", [None, dict.fromkeys(VALUES, [np.nan, 1.0])])
def test_without_draws_or_with_missing_ones_there_is_no_interval(draws):
    rows = measure_rows(VALUES, draws, measure="eer")
    assert {(row["low"], row["high"]) for row in rows} == {("", "")}
    differences = select(rows, measure="eer_difference")
    assert [differs(row) for row in differences] == [False] * len(draws or ())


def test_pivot_has_deviations_intervals_and_stars():
    rows = [row for part in by_measure().values() for row in part.values()]
    rows.append(make_row(SINGLE, measure="min_dcf", value=0.1234))
    rows.append(make_row(BASE, measure="accuracy", value=float("nan")))
    measures = ("eer", "min_dcf", "accuracy")
    index = ["system", "seed", "layers"]
    table = pivot(rows, index, lambda row: row["measure"], measures)
    heading, *lines = read_table(table)
    assert heading == ["system", "seed", *measures]
    eer = {tuple(line[:2]): line[2] for line in lines}
    others = {tuple(line[:2]): line[3:] for line in lines}
    low, high = 100 * np.quantile(DRAWN_MEAN, [0.025, 0.975])
    assert eer["a", "all"] == f"26.00 ± 5.29 ({low:.2f}..{high:.2f}) *"
    assert eer["a", "1"].startswith("20.00 (") and eer["a", "1"][-1] == "*"
    assert eer["a", "2"].startswith("30.00 (") and eer["a", "2"][-1] == ")"
    assert others.pop(("b", "1")) == ["0.123", "-"]
    assert list(others.values()) == 5 * [["-", "-"]]
    assert pivot(rows, index, str, ("macro_f1",)) == ""


def test_results_survive_a_round_trip(tmp_path):
    rows = [make_row(ONE, (0.1, np.float32(0.5)), measure="eer", value=0.25)]
    rows.append(make_row(run="other", value=float("nan")))
    write_results(tmp_path, rows, {"seeds": (1, 2)})
    first, second = rows[0] | {"run": str(tmp_path)}, rows[1] | {"value": None}
    found = read_results(tmp_path)
    assert found == {"about": {"seeds": [1, 2]}, "rows": [first, second]}
    table = read_csv(tmp_path / "results.csv")
    assert list(table[0]) == list(COLUMNS)
    assert table[0] == {name: str(value) for name, value in first.items()}
    assert table[1]["run"] == "other"
