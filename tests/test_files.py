"""Files that are never found half-written, and whose a folder is."""

import json
import threading

import numpy as np
import pytest
import torch

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import (
    claim_folder,
    digest,
    file_digest,
    read_csv,
    replacing,
    to_json,
    write_csv,
    write_json,
)


def test_two_threads_may_write_one_file(tmp_path):
    """Both inside at the same time: each has a temporary file of its own."""
    path = tmp_path / "x.json"
    both = threading.Barrier(2, timeout=10)

    def write(text):
        with replacing(path) as temporary:
            both.wait()
            temporary.write_text(text)
            both.wait()
            assert temporary.read_text() == text

    threads = [threading.Thread(target=write, args=(t,)) for t in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in ("a", "b")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_plain_complete_and_atomic(tmp_path):
    path = tmp_path / "a" / "results.json"
    results = {
        1: torch.tensor([1.5, float("inf")]),
        "a": (np.float32(2), np.nan),
    }
    plain = {"1": [1.5, None], "a": [2.0, None]}
    assert to_json(results) == plain
    write_json(path, results)
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert json.loads(path.read_text()) == plain
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_csv_round_trip(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    rows = [{"ID": "ä, b", "n": 1}, {"ID": 'c"\nd', "n": ""}]
    write_csv(path, rows)
    assert read_csv(path) == [row | {"n": str(row["n"])} for row in rows]
    write_csv(path, rows, ["n"])
    assert read_csv(path) == [{"n": "1"}, {"n": ""}]
    path.write_bytes(b"\xef\xbb\xbfID,n\r\na,2\r\n")  # of a spreadsheet
    assert read_csv(path) == [{"ID": "a", "n": "2"}]
    assert read_csv(tmp_path / "absent.csv") == []
    with pytest.raises(InputError, match="rows.csv: no rows"):
        write_csv(path, [])
    assert len(read_csv(path)) == 1


def test_a_folder_belongs_to_its_settings(tmp_path):
    settings = {"layers": (0, 6), "network": {"width": 8}, "ids": ["u1"] * 99}
    claim_folder(tmp_path, {"layers": 1})
    claim_folder(tmp_path, settings)  # nothing is lost yet
    (tmp_path / "CKPT+1").touch()
    claim_folder(tmp_path, settings)
    for change, message in (
        (
            {"layers": [0]},
            r"layers \(\[0, 6\], now \[0\]\): give another --mine",
        ),
        ({"network": {"width": 9}}, r"another network: width \(8, now 9\)"),
        ({"seed": 1}, r"another seed \(None, now 1\)"),
        ({"ids": ["u1"] * 98}, r"another ids \(99 entries, now 98 entries\)"),
        ({"ids": None}, r"another ids \(99 entries, now None\)"),
        ({"ids": ["u2"] * 99}, "another ids: give"),
    ):
        with pytest.raises(InputError, match=message):
            claim_folder(tmp_path, settings | change, option="mine")
    for text in ("[", "[]"):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(InputError, match="settings.json is damaged"):
            claim_folder(tmp_path, settings)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(InputError, match="holds CKPT.* that was not made here"):
        claim_folder(tmp_path, settings)
    with pytest.raises(InputError, match="is a file: give another"):
        claim_folder(tmp_path / "CKPT+1", settings)


def test_digests(tmp_path):
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    (tmp_path / "model").write_bytes(b"abc")
    known = "ba7816bf8f01cfea"  # as published with the standard
    assert file_digest(tmp_path / "model", "sha256").startswith(known)
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        file_digest(tmp_path / "absent")
