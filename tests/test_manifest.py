"""Manifests: reading, checks, splits."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import write_manifest

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.dataio import manifest
from speechbrain_ext.dataio.columns import Columns, Text
from speechbrain_ext.dataio.manifest import factor_labels, load_manifest, subset
from speechbrain_ext.dataio.splits import in_split, split_manifest
from speechbrain_ext.utils.errors import InputError

FACTORS = ["speaker", "content"]


def row(key="u1", **changes):
    base = {"ID": key, "wav": "a.wav", "speaker": "s", "content": "c"}
    return base | changes


def test_csv_and_json_agree(tmp_path):
    rows = [
        row("u1", start="", stop=""),
        row("u2", wav="{data_root}/b.wav", start="10", stop="20"),
        row("u3", wav="$data_root/c.wav", start="", stop=""),
    ]
    from_csv = load_manifest(write_manifest(tmp_path / "m.csv", rows), "/root")
    as_json = {r["ID"]: {k: r[k] for k in r if k != "ID"} for r in rows}
    (tmp_path / "m.json").write_text(json.dumps(as_json))
    from_json = load_manifest(tmp_path / "m.json", "/root")
    assert from_csv.data == from_json.data
    wavs = [item["wav"] for item in from_csv.data.values()]
    assert wavs == ["/root/a.wav", "/root/b.wav", "/root/c.wav"]
    beside = load_manifest(tmp_path / "m.csv").data["u1"]["wav"]
    assert beside == str(tmp_path / "a.wav")
    assert from_csv.data["u2"]["start"] == 10


@pytest.mark.parametrize("name", ["m.JSON", "m.CSV"])
def test_capital_suffixes(tmp_path, name):
    text = '{"u1": {"wav": "a"}}' if name == "m.JSON" else "ID,wav\nu1,a\n"
    (tmp_path / name).write_text(text)
    assert list(load_manifest(tmp_path / name).data) == ["u1"]


def test_other_headings(tmp_path):
    """A mapped name hides a column of that name."""
    rows = [{"utt": "u1", "path": "a", "spk": "x", "speaker": "y", "text": "z"}]
    path = write_manifest(tmp_path / "m.csv", rows)
    columns = {"ID": "utt", "wav": "path", "speaker": "spk", "content": "text"}
    loaded = load_manifest(path, "/", FACTORS, columns)
    assert loaded.data["u1"] == {"wav": "/a", "speaker": "x", "content": "z"}


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_column_with_the_name_of_speechbrain(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    text = {
        "csv": "ID,wav,id\nu1,/a,7\n",
        "json": '{"u1": {"wav": "/a", "id": 7}}',
    }
    path.write_text(text[suffix])
    assert load_manifest(path).data["u1"] == {"wav": "/a"}
    found = load_manifest(path, columns={"ID": "id"})
    assert list(found.data) == ["7"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([row(), row()], "line 3: ID 'u1' occurs twice"),
        ([{"ID": "u1", "wav": "a.wav", "speaker": "s"}], "no column 'content'"),
        ([row(content="")], "line 2: empty 'content'"),
        ([row(duration="long")], "line 2: duration 'long' is not a number"),
        ([row(duration="nan")], "line 2: duration is nan: expected seconds"),
        ([row(duration=-1)], "line 2: duration is -1: expected seconds"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    path = write_manifest(tmp_path / "m.csv", rows)
    with pytest.raises(InputError, match=message):
        load_manifest(path, factors=FACTORS)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("absent.csv", None, "No manifest"),
        ("empty.csv", "ID,wav\n", "no rows"),
        ("wide.csv", "ID,wav\nu1,a.wav,surplus\n", "line 2: too many fields"),
        ("twice.csv", "ID,wav,s,s\nu1,a.wav,x,y\n", "column 's' occurs twi"),
        ("broken.json", "{", "cannot be read"),
        ("twice.json", '{"u": {"wav": "a"}, "u": {"wav": "a"}}', "occurs tw"),
        ("list.json", '[{"ID": "u", "wav": "a"}]', r"expected {ID: {column"),
        ("list.json", '[["u", [["wav", "a"]]]]', r"expected {ID: {column"),
        ("flat.json", '{"u": "a.wav"}', r"expected {ID: {column: value"),
        ("one.json", "3", r"expected {ID: {column: value"),
        ("many.json", '{"u": {"wav": ["a", "b"]}}', r"wav is \['a', 'b'\]: ex"),
        ("deep.json", '{"u": {"wav": "a", "split": {"a": 1}}}', "split is .*a"),
        ("nul.csv", "ID,wav\nu\0,a.wav\n", "NUL bytes, expected text in UTF-8"),
        ("nul.json", '{"u\0": {"wav": "a"}}', "NUL bytes, expected text"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_manifest(tmp_path / name)


def grid_dataset(n_speakers=10, n_contents=10):
    return DynamicItemDataset(
        {
            f"{s}_{c}": {"speaker": f"s{s}", "content": f"c{c}"}
            for s in range(n_speakers)
            for c in range(n_contents)
        }
    )


def test_split_is_disjoint_seeded_and_complete():
    dataset = grid_dataset()
    splits = split_manifest(dataset, by="speaker", seed=1)
    assert sum(map(len, splits.values())) == 100
    speakers = {
        split: {dataset.data[k]["speaker"] for k in ids}
        for split, ids in splits.items()
    }
    assert [len(s) for s in speakers.values()] == [6, 2, 2]
    assert len(set.union(*speakers.values())) == 10
    assert splits == split_manifest(dataset, by="speaker", seed=1)
    assert splits != split_manifest(dataset, by="speaker", seed=2)
    with pytest.raises(InputError, match="too few values of 'speaker'"):
        split_manifest(grid_dataset(2, 3), by="speaker")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"by": "speakr"}, "has no speakr: did you mean speaker"),
        ({"held_out": "contents"}, "has no contents: did you mean content"),
        ({"seed": -1}, "seed is -1: expected a whole number"),
        *(
            ({"ratios": shares}, "ratios is .*: expected three numbers above")
            for shares in (
                (0.6, 0.4),
                (0.6, 0.2, 0.1, 0.1),
                (-0.6, 0.8, 0.8),
                (0, 0, 0),
                (float("nan"), 1, 1),
                (float("inf"), 1, 1),
                "abc",
                None,
            )
        ),
    ],
)
def test_bad_divisions(options, message):
    with pytest.raises(InputError, match=message):
        split_manifest(grid_dataset(), **{"by": "speaker"} | options)


def test_held_out_contents_are_disjoint_too():
    dataset = grid_dataset()
    splits = split_manifest(dataset, by="speaker", held_out="content")
    assert [len(ids) for ids in splits.values()] == [36, 4, 4]
    for factor in FACTORS:
        values = [
            {dataset.data[k][factor] for k in ids} for ids in splits.values()
        ]
        assert sum(map(len, values)) == len(set.union(*values))


def test_split_column_decides():
    dataset = grid_dataset(3, 2)
    names = ["training", "dev", "unseen"]
    for i, key in enumerate(dataset.data):
        dataset.data[key]["split"] = names[i % 3]
    mapped = {"test": "unseen"}
    splits = split_manifest(dataset, by="speaker", split_names=mapped)
    assert [len(ids) for ids in splits.values()] == [2, 2, 2]
    with pytest.raises(InputError, match="'test'.*dev, training, unseen"):
        split_manifest(dataset, by="speaker")
    dataset.data["0_0"]["split"] = ""
    with pytest.raises(InputError, match="empty in 1 rows"):
        split_manifest(dataset, by="speaker")


def test_a_speaker_in_two_marked_splits_is_told(caplog):
    dataset = grid_dataset(3, 2)
    for key, row in dataset.data.items():
        row["split"] = {"0": "train", "1": "valid"}.get(key[0], "test")
    split_manifest(dataset, by="speaker")
    assert not caplog.records
    split_manifest(dataset, by="content")
    assert "2 values of 'content' are in several splits" in caplog.text


def test_unknown_split():
    with pytest.raises(InputError, match="split 'test': the manifest has None"):
        in_split(grid_dataset(), "test")


def many_rows(count):
    """As a table may have them: no time in some rows, blanks, odd paths."""
    paths = ["a b.wav", "./a.wav", "/x//é.wav", "{data_root}/b/", ".a/../c.wav"]
    rng = np.random.default_rng(0)
    return [
        row(
            f"u{n}",
            wav=f"{rng.choice(paths)}{n if rng.random() < 0.5 else ''}",
            speaker=f"s{rng.integers(9)}" + " " * (rng.random() < 0.1),
            content=f"c{rng.integers(9)}",
            duration=rng.choice(["", "1", "0.25"]),
            start=rng.choice(["", "8", "8.0"]) if n > count / 2 else "",
            split=rng.choice(["train", " test"]),
            text=f"{n}, said" + "\r\n!" * (n == count - 1),
            empty="",
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("columns", [{}, {"content": "text", "text": "empty"}])
def test_many_rows_at_a_time_and_one_by_one(tmp_path, columns):
    path = write_manifest(tmp_path / "m.csv", many_rows(1300))
    given = path, Path("/r"), columns, ["ID", "wav", *FACTORS]
    found, blanks = manifest._read_columns(*given)
    wanted, wanted_blanks = manifest._read_rows(*given)
    assert list(found) == list(wanted) and found == wanted
    # csv leaves out the blank before "test", and 10 % of the others stay
    assert blanks == wanted_blanks > 0
    assert pickle.loads(pickle.dumps(found)) == wanted
    assert isinstance(found.columns["text"], Text) or columns
    starts = found.values_of("start", default=0)
    assert {type(start) for start in starts} == {int}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"speaker": " "}, "line 1202: empty 'speaker'"),
        ({"wav": "\t"}, "line 1202: empty 'wav'"),
        ({"ID": "u7"}, "line 1202: ID 'u7' occurs twice"),
        ({"start": "0.5"}, "line 1202: start is 0.5: expected a whole"),
        ({"duration": "inf"}, "line 1202: duration is inf: expected seconds"),
    ],
)
def test_the_line_of_what_is_wrong_far_below(tmp_path, changes, message):
    rows = many_rows(1300)
    rows[1200] |= changes
    path = write_manifest(tmp_path / "m.csv", rows)
    with pytest.raises(InputError, match=message):
        load_manifest(path, factors=FACTORS)


def test_a_row_that_is_too_short(tmp_path):
    """Of what nobody needs, it has nothing."""
    path = tmp_path / "m.csv"
    path.write_text("ID,wav,text,duration\nu,/a,x,2\n\nv,/b\n")
    rows = {
        "u": {"wav": "/a", "text": "x", "duration": 2.0},
        "v": {"wav": "/b", "text": None},
    }
    assert load_manifest(path).data == rows


def test_a_manifest_takes_little_memory(tmp_path):
    """What is pickled for another process, too: 57 bytes are its own text."""
    rows = [
        row(f"u{n:07}", wav=f"/corpus/audio/{n:020}.flac", duration=n / 8)
        for n in range(20000)
    ]
    path = write_manifest(tmp_path / "m.csv", rows)
    dataset = load_manifest(path, factors=FACTORS)
    assert len(pickle.dumps(dataset)) / len(rows) < 120
    assert dataset.data["u0019999"]["duration"] == 19999 / 8


def test_a_subset_of_columns_and_of_a_dict():
    rows = {"u1": {"speaker": "a"}, "u2": {"speaker": "b", "take": [1, 2]}}
    for data in (rows, Columns.of(rows)):
        part = subset(DynamicItemDataset(data), ["u2", "u1", "u2"])
        assert list(part.data) == ["u2", "u1"] and part.data == rows
        assert part.data.values_of("speaker") == ["b", "a"]
        labels = factor_labels(part, ["u1", "u2", "u1"], ["speaker"])
        assert labels == {"speaker": ["a", "b", "a"]}
        with pytest.raises(KeyError, match="take"):
            factor_labels(part, ["u1"], ["take"])
        assert part[0] == {} and len(part) == 2
        part.set_output_keys(["id", "speaker"])
        assert part[0] == {"id": "u2", "speaker": "b"}
        found = part.filtered_sorted(sort_key="speaker")
        assert [item["id"] for item in found] == ["u1", "u2"]


def test_columns_keep_what_values_are():
    """Samples stay whole numbers; names of files need not be text."""
    rows = {
        "u": {"start": 3, "wav": "\udce9.wav"},
        "v": {"start": 4, "wav": ""},
    }
    data = Columns.of(rows)
    assert type(data["u"]["start"]) is int
    assert Text([row["wav"] for row in rows.values()]).item(0) == "\udce9.wav"
