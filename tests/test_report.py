"""What a reader sees: tables, notes, and warnings of what is not separate."""

import numpy as np
import pytest
import torch

from speechbrain_ext.evaluation.report import (
    further_tables,
    main_table,
    not_separate,
    notes,
    write_report,
)
from speechbrain_ext.evaluation.results import Subspace, make_row
from speechbrain_ext.evaluation.tasks import (
    ContentRetrieval,
    Embedded,
    Leakage,
    Verification,
    run_tasks,
)
from speechbrain_ext.metrics.trials import generate_trials, trial_groups

SPEAKERS, CONTENTS = np.repeat([0, 1, 2], 4), np.tile([0, 1, 2, 3], 3)


@pytest.fixture(scope="module")
def rows():
    """Of pure subspaces of one system, in both conditions."""
    trials = generate_trials(SPEAKERS, CONTENTS)
    groups = [trial_groups(np.array(["f", "f", "m"])[SPEAKERS], trials)]
    vectors = {
        Subspace("joint", "speaker"): torch.eye(3)[SPEAKERS],
        Subspace("joint", "content"): torch.eye(4)[CONTENTS],
    }
    tasks = [
        Verification("speaker", trials, groups=groups),
        ContentRetrieval("content", CONTENTS, SPEAKERS),
        Leakage({"speaker": SPEAKERS, "content": CONTENTS}),
    ]
    return [
        row
        for condition in ("recorded", "channels")
        for row in run_tasks(tasks, Embedded(condition, {"test": vectors}))
    ]


def cells(table):
    """Lines of a Markdown table, without the rule below its heading."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    split = [[x.strip() for x in line.strip("|").split("|")] for line in lines]
    return split[:1] + split[2:]


def test_main_table(rows):
    heading, *lines = cells(main_table(rows))
    assert heading == [
        "system", "subspace", "dimension", "EER %", "minDCF",
        "EER %, across channels", "minDCF, across channels",
        "content %", "content %, across channels",
    ]  # fmt: skip
    speaker, content = (line[1:] for line in lines)
    assert speaker[:6] == ["speaker", "3", "0.00", "0.000", "0.00", "0.000"]
    assert content[:3] == ["content", "4", "50.00"]
    assert content[-2:] == ["100.0", "100.0"]


def test_further_tables(rows):
    groups, recorded, channels = further_tables(rows)
    assert groups.startswith("Groups of trials\n\n|")
    assert cells(groups)[0][1:4] == ["subspace", "group", "EER %"]
    assert [line[2] for line in cells(groups)[1:4]] == ["f-f", "f-m", "m-m"]
    assert "Leakage, as recorded:" in recorded
    assert "Leakage, across channels:" in channels
    heading, speaker, _ = cells(recorded)
    found = dict(zip(heading, speaker))
    assert found["speaker probe %"] == found["speaker variance %"] == "100.0"
    assert found["content EER %"] == "50.00"
    assert cells(recorded) == cells(channels)
    keywords = make_row(task="keywords", measure="macro_f1", value=0.5)
    (table,) = further_tables([keywords])
    assert cells(table) == [["system", "macro f1 %"], ["", "50.0"]]


def test_notes_have_counts_and_chance(rows):
    lines = notes(rows)
    assert lines[0] == "verification of speaker: 18 target trials, 36 others"
    assert "content of content: chance 25.0 %, 12 utterances" in lines
    leak = "leakage of speaker: chance 33.3 %, majority 33.3 %, 12 utterances"
    assert leak in lines
    assert len(lines) == len(set(lines)) == 4


@pytest.mark.parametrize(
    "measure, own, interval, other, warned",
    [
        ("eer", 0.2, None, 0.2, True),
        ("eer", 0.2, None, 0.19, True),
        ("eer", 0.2, None, 0.21, False),
        # The worse end of an interval: the higher error, the lower accuracy.
        ("eer", 0.2, (0.1, 0.3), 0.3, True),
        ("eer", 0.2, (0.1, 0.3), 0.31, False),
        ("accuracy", 0.8, None, 0.8, True),
        ("accuracy", 0.8, None, 0.9, True),
        ("accuracy", 0.8, None, 0.79, False),
        ("accuracy", 0.8, (0.7, 0.9), 0.7, True),
        ("accuracy", 0.8, (0.7, 0.9), 0.69, False),
    ],
)
def test_what_is_not_separate(measure, own, interval, other, warned):
    def told(subspace, value, interval=None, system="joint", **columns):
        columns = {
            "task": "leakage", "target": "speaker", "condition": "channels",
            "measure": measure, **columns,
        }  # fmt: skip
        origin = Subspace(system, subspace, seed=columns.pop("seed", 1))
        return make_row(origin, interval, value=value, **columns)

    best = 0.0 if measure == "eer" else 1.0
    rows = [
        told("speaker", own, interval),
        told("content", other),
        # None of these is to be compared with the first.
        told("content", best, system="baseline"),
        told("content", best, target="content"),
        told("content", best, seed=2),
        told("content", best, condition="recorded"),
        told("content", best, group="f-f"),
        told("content", best, task="keywords"),
    ]
    warnings = not_separate(rows)
    assert len(warnings) == warned
    if warned:
        values = f"{100 * other:.1f} and {100 * own:.1f} %"
        assert warnings[0] == (
            "NOT SEPARATE: joint content (seed 1) tells speaker as well as "
            "joint speaker (seed 1) does across channels "
            f"(leakage, {measure} {values})"
        )
        assert notes(rows) == warnings


def test_a_report_is_printed_and_kept(rows, tmp_path, capsys):
    write_report(tmp_path, rows, ["encoder: log_mel", "seed: 1"])
    text = (tmp_path / "report.txt").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("encoder: log_mel\nseed: 1\n\n| system")
    for part in (main_table(rows), *further_tables(rows), *notes(rows)):
        assert part in text
