"""What a reader sees: tables, notes, and warnings of what is not separate."""

import numpy as np
import pytest
from helpers import read_table

from speechbrain_ext.evaluation.leakage import Leakage
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
    Verification,
    run_tasks,
)
from speechbrain_ext.metrics.trials import generate_trials, trial_groups

SPEAKERS, CONTENTS = np.divmod(np.arange(12), 4)


@pytest.fixture(scope="module")
def rows():
    """Of pure subspaces of one system, in both conditions."""
    trials = generate_trials(SPEAKERS, CONTENTS)
    genders = trial_groups(np.array(["f", "f", "m"])[SPEAKERS], trials)
    vectors = {
        Subspace("joint", "speaker"): np.eye(3)[SPEAKERS],
        Subspace("joint", "content"): np.eye(4)[CONTENTS],
    }
    tasks = [
        Verification("speaker", trials, groups=[genders]),
        ContentRetrieval("content", CONTENTS, SPEAKERS),
        Leakage({"speaker": SPEAKERS, "content": CONTENTS}),
    ]
    return [
        row
        for condition in ("recorded", "channels")
        for row in run_tasks(tasks, Embedded(condition, {"test": vectors}))
    ]


def test_main_table(rows):
    heading, speaker, content = read_table(main_table(rows))
    assert heading == [
        "system", "subspace", "dimension", "EER %", "minDCF",
        "EER %, across channels", "minDCF, across channels",
        "content %", "content %, across channels",
    ]  # fmt: skip
    assert speaker[1:6] == ["speaker", "3", "0.00", "0.000", "0.00"]
    assert content[1:4] == ["content", "4", "50.00"]
    assert content[-2:] == ["100.0", "100.0"]


def test_further_tables(rows):
    costs, groups, recorded, channels = further_tables(rows)
    heading, speaker, content = read_table(costs)
    assert heading[2:] == ["minCllr, bits", "minCllr, bits, across channels"]
    assert speaker[2:] == ["0.000"] * 2 and float(content[2]) > 0.5
    assert groups.startswith("Groups of trials\n\n|")
    heading, *lines = read_table(groups)
    assert heading[0] == "group" and "EER %" in heading
    assert list({line[0]: None for line in lines}) == ["f-f", "f-m", "m-m"]
    assert "Leakage, as recorded:" in recorded
    assert "Leakage, across channels:" in channels
    assert read_table(recorded) == read_table(channels)
    found = dict(zip(*read_table(recorded)[:2]))
    assert found["speaker probe %"] == found["speaker variance %"] == "100.0"
    assert found["content EER %"] == "50.00"
    words = make_row(task="keywords", measure="macro_f1", value=0.5)
    assert read_table(further_tables([words])[0])[0][1] == "macro f1 %"


def test_trial_lists_have_tables_of_their_own(rows):
    """Beside each other they would overwrite each other's numbers."""
    hard = [
        row | {"list": "hard.txt", "value": 0.25, "n": 7}
        if row["task"] == "verification"
        else row
        for row in rows
    ]
    both = [r | {"list": "easy.txt"} for r in rows if r["task"]] + hard
    tables = main_table(both).split("Trials: ")[1:]
    assert [table.split()[0] for table in tables] == ["easy.txt", "hard.txt"]
    easy, other = (read_table(table)[1] for table in tables)
    assert easy[3] == "0.00" and other[3] == "25.00"
    groups = read_table(further_tables(both)[1])
    assert groups[0][:2] == ["group", "list"]
    assert {line[1] for line in groups[1:]} == {"easy.txt", "hard.txt"}
    counts = [line for line in notes(both) if line.startswith("verification")]
    assert counts[0].startswith("verification of speaker (easy.txt): 18 ")
    assert counts[1].startswith("verification of speaker (hard.txt): 7 ")


def test_notes_have_counts_and_chance(rows):
    leakage = "leakage of {}: chance {}, majority {}, 12 utterances".format
    assert sorted(notes(rows)) == [
        "content of content: chance 25.0 %, 12 utterances",
        leakage("content", "25.0 %", "25.0 %"),
        leakage("speaker", "33.3 %", "33.3 %"),
        "verification of speaker: 18 target trials, 36 others",
    ]


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
    def told(subspace, value, interval=None, **columns):
        usual = {
            "system": "joint", "seed": 1, "task": "leakage",
            "target": "speaker", "condition": "channels", "measure": measure,
        }  # fmt: skip
        usual |= {"subspace": subspace, "value": value}
        return make_row(None, interval, **usual | columns)

    rows = [told("speaker", own, interval), told("content", other)]
    best = 0.0 if measure == "eer" else 1.0
    for name, value in (
        *(("system", "baseline"), ("target", "content"), ("seed", 2)),
        *(("condition", "recorded"), ("group", "f-f"), ("task", "keywords")),
        *(("layers", "4"), ("encoder", "mel"), ("measure", "min_dcf")),
    ):  # not to be compared with the first
        rows.append(told("content", best, **{name: value}))
    expected = (
        "NOT SEPARATE: joint content (seed 1) tells speaker as well as joint "
        "speaker (seed 1) does across channels (leakage, "
        f"{measure} {100 * other:.1f} and {100 * own:.1f} %)"
    )
    assert not_separate(rows) == notes(rows) == [expected] * warned


def test_a_report_is_printed_and_kept(rows, tmp_path, capsys):
    write_report(tmp_path, rows, ["encoder: log_mel", "seed: 1"])
    text = (tmp_path / "report.txt").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith("encoder: log_mel\nseed: 1\n\n| system")
    for part in (main_table(rows), *further_tables(rows), *notes(rows)):
        assert part in text
