"""Files that are never found half-written, digests, and whose a folder is."""

import contextlib
import csv
import glob
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import uuid

from filelock import FileLock, Timeout

from speechbrain_ext.utils.errors import InputError

# Its debugging would fill the log of a run.
logging.getLogger("filelock").setLevel(logging.INFO)


def digest(obj):
    """A short digest of a JSON-able object.

    Example
    -------
    >>> digest([1, "a"]) == digest((1, "a"))
    True
    """
    text = json.dumps(obj, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path, algorithm="blake2b"):
    """Digest of a file's content.

    Arguments
    ---------
    path : str or Path
        The file.
    algorithm : str
        ``blake2b`` (16 bytes), or a name of :mod:`hashlib`.

    Returns
    -------
    str
        In hexadecimal digits.

    Raises
    ------
    InputError
        If the file cannot be read.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model.onnx"
    >>> _ = path.write_bytes(b"weights")
    >>> len(file_digest(path)), len(file_digest(path, "sha256"))
    (32, 64)
    """
    size = {"digest_size": 16} if algorithm == "blake2b" else {}
    content = hashlib.new(algorithm, **size)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                content.update(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}")
    return content.hexdigest()


def check_digest(path, digest):
    """Refuse a file of another content.

    Arguments
    ---------
    path : str or Path
        The file.
    digest : str
        SHA-256 that it is to have; None: not known.

    Raises
    ------
    InputError
        If it is another one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a"
    >>> _ = path.write_bytes(b"a")
    >>> check_digest(path, "ca97")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ... is not the file that...
    """
    if digest is not None and file_digest(path, "sha256") != digest:
        raise InputError(
            f"{path} is not the file that was written here: it is damaged, or "
            "belongs elsewhere; make it anew"
        )


def claim_folder(
    folder,
    settings,
    began="CKPT*",
    option="output_folder",
    name="settings.json",
):
    """Refuse to go on in a folder that was begun with other settings.

    Arguments
    ---------
    folder : str or Path
        Where a run keeps its state, or a grid its audio.
    settings : dict
        What determines the run, JSON-able.
    began : str or tuple of str
        Patterns of what is there once there is something to lose, from the
        folder on.
    option : str
        The script's option that names the folder, for the message.
    name : str
        File in the folder that keeps the settings.

    Raises
    ------
    InputError
        Naming what differs.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> claim_folder(folder, {"layers": [0], "seed": 1})
    >>> (folder / "CKPT+1").mkdir()
    >>> claim_folder(folder, {"layers": [6], "seed": 1})
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ... layers ([0], now [6])...
    """
    folder = pathlib.Path(folder)
    path = folder / name
    _refuse_file(folder, option)
    settings = json.loads(json.dumps(settings, default=str))
    # What is to be deleted where another run is wanted.
    whole = folder.parent if "../" in "".join(began) else folder
    patterns = (began,) if isinstance(began, str) else began
    found = [
        one
        for one in patterns
        if glob.glob(f"{glob.escape(str(folder))}/{one}")
    ]
    if not found:
        # Not write_json, which has no infinity.
        write_text(path, json.dumps(settings, indent=1) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        differs = _first_difference(before, settings)
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds {found[0]} that was not made here: give another "
            f"--{option}, or delete {whole}"
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {whole}")
    if differs:
        raise InputError(
            f"{folder} was made with another {differs}: give another "
            f"--{option}, or delete {whole}"
        )


def _refuse_file(folder, option):
    """Refuse a file where a folder is expected."""
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder} is a file: a folder is expected, give another --{option}"
        )


def _first_difference(old, new):
    """The first entry that differs, in words; empty if none does."""
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            return f"{key}: {_first_difference(before, now)}"
        if len(f"{before}{now}") > 200:
            before, now = (
                f"{len(one)} entries" if hasattr(one, "__len__") else one
                for one in (before, now)
            )
            if before == now:
                return key
        return f"{key} ({before}, now {now})"
    return ""


def check_new_file(path, read=()):
    """Refuse a file that could not be written, or that is read, before work.

    Arguments
    ---------
    path : str or Path
        Where something is to be written.
    read : iterable of str or Path
        What it would be lost for.

    Raises
    ------
    InputError
        If it is a folder or one of those that are read, or its folder cannot
        be written.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> check_new_file(path, read=[path])  # it is not there yet
    >>> path.touch()
    >>> check_new_file(path, read=[path])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ...trials.txt is read: give ...
    """
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: give the name of a file")
    for other in filter(os.path.exists, read):
        if os.path.exists(path) and os.path.samefile(path, other):
            raise InputError(f"{path} is read: give another name to write to")
    check_writable(path)


def check_writable(path):
    """Refuse a path in a folder that cannot be written.

    Arguments
    ---------
    path : str or Path
        Of a file or folder; what it is in need not exist.

    Raises
    ------
    InputError
        If it, or the folder that is to hold it, is not one, or is protected.

    Example
    -------
    >>> check_writable("no/such/folder/yet.npz")
    """
    parents = pathlib.Path(path).absolute().parents
    parent = next(parent for parent in parents if os.path.exists(parent))
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)):
        raise InputError(
            f"{path} cannot be written: {parent} is not a folder that you may "
            "write to"
        )


@contextlib.contextmanager
def replacing(path, synced=True):
    """Give a temporary path beside ``path`` that becomes it on success.

    What runs that were killed left of it is removed.

    Arguments
    ---------
    path : str or pathlib.Path
        File to write; missing folders are made.
    synced : bool
        Whether it is on the disk before it gets its name. Off for many small
        files that tell themselves whether they are complete.

    Yields
    ------
    temporary : pathlib.Path
        Write here. It keeps the suffix of ``path``, because matplotlib
        chooses the format by it. When the block raises, it is removed and
        ``path`` stays as it was.

    Example
    -------
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a" / "x.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [p.name for p in (folder / "a").iterdir()]
    ['x.txt']
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary, file = _make_locked(path)
    with contextlib.closing(file):
        try:
            yield temporary
            if synced:
                sync(temporary)
            os.replace(temporary, path)
            if synced:
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _make_locked(path):
    """A new file beside ``path``, locked while it is written.

    The lock tells it from what a killed run left.
    """
    while True:
        # Threads and machines that share the folder may have one process
        # number.
        own = uuid.uuid4().hex[:12]
        temporary = path.with_name(f".{path.stem}.{own}{path.suffix}")
        file = open(temporary, "xb")
        if not _lock(file, wait=True):
            file.close()  # Windows renames no open file
            return temporary, file
        # Before it was locked, another run may have taken it for a leftover.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(file.fileno())):
                return temporary, file
        file.close()


def _remove_leftovers(path):
    """Delete what runs that were killed left of a file."""
    start, end = f".{path.stem}.", path.suffix
    for name in os.listdir(path.parent):
        # Quick where it is another file's: a folder may hold thousands.
        if not (name.startswith(start) and name.endswith(end)):
            continue
        own = name[len(start) : len(name) - len(end)]
        if re.fullmatch("[0-9a-f]{12}", own):
            left = path.with_name(name)
            with contextlib.suppress(OSError), open(left, "rb") as file:
                if _lock(file):
                    left.unlink()


def _lock(file, wait=False):
    """Lock an open file; False if it is locked, or the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def sync(path):
    """Have a file, or the entries of a folder, on the disk.

    Example
    -------
    >>> sync(getfixture("tmp_path"))
    """
    is_folder = os.path.isdir(path)
    try:
        # Windows syncs only what may be written, and no folders.
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not is_folder:
            raise


@contextlib.contextmanager
def locked_folder(folder, option="output_folder"):
    """Keep other runs out of a folder; a run that dies lets go of it.

    Arguments
    ---------
    folder : str or Path
        Is made where it is missing.
    option : str
        The script's option that names it, for the message.

    Raises
    ------
    InputError
        If another run is using it, or it is a file.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with locked_folder(folder):
    ...     with locked_folder(folder):
    ...         pass
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: Another run is using ...
    """
    folder = pathlib.Path(folder)
    _refuse_file(folder, option)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0, is_singleton=False):
            yield
    except Timeout:
        raise InputError(
            f"Another run is using {folder}: wait for its end, or give "
            f"another --{option}"
        )


def write_text(path, text):
    """Write a text file, complete or not at all.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_text(path, "done")
    >>> path.read_text()
    'done'
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_lines(path, lines):
    """Write lines, complete or not at all; one at a time is in memory.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_lines(path, map(str, range(2)))
    >>> path.read_text()
    '0\\n1\\n'
    """
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def to_json(obj):
    """Plain Python of an object with arrays; NaN and infinity become None.

    Example
    -------
    >>> import numpy as np
    >>> to_json({"eer": np.float32("nan"), 3: (np.int64(1), np.arange(2))})
    {'eer': None, '3': [1, [0, 1]]}
    """
    if isinstance(obj, dict):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_json(value) for value in obj]
    if hasattr(obj, "tolist"):  # numpy and torch, scalars included
        return to_json(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


def write_json(path, obj):
    """Write an object as JSON, with null in place of NaN.

    Arguments
    ---------
    path : str or pathlib.Path
        File to write; it is replaced only when the new one is complete.
    obj : dict or list
        May contain numpy and torch scalars and arrays.

    Example
    -------
    >>> path = getfixture("tmp_path") / "results.json"
    >>> write_json(path, {"eer": float("nan")})
    >>> json.loads(path.read_text())
    {'eer': None}
    """
    write_text(path, json.dumps(to_json(obj), indent=1, allow_nan=False) + "\n")


def write_csv(path, rows, columns=None):
    """Write rows as a CSV file, complete or not at all.

    Arguments
    ---------
    path : str or Path
        File to write.
    rows : list of dict
        With the same keys.
    columns : list of str
        Which of them, in this order. Default: those of the first row.

    Raises
    ------
    InputError
        If there are no rows.

    Example
    -------
    >>> path = getfixture("tmp_path") / "manifest.csv"
    >>> write_csv(path, [{"ID": "a", "wav": "a.wav"}])
    >>> path.read_text().split()
    ['ID,wav', 'a,a.wav']
    """
    if not rows:
        raise InputError(f"{path}: no rows to write")
    with replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            columns = list(columns or rows[0])
            writer = csv.DictWriter(
                file, columns, extrasaction="ignore", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)


def read_csv(path, delimiter=","):
    """Rows of a CSV file, dicts of str; none if it is not there.

    Example
    -------
    >>> path = getfixture("tmp_path") / "manifest.csv"
    >>> write_csv(path, [{"ID": "a", "wav": "a.wav"}])
    >>> read_csv(path)
    [{'ID': 'a', 'wav': 'a.wav'}]
    """
    if not pathlib.Path(path).is_file():
        return []
    # A spreadsheet puts a mark in front of the first heading.
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return list(csv.DictReader(file, delimiter=delimiter))
