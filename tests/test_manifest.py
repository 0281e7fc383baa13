"""Manifests: reading, checks, splits."""

import json

import pytest
from conftest import write_manifest

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.dataio.manifest import (
    in_split,
    load_manifest,
    split_manifest,
)
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
