"""Errors that a user can mend, shown as one line.

Everything the package checks about its input (manifests, audio, options,
folders) raises :class:`InputError`. Scripts run their main function under
:func:`one_line_errors`, so that such an error, or a full disk, ends in one line
and a non-zero exit status, while a defect of the program keeps its traceback.
"""

import contextlib
import errno
import re
import sys


class InputError(ValueError):
    """Bad input: says what is wrong, where, what was expected, what to do.

    Example
    -------
    >>> raise InputError("manifest.csv: no column 'speaker'")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: manifest.csv: no column 'speaker'
    """


class Unreachable(InputError):
    """A server or file system that cannot be reached: no fault of one file.

    So it ends a call that leaves out what cannot be read.
    """


# What torch, NumPy and safetensors say of a disk that is full.
FULL = (
    "PytorchStreamWriter|unexpected pos|iostream error|requested and .* written"
    "|os error 28"
)
# Of OSError: what a user can mend.
AGAIN = "and call the same command again: it goes on"
MENDABLE = {
    errno.ENOSPC: f"free some space {AGAIN}",
    errno.EDQUOT: f"free some space {AGAIN}",
    errno.EFBIG: f"allow larger files {AGAIN}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give one that you may use",
    errno.EPERM: "give one that you may use",
    errno.ENOTDIR: "a folder is expected, give another",
    errno.EISDIR: "a file is expected, give another",
    errno.EEXIST: "a folder is expected, give another",
    errno.ENOENT: "give one that exists",
}


def explain(error):
    """What an error says in one line; None for a defect of the program.

    Arguments
    ---------
    error : Exception
        Caught.

    Returns
    -------
    str or None

    Example
    -------
    >>> explain(OSError(errno.ENOSPC, "No space left on device", "a.npy"))
    'No space left on device: a.npy; free some space and call the same \
command again: it goes on'
    """
    if isinstance(error, InputError):
        # That of a process that reads data comes with its traceback.
        said = re.split("(?:InputError|Unreachable): ", str(error))[-1]
        return " ".join(said.split())
    if re.search(FULL, str(error)):
        error = OSError(errno.ENOSPC, "No space left for a file")
    if not isinstance(error, OSError) or error.errno not in MENDABLE:
        return None
    if error.errno == errno.ENOENT and error.filename is None:
        return None
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror}{where}; {MENDABLE[error.errno]}"


@contextlib.contextmanager
def one_line_errors():
    """Turn an error that a user can mend into one line and exit status 1.

    Example
    -------
    >>> with one_line_errors():
    ...     raise InputError("block larger than the grid")
    Traceback (most recent call last):
    ...
    SystemExit: 1
    """
    try:
        yield
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        print(f"ERROR: {line}", file=sys.stderr)
        sys.exit(1)
