"""How an encoder goes into an export: by its name, or as an archive."""

import io
import shutil
import tarfile
from pathlib import Path

import yaml

from speechbrain_ext import models
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing
from speechbrain_ext.utils.hparams import read_plain


def encoder_reference(encoder):
    """Arguments of ``load_encoder`` that make the encoder anywhere.

    Arguments
    ---------
    encoder : PooledEncoder
        From :func:`speechbrain_ext.lobes.encoders.load_encoder`.

    Returns
    -------
    dict or None
        ``name``, ``pooling`` where it was given, and, for a hub model,
        ``source`` and ``revision`` (the commit); None if the encoder needs a
        file of this machine or other keys were replaced.

    Example
    -------
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> encoder_reference(load_encoder("log_mel"))
    {'name': 'log_mel'}
    """
    recipe, model = getattr(encoder, "recipe", None), encoder.model_files
    if recipe is None or not recipe.named or {*recipe.overrides} - {"pooling"}:
        return None
    name = {"name": encoder.identity["name"], **recipe.overrides}
    # A packaged model never changes: other weights get another name.
    if model is None or model.folder.is_relative_to(models.FOLDER):
        return name
    if model.is_local:
        return None
    source, commit = model.identity["source"], model.identity["commit"]
    return {**name, "source": source, "revision": commit}


def pack_encoder(encoder, path):
    """Write an encoder as one file, for ``PackedEncoder``.

    An uncompressed tar archive of the encoder's YAML file, the overrides it
    was made with, and the files of its model. The same encoder always gives
    the same bytes.

    Arguments
    ---------
    encoder : PooledEncoder
        From :func:`speechbrain_ext.lobes.encoders.load_encoder`.
    path : str or Path
        File to write.

    Raises
    ------
    InputError
        If the encoder was not made by ``load_encoder``, the files of its
        model have changed since, or its YAML file names their folder
        elsewhere than at its key ``source``.

    Example
    -------
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> path = getfixture("tmp_path") / "encoder.ckpt"
    >>> pack_encoder(load_encoder("log_mel"), path)
    >>> tarfile.open(path).getnames()
    ['log_mel.yaml', 'overrides']
    """
    # What came out of an archive goes into another one as it is.
    archive = getattr(encoder, "archive", None)
    if archive:
        with replacing(path) as temporary:
            shutil.copyfile(archive, temporary)
        return
    recipe, model = getattr(encoder, "recipe", None), encoder.model_files
    if recipe is None:
        raise InputError(
            "This encoder cannot be copied into an export: make it with "
            "load_encoder from a YAML file"
        )
    name, text, files = encoder.identity["name"], recipe.text, []
    if "!include:" in text:
        raise InputError(
            f"Encoder '{name}': a YAML file with !include: cannot be copied "
            "into an export; put all of it in one file"
        )
    overrides = yaml.safe_dump(recipe.overrides, sort_keys=True)
    if model is not None:
        # The licence of the weights goes with them.
        licences = sorted(p.name for p in model.folder.glob("LICEN?E*"))
        files = [*model.files, *licences]
    if model is not None and model.is_local:
        model.check_unchanged()
        text = _without_source(text)
        if not text or str(model.folder.absolute()) in text + overrides:
            raise InputError(
                f"Encoder '{name}' cannot be copied into an export: give "
                f"{model.folder} at the key 'source' of its YAML file and "
                "nowhere else"
            )
    with (
        replacing(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar,
    ):
        _add(tar, f"{name}.yaml", io.BytesIO(text.encode()))
        _add(tar, "overrides", io.BytesIO(overrides.encode()))
        for one in files:
            with open(model.folder / one, "rb") as file:
                _add(tar, f"model/{one}", file)


def _without_source(text):
    """A YAML file with no value at its key ``source``; None without the key."""
    mapping = yaml.compose(text)
    others = [pair for pair in mapping.value if pair[0].value != "source"]
    if len(others) == len(mapping.value):
        return None
    others = yaml.serialize(yaml.MappingNode(mapping.tag, others))
    return f"source: null\n{others}"


def _add(tar, name, file):
    """Add a file to a tar archive with nothing of this machine in it."""
    info = tarfile.TarInfo(name)
    info.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    tar.addfile(info, file)


def unpack_encoder(path, folder):
    """Unpack an archive of :func:`pack_encoder`.

    Arguments
    ---------
    path : str or Path
        The archive.
    folder : str or Path
        An empty folder, where its files go.

    Returns
    -------
    dict
        Arguments of :func:`speechbrain_ext.lobes.encoders.load_encoder`.

    Raises
    ------
    InputError
        If the file is not such an archive.

    Example
    -------
    >>> from speechbrain_ext.lobes.encoders import load_encoder
    >>> folder = getfixture("tmp_path")
    >>> pack_encoder(load_encoder("log_mel"), folder / "encoder.ckpt")
    >>> unpack_encoder(folder / "encoder.ckpt", folder / "unpacked")
    {'name': '...log_mel.yaml', 'source': None, 'overrides': {}}
    """
    folder = Path(folder)
    try:
        with tarfile.open(path, "r:") as tar:
            # Only below the folder, where this Python can see to it.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder)
        (file,) = folder.glob("*.yaml")
        overrides = read_plain((folder / "overrides").read_text("utf-8"))
    except (OSError, tarfile.TarError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a packed encoder ({error!r})")
    model = folder / "model"
    return {
        "name": str(file),
        "source": str(model) if model.is_dir() else None,
        "overrides": overrides,
    }
