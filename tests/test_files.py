"""Files that are never found half-written, and whose a folder is."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from speechbrain_ext.utils import files
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import (
    claim_folder,
    digest,
    file_digest,
    locked_folder,
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
    with pytest.raises(InputError, match="is a file: a folder is expected"):
        claim_folder(tmp_path / "CKPT+1", settings)


def test_digests(tmp_path):
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    (tmp_path / "model").write_bytes(b"abc")
    known = "ba7816bf8f01cfea"  # as published with the standard
    assert file_digest(tmp_path / "model", "sha256").startswith(known)
    with pytest.raises(InputError, match="absent cannot be read: No such file"):
        file_digest(tmp_path / "absent")


def test_leftovers_of_killed_runs_are_removed(tmp_path):
    """But not what another run is writing."""
    code = (
        "import os, signal, sys\n"
        "from speechbrain_ext.utils.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.txt"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, path])
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.") and left.read_text() == "half"
    with replacing(path) as one, replacing(path) as two:
        assert one.exists() and two.exists() and not left.exists()
        one.write_text("one")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_taken_for_a_leftover_is_made_anew(
    tmp_path, monkeypatch
):
    """Another run removes it between its making and its locking."""
    taken, lock = [], files._lock

    def late(file, **options):
        if not taken:
            taken.append(Path(file.name))
            taken[0].unlink()
        return lock(file, **options)

    monkeypatch.setattr(files, "_lock", late)
    with replacing(tmp_path / "a.txt") as temporary:
        assert temporary != taken[0] and temporary.exists()
        with replacing(tmp_path / "a.txt") as other:
            other.touch()
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_lock", lambda *_, **__: False)
    write_json(tmp_path / "a.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_looks_like_leftovers_stays(tmp_path):
    others = [f".a.{n:012x}{end}" for n, end in enumerate((".csv", "x.txt"))]
    others += [".a.123.txt", ".b.00000000000a.txt", ".a.b.00000000000a.txt"]
    for name in others:
        (tmp_path / name).touch()
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.touch()
    with replacing(tmp_path / "a") as temporary:
        temporary.touch()
    assert {p.name for p in tmp_path.iterdir()} == {*others, "a", "a.txt"}


def test_a_folder_is_of_one_run_at_a_time(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from speechbrain_ext.utils.errors import one_line_errors\n"
        "from speechbrain_ext.utils.files import locked_folder\n"
        "with one_line_errors(), locked_folder(sys.argv[1]):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "out"]
    for _ in range(2):  # a dead run has let go of it
        assert subprocess.run(command).returncode == -signal.SIGKILL
    with locked_folder(tmp_path / "out"):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("ERROR: Another run is using")
    with pytest.raises(InputError, match="is a file: .* give another --mine"):
        with locked_folder(__file__, option="mine"):
            pass


def test_something_to_lose_is_found_beside_the_folder(tmp_path):
    claim_folder(tmp_path / "save", {"a": 1}, ("CKPT*", "../results.json"))
    claim_folder(tmp_path / "save", {"a": 2}, ("CKPT*", "../results.json"))
    (tmp_path / "results.json").touch()
    with pytest.raises(InputError, match=r"another a \(2, now 3\)"):
        claim_folder(tmp_path / "save", {"a": 3}, ("CKPT*", "../results.json"))
