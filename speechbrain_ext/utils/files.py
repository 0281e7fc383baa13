"""Files that are never found half-written."""

import contextlib
import os
import pathlib


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
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
