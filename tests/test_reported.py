"""The table of what the paper reports."""

import pytest

from speechbrain_ext.evaluation.reported import reported_table
from speechbrain_ext.evaluation.results import (
    Subspace,
    measure_rows,
    over_seeds,
)

ABOUT = {"protocol": "published"}


def rows(values, encoder="hubert_base", layers="12", **columns):
    """Rows of the joint speaker subspace, a value per seed."""
    columns = {"task": "verification", "measure": "eer", "n": 37611} | columns
    values = {
        Subspace("joint", "speaker", encoder, layers, seed): value
        for seed, value in enumerate(values)
    }
    return over_seeds(
        [
            row | {"task": columns["task"]}
            for row in measure_rows(values, **columns)
        ]
    )


def cells(table):
    return [cell.strip() for cell in table.splitlines()[-1].split("|")[1:-1]]


def test_difference_and_deviations_over_seeds():
    table = reported_table(rows([0.27, 0.28, 0.29]), ABOUT)
    assert cells(table)[3:] == ["27.2", "28.0 ± 1.0", "+0.8", "yes"]
    # Two deviations are 0.6.
    table = reported_table(rows([0.277, 0.28, 0.283]), ABOUT)
    assert cells(table)[3:] == ["27.2", "28.0 ± 0.3", "+0.8", "no"]
    assert cells(reported_table(rows([0.28]), ABOUT))[-1] == "-"


def test_mismatched_subspaces_have_no_reported_number():
    keywords = dict(task="keywords", measure="accuracy", n=6835)
    table = reported_table(rows([0.8, 0.9], **keywords), ABOUT)
    expected = ["keywords accuracy", "joint", "speaker", "-", "85.0 ± 7.1"]
    assert cells(table) == [*expected, "-", "-"]


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "wavlm_base_plus"},
        {"encoder": "hubert_base_local"},  # another source
        {"layers": "11"},
        {"n": 37720},
        {"group": "f-f"},
        {"task": "keywords", "measure": "accuracy", "n": 11005},
    ],
)
def test_only_what_can_be_compared(change):
    assert reported_table(rows([0.2, 0.3], **change), ABOUT) == ""


def test_only_by_the_published_protocol():
    assert reported_table(rows([0.2]), ABOUT | {"protocol": None}) == ""
