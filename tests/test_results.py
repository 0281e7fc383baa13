"""Rows of the one long table, and its pivots."""

import csv
import math

import numpy as np
import pytest

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

BASE, SINGLE = Subspace("base"), Subspace("b", "x", seed=1)
ONE, TWO, MEAN = (Subspace("a", "x", seed=seed) for seed in (1, 2, "all"))


def seeded(reference=None):
    """Rows by (origin, measure), and the draws that the seeds share."""
    rng = np.random.default_rng(0)
    shared = 0.3 + 0.1 * rng.normal(size=200)
    own = 0.01 * rng.normal(size=(2, 200))
    values = {BASE: 0.3, ONE: 0.2, TWO: 0.3, SINGLE: 0.35}
    draws = {
        BASE: shared,
        ONE: shared - 0.1 + own[0],
        TWO: shared + own[1],
        SINGLE: shared + 0.5,
    }
    rows = measure_rows(
        values, draws, reference, measure="eer", task="verification", n=99
    )
    found = {}
    for row in rows:
        origin = Subspace(*(row[name] for name in Subspace._fields))
        assert row["task"] == "verification"
        assert row["n"] == (99 if row["measure"] == "eer" else "")
        found[origin, row["measure"]] = row
    assert len(found) == len(rows)
    return found, draws


def test_mean_deviation_and_paired_interval_over_seeds():
    """Noise that the seeds share with the reference leaves the difference."""
    rows, draws = seeded()
    values = {o: r["value"] for (o, m), r in rows.items() if m == "eer"}
    assert values == {BASE: 0.3, ONE: 0.2, TWO: 0.3, MEAN: 0.25, SINGLE: 0.35}
    deviations = {o: r["value"] for (o, m), r in rows.items() if m == "eer_sd"}
    assert deviations == {MEAN: pytest.approx(0.1 / math.sqrt(2))}
    mean = (draws[ONE] + draws[TWO]) / 2
    for name, drawn in (("eer", mean), ("eer_difference", mean - draws[BASE])):
        row = rows[MEAN, name]
        expected = np.quantile(drawn, [0.025, 0.975])
        assert [row["low"], row["high"]] == pytest.approx(expected)
    difference = rows[MEAN, "eer_difference"]
    assert difference["value"] == pytest.approx(-0.05) and differs(difference)
    assert rows[MEAN, "eer"]["high"] - rows[MEAN, "eer"]["low"] > 0.3
    assert differs(rows[SINGLE, "eer_difference"])
    assert not differs(rows[TWO, "eer_difference"])
    assert not differs(make_row(value=0.1))
    assert (BASE, "eer_difference") not in rows


def test_a_reference_with_seeds_stands_for_its_mean():
    rows, draws = seeded("a x")
    assert (MEAN, "eer_difference") not in rows
    row = rows[SINGLE, "eer_difference"]
    assert row["value"] == pytest.approx(0.1)
    mean = draws[SINGLE] - (draws[ONE] + draws[TWO]) / 2
    assert row["low"] == pytest.approx(np.quantile(mean, 0.025))
    assert rows[ONE, "eer_difference"]["value"] == pytest.approx(-0.05)
    with pytest.raises(InputError, match="'a y': there are base, a x, b x"):
        seeded("a y")
    assert find_reference([ONE, TWO], "a x") == ONE


def test_without_draws_or_with_missing_ones_there_is_no_interval():
    values = {BASE: 0.1, SINGLE: 0.2}
    rows = measure_rows(values, measure="eer")
    assert [row["measure"] for row in rows] == ["eer", "eer"]
    rows += measure_rows(values, dict.fromkeys(values, [np.nan, 1]), measure="")
    assert [row["measure"] for row in rows[2:]] == ["", "", "_difference"]
    assert rows[4]["value"] == pytest.approx(0.1) and not differs(rows[4])
    assert {(row["low"], row["high"]) for row in rows} == {("", "")}


def test_pivot_has_deviations_intervals_and_stars():
    rows = list(seeded()[0].values())
    other = make_row(SINGLE, measure="min_dcf", value=0.1234)
    odd = make_row(BASE, measure="accuracy", value=float("nan"))
    table = pivot(
        [*rows, other, odd],
        ["system", "seed", "layers"],
        lambda row: row["measure"],
        ("eer", "min_dcf", "accuracy"),
    )
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
    ]
    assert lines[0] == ["system", "seed", "eer", "min_dcf", "accuracy"]
    cells = {(line[0], line[1]): line[2:] for line in lines[2:]}
    assert list(cells) == [
        ("base", ""), ("a", "1"), ("a", "2"), ("b", "1"), ("a", "all")
    ]  # fmt: skip
    assert cells["base", ""][0].startswith("30.00 (")
    assert "±" not in cells["a", "1"][0] and cells["a", "1"][0][-1] == "*"
    assert cells["a", "2"][0][-1] == ")"
    assert cells["a", "all"][0].startswith("25.00 ± 7.07 (")
    assert cells["a", "all"][0].endswith(") *")
    assert cells["b", "1"][1:] == ["0.123", "-"]
    assert cells["base", ""][1:] == ["-", "-"]
    assert pivot(rows, ["system"], str, ("accuracy",)) == ""


def test_results_survive_a_round_trip(tmp_path):
    rows = [make_row(ONE, (0.1, np.float32(0.5)), measure="eer", value=0.25)]
    rows.append(make_row(run="other", value=float("nan")))
    write_results(tmp_path, rows, {"seeds": (1, 2)})
    found = read_results(tmp_path)
    assert found["about"] == {"seeds": [1, 2]}
    assert found["rows"][0] == rows[0] | {"run": str(tmp_path)}
    assert found["rows"][1] == rows[1] | {"value": None}
    with open(tmp_path / "results.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS)
    assert [row["run"] for row in read] == [str(tmp_path), "other"]
    assert float(read[0]["high"]) == 0.5 and read[0]["seed"] == "1"


def test_select_takes_single_values_and_tuples():
    rows = [
        make_row(n=n, task=task) for n, task in ((1, "a"), (1, "b"), (2, "a"))
    ]
    assert select(rows, n=1, task="a") == rows[:1]
    assert select(rows, n=(1, 2), task=("a",)) == [rows[0], rows[2]]
