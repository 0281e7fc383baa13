"""Errors that a user can mend, shown as one line.

Everything the package checks about its input (manifests, audio, options,
folders) raises :class:`InputError`. Scripts run their main function under
:func:`one_line_errors`, so that such an error ends in one line and a non-zero
exit status, while a defect of the program keeps its traceback.
"""

import contextlib
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


@contextlib.contextmanager
def one_line_errors():
    """Turn an :class:`InputError` into one line on stderr and exit status 1.

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
    except InputError as error:
        print("ERROR: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(1)
