"""Errors that a user can mend are one line, defects keep their traceback."""

import contextlib
import errno

import numpy as np
import pytest
import torch

from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import write_json, write_text


@contextlib.contextmanager
def no_room(size):
    """Files of this process cannot get larger, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, "No space", "a"), "No space: a; free some"),
        (OSError(errno.EROFS, "Read-only", "a"), "Read-only: a; give a folder"),
        (PermissionError(errno.EACCES, "Denied", "a"), "Denied: a; give one"),
        (NotADirectoryError(errno.ENOTDIR, "No", "a"), "No: a; a folder is"),
        (FileExistsError(errno.EEXIST, "Is", "a"), "Is: a; a folder is"),
        (RuntimeError("PytorchStreamWriter failed"), "No space left for a"),
        (FileNotFoundError(errno.ENOENT, "No", "a"), "No: a; give one that"),
        (InputError("two\nlines"), "two lines"),
        (InputError("Traceback\n x\nmod.InputError: a.wav"), "a.wav"),
        (OSError(errno.ENOENT, "No such file"), None),
        (RuntimeError("PytorchStreamReader failed"), None),
        (OSError(errno.EIO, "Input/output error", "a"), None),
        (RuntimeError("a defect"), None),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, line, capsys):
    kind = type(error) if line is None else SystemExit
    with pytest.raises(kind), one_line_errors():
        raise error
    printed = capsys.readouterr().err
    assert printed.startswith(f"ERROR: {line}") if line else not printed


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save(torch.zeros(9999), path),
        lambda path: np.save(path, np.zeros(9999)),
        lambda path: np.savez(path, np.zeros(9999)),
        lambda path: write_text(path, "x" * 9999),
        lambda path: write_json(path, [1] * 9999),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, write, capsys):
    with pytest.raises(SystemExit), one_line_errors(), no_room(4096):
        write(tmp_path / "a.npz")
    assert "call the same command again: it goes on" in capsys.readouterr().err


def test_a_file_where_a_folder_is_expected_is_one_line(tmp_path, capsys):
    (tmp_path / "a").touch()
    for path in (tmp_path / "a" / "b.txt", tmp_path / "a" / "b" / "c.txt"):
        with pytest.raises(SystemExit), one_line_errors():
            write_text(path, "")
        assert "a folder is expected, give" in capsys.readouterr().err
