"""Files that are never found half-written."""

import contextlib
import hashlib
import json
import os
import pathlib
import uuid

from speechbrain_ext.utils.errors import InputError


def digest(obj):
    """A short digest of a JSON-able object.

    Example
    -------
    >>> digest([1, "a"]) == digest((1, "a"))
    True
    """
    text = json.dumps(obj, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def claim_folder(folder, settings, began="CKPT*", option="output_folder"):
    """Refuse to go on in a folder that a run with other settings began.

    Arguments
    ---------
    folder : str or Path
        Where the run keeps its state.
    settings : dict
        What determines the run, JSON-able. Kept in ``settings.json``.
    began : str
        Pattern of what a run leaves there once it has something to lose.
    option : str
        The script's option that names the folder, for the message.

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
    path = pathlib.Path(folder) / "settings.json"
    settings = json.loads(json.dumps(settings, default=str))
    if path.is_file() and any(pathlib.Path(folder).glob(began)):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): delete {folder}")
        for key in {**found, **settings}:
            old, new = found.get(key), settings.get(key)
            if old != new:
                raise InputError(
                    f"{folder} holds a run with another {key} ({old}, now "
                    f"{new}): give another --{option}, or delete it"
                )
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8")


@contextlib.contextmanager
def replacing(path):
    """Give a temporary path beside ``path`` that becomes it on success.

    Arguments
    ---------
    path : str or pathlib.Path
        File to write; missing folders are made.

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
    # Threads and machines that share the folder may have one process number.
    own = uuid.uuid4().hex[:12]
    temporary = path.with_name(f".{path.stem}.{own}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
