"""Files of pre-trained models: in a local folder or on the Hugging Face hub."""

import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import check_digest, digest, file_digest

# Weights in one file, or in several with an index.
_WEIGHTS = [
    [f"{name}.{kind}", f"{name}-*.{kind}", f"{name}.{kind}.index.json"]
    for name, kind in (("model", "safetensors"), ("pytorch_model", "bin"))
]
# What a model needs: name for messages -> alternatives, the preferred first;
# an alternative is a list of patterns.
TRANSFORMERS_FILES = {
    "config.json": [["config.json"]],
    "preprocessor_config.json": [
        ["preprocessor_config.json"],
        ["processor_config.json"],
    ],
    "weights (model.safetensors or pytorch_model.bin)": _WEIGHTS,
}
SPEECHBRAIN_FILES = {
    "hyperparams.yaml": [["hyperparams.yaml"]],
    "weights (*.ckpt)": [["*.ckpt"]],
}


@dataclass(frozen=True)
class ModelFiles:
    """A pre-trained model on this machine.

    Arguments
    ---------
    folder : Path
        Where it is.
    files : list of str
        Names of the files that are needed.
    identity : dict
        What the weights are, without where they are; JSON-able: ``source`` and
        ``commit`` of a hub model, ``digest`` of the files of a local one.
    """

    folder: Path
    files: list
    identity: dict

    @property
    def is_local(self):
        """Whether it is a folder of this machine, not a hub model."""
        return "digest" in self.identity

    def check_unchanged(self):
        """Raise an InputError if a local model was changed since."""
        if _digest(self.folder, self.files) != self.identity["digest"]:
            raise InputError(
                f"The model in {self.folder} has changed since it was loaded"
            )


def check_file(path, sha256=None):
    """Refuse a file of a model that is not what it should be.

    Arguments
    ---------
    path : str or Path
        The file.
    sha256 : str
        Its digest. Default: not checked.

    Raises
    ------
    InputError
        If it is a pointer of Git LFS, or another file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model.safetensors"
    >>> _ = path.write_text("version https://git-lfs.github.com/spec/v1")
    >>> check_file(path)
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ... is a Git LFS pointer, not ...
    """
    with open(path, "rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise InputError(
                f"{path} is a Git LFS pointer, not the file: run git lfs pull "
                "in its repository"
            )
    check_digest(path, sha256)


def _digest(folder, files):
    """Digest of names and contents, which does not depend on the folder."""
    return digest([[name, file_digest(folder / name)] for name in files])


def _matching(folder, patterns):
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return [path.name for path in found if path.is_file()]


def _chosen(folder, alternatives):
    """Files of the first alternative that is there; none if none is."""
    found = (_matching(folder, patterns) for patterns in alternatives)
    return next(filter(None, found), [])


def _snapshot(source, revision, needs, optional, instead):
    """Folder of a hub model, downloaded where it is not there yet."""
    preferred = [p for choice in needs.values() for p in choice[0]]
    folder = _download(source, revision, [*preferred, *optional], instead)
    # The other alternatives only of what is not there now.
    others = [
        pattern
        for choice in needs.values()
        if not _chosen(folder, choice[:1])
        for patterns in choice[1:]
        for pattern in patterns
    ]
    if others:
        folder = _download(source, revision, others, instead)
    return folder


def _download(source, revision, patterns, instead):
    """Folder of a hub model, with those of its files that fit the patterns."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                source, revision=revision, allow_patterns=patterns
            )
        )
    # The kinds of network errors depend on the version of the hub.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        cache = os.path.abspath(huggingface_hub.constants.HF_HUB_CACHE)
        at = f" at revision '{revision}'" if revision else ""
        raise InputError(
            f"Model '{source}'{at} is not a folder here, is not in the "
            f"cache {cache}, and cannot be downloaded "
            f"({type(error).__name__}: {reason})"
            + (f": give a local one with {instead}" if instead else "")
        )


def find_model(
    source,
    revision=None,
    needs=TRANSFORMERS_FILES,
    optional=(),
    instead="--encoder_source FOLDER",
):
    """Find a model on this machine, or download it from the hub.

    Arguments
    ---------
    source : str
        A folder, or a hub id, which may end in ``@revision``.
    revision : str
        Branch, tag or commit of a hub id; a folder has none.
    needs : dict
        Name -> alternatives, each a list of patterns.
    optional : list of str
        Patterns of files that belong to the model where they are there.
    instead : str
        What a message says to give where a hub model cannot be had.

    Returns
    -------
    ModelFiles
        Folder, names of the needed files, and identity.

    Raises
    ------
    InputError
        If there is neither such a folder nor such a hub model, a file is
        missing or only a pointer, or a folder is given with a revision.

    Example
    -------
    >>> find_model("/no/such/folder")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: No model folder /no/such/folder
    """
    folder = Path(str(source)).expanduser()
    is_local = folder.is_dir()
    if is_local and revision is not None:
        raise InputError(
            f"Model source {source} is a folder here, which has no revision: "
            f"give '{revision}' with a hub id, or the folder alone"
        )
    if not is_local:
        looks_like_path = (
            str(source).startswith((".", "~", "/")) or len(folder.parts) > 2
        )
        if looks_like_path or folder.exists():
            raise InputError(f"No model folder {source}")
        source, at, named = str(source).partition("@")
        if at and (revision is not None or not named):
            raise InputError(
                f"Model source {source}@{named}: expected one revision, as in "
                "user/name@main"
            )
        revision = named or revision
        folder = _snapshot(source, revision, needs, optional, instead)
    files = set(_matching(folder, optional))
    for name, alternatives in needs.items():
        found = _chosen(folder, alternatives)
        if not found:
            where = folder if is_local else f"hub model '{source}' ({folder})"
            raise InputError(f"Model without {name}: {where}")
        files.update(found)
    files = sorted(files)
    for name in files:
        check_file(folder / name)
    if is_local:
        return ModelFiles(folder, files, {"digest": _digest(folder, files)})
    commit = {"source": source, "commit": folder.name}
    return ModelFiles(folder, files, commit)
