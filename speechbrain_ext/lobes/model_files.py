"""Files of pre-trained models: in a local folder or on the Hugging Face hub."""

import fnmatch
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from speechbrain_ext.utils.errors import InputError

# What a model needs: name for messages -> alternatives, the preferred first;
# an alternative is a list of patterns.
TRANSFORMERS_FILES = {
    "config.json": [["config.json"]],
    "preprocessor_config.json": [
        ["preprocessor_config.json"],
        ["processor_config.json"],
    ],
    "weights (model.safetensors or pytorch_model.bin)": [
        [
            "model.safetensors",
            "model-*.safetensors",
            "model.safetensors.index.json",
        ],
        [
            "pytorch_model.bin",
            "pytorch_model-*.bin",
            "pytorch_model.bin.index.json",
        ],
    ],
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
    source : str
        Hub id, or None for a local folder.
    commit : str
        Commit of the hub id, or None for a local folder.
    digest : str
        Digest of the files of a local folder.
    """

    folder: Path
    files: list
    source: str = None
    commit: str = None
    digest: str = None

    @property
    def identity(self):
        """What the weights are, without where they are; JSON-able."""
        if self.commit is None:
            return {"digest": self.digest}
        return {"source": self.source, "commit": self.commit}

    def check_unchanged(self):
        """Raise an InputError if a local model was changed since."""
        if _digest(self.folder, self.files) != self.digest:
            raise InputError(
                f"The model in {self.folder} has changed since it was loaded"
            )


def _digest(folder, files):
    """Digest of names and contents, which does not depend on the folder."""
    digest = hashlib.blake2b(digest_size=16)
    for name in files:
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path} has disappeared")
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _matching(folder, patterns):
    return [
        path.name
        for path in folder.iterdir()
        if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
        and path.is_file()
    ]


def _chosen(folder, alternatives):
    """Files of the first alternative that is there; none if none is."""
    for patterns in alternatives:
        if names := _matching(folder, patterns):
            return names
    return []


def _snapshot(source, revision, needs, optional):
    """Folder of a hub model, downloaded where it is not there yet."""
    folder, rounds = None, max(len(choice) for choice in needs.values())
    for i in range(rounds):
        # What a preferred alternative gave is not downloaded twice.
        patterns = [
            pattern
            for choice in needs.values()
            if i < len(choice) and not (folder and _chosen(folder, choice[:i]))
            for pattern in choice[i]
        ]
        if not patterns:
            break
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    source,
                    revision=revision,
                    allow_patterns=[*patterns, *optional],
                )
            )
        # The kinds of network errors depend on the version of the hub.
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            cache = os.path.abspath(huggingface_hub.constants.HF_HUB_CACHE)
            at = f" at revision '{revision}'" if revision else ""
            raise InputError(
                f"Model '{source}'{at} is no folder here, is not in the "
                f"cache {cache}, and cannot be downloaded "
                f"({type(error).__name__}: {reason}): give a local one with "
                "--encoder_source FOLDER"
            )
    return folder


def find_model(source, revision=None, needs=TRANSFORMERS_FILES, optional=()):
    """Find a model on this machine, or download it from the hub.

    Arguments
    ---------
    source : str
        A folder, or a hub id.
    revision : str
        Branch, tag or commit of a hub id; a folder has none.
    needs : dict
        Name -> alternatives, each a list of patterns.
    optional : list of str
        Patterns of files that belong to the model where they are there.

    Returns
    -------
    ModelFiles
        Folder, names of the needed files, and identity.

    Raises
    ------
    InputError
        If there is neither such a folder nor such a hub model, a file is
        missing, or a folder is given with a revision.

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
        folder = _snapshot(str(source), revision, needs, optional)
    files = set(_matching(folder, optional))
    for name, alternatives in needs.items():
        found = _chosen(folder, alternatives)
        if not found:
            where = folder if is_local else f"hub model '{source}' ({folder})"
            raise InputError(f"Model without {name}: {where}")
        files.update(found)
    files = sorted(files)
    if is_local:
        return ModelFiles(folder, files, digest=_digest(folder, files))
    return ModelFiles(folder, files, source=str(source), commit=folder.name)
