"""Pre-trained models that come with the package, each in a folder."""

from pathlib import Path

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import file_digest

FOLDER = Path(__file__).resolve().parent


def check_sums(folder):
    """Check the files of a model against its ``SHA256SUMS``.

    Arguments
    ---------
    folder : str or Path
        Of the model.

    Raises
    ------
    InputError
        If there are no sums, or a file is missing or not what it was.

    Example
    -------
    >>> check_sums("/no/such/folder")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: No model in /no/such/folder: ...
    """
    folder = Path(folder)
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise InputError(
            f"No model in {folder}: its file SHA256SUMS is missing; install "
            "the package again with pip"
        )
    for line in sums.read_text(encoding="utf-8").splitlines():
        wanted, name = line.split()
        path = folder / name
        if not path.is_file() or file_digest(path, "sha256") != wanted:
            raise InputError(
                f"{path} is missing or damaged (its SHA-256 is not that of "
                "SHA256SUMS): install the package again with pip"
            )


def packaged_model(name):
    """The folder of a model that comes with the package, after a check.

    Arguments
    ---------
    name : str
        A folder of ``speechbrain_ext/models``.

    Returns
    -------
    str
        The folder.

    Raises
    ------
    InputError
        If it is not there, or a file is not what it was.

    Example
    -------
    >>> Path(packaged_model("mini")).name
    'mini'
    """
    folder = FOLDER / name
    check_sums(folder)
    return str(folder)
