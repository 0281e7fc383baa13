"""Vectors of many recordings: made in batches, and kept in files."""

import contextlib
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.feature_cache import extract_features, in_windows
from speechbrain_ext.dataio.manifest import subset
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

FORMATS = (".npz", ".parquet", ".ark")
AT_A_TIME = 4096  # utterances that a head maps


class Vectors(NamedTuple):
    """Vectors of utterances or of their windows.

    Arguments
    ---------
    ids : list of str
        Of each row the utterance.
    vectors : numpy.ndarray
        float32, shape [rows, D].
    spans : list of tuple
        Of each row the (begin, end) in its utterance in seconds.
    """

    ids: list
    vectors: np.ndarray
    spans: list


def embed_recordings(
    model,
    dataset,
    subspace=None,
    *,
    cache_folder=None,
    in_spans=False,
    unreadable=None,
    **extraction,
):
    """Vectors of many recordings, in batches of similar length.

    Arguments
    ---------
    model : speechbrain_ext.inference.subspaces.SubspaceEncoder
        An export.
    dataset : DynamicItemDataset
        See :func:`~speechbrain_ext.dataio.manifest.find_recordings`.
    subspace : str
        Which one. Default: the export's ``subspace``.
    cache_folder : str or Path
        Keeps the features: an interrupted call goes on there. Default: a
        temporary folder.
    in_spans : bool
        A vector for each window of a recording above 30 s, in place of one
        for the recording.
    unreadable : dict
        Filled with recordings that cannot be read, ID -> why, which are left
        out. Default: the first ends the call.
    **extraction : object
        As of :func:`~speechbrain_ext.dataio.feature_cache.
        extract_features`: ``batch_size``, ``num_workers``, ``progress``, ...

    Returns
    -------
    Vectors

    Raises
    ------
    InputError
        If there is no such subspace, or nothing can be read.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_ext.dataio.manifest import find_recordings
    >>> from speechbrain_ext.inference.subspaces import SubspaceEncoder
    >>> folder = getfixture("tmp_path")
    >>> noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    >>> soundfile.write(folder / "a.wav", noise, 16000)
    >>> made = embed_recordings(
    ...     SubspaceEncoder.from_packaged(),
    ...     find_recordings(folder),
    ...     progress=False,
    ... )
    >>> made.ids, made.vectors.shape, made.spans
    (['a.wav'], (1, 150), [(0.0, 0.5)])
    """
    parts = embed_in_parts(
        model,
        dataset,
        subspace,
        cache_folder=cache_folder,
        in_spans=in_spans,
        unreadable=unreadable,
        **extraction,
    )
    return joined(parts)


def joined(parts):
    """Parts of vectors as one.

    Example
    -------
    >>> one = Vectors(["a"], np.ones((1, 2)), [(0.0, 1.0)])
    >>> joined([one, one._replace(ids=["b"])]).ids
    ['a', 'b']
    """
    ids, vectors, spans = zip(*parts)
    return Vectors(sum(ids, []), np.concatenate(vectors), sum(spans, []))


def embed_in_parts(
    model,
    dataset,
    subspace=None,
    *,
    cache_folder=None,
    in_spans=False,
    unreadable=None,
    **extraction,
):
    """Vectors of more recordings than memory holds, some thousand at a time.

    Arguments
    ---------
    model, dataset, subspace, cache_folder, in_spans, unreadable, **extraction
        As of :func:`embed_recordings`. All are encoded before the first part.

    Yields
    ------
    Vectors
    """
    module = model.mods.embedding_model
    name = module.choose_subspace(subspace)
    check_audio(dataset, model.hparams.sample_rate, unreadable=unreadable)
    dataset = _without(dataset, unreadable)
    with contextlib.ExitStack() as stack:
        folder = cache_folder or stack.enter_context(
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        )
        features = extract_features(
            dataset,
            module.encoder,
            folder,
            layers=module.layers,
            device=model.device,
            unreadable=unreadable,
            **extraction,
        )
        ids = list(_without(dataset, unreadable).data)
        for first in range(0, len(ids), AT_A_TIME):
            part = ids[first : first + AT_A_TIME]
            pooled = features.select(part, joined=not in_spans)
            with torch.no_grad():
                made = module.network(pooled.to(model.device))[name]
            spans = [(key, 0.0, dataset.data[key]["duration"]) for key in part]
            if in_spans:
                spans = in_windows(subset(dataset, part))[1]
            part, *times = zip(*spans)
            yield Vectors(list(part), made.cpu().numpy(), list(zip(*times)))


def _without(dataset, unreadable):
    """What can be read of a dataset."""
    good = [key for key in dataset.data_ids if key not in (unreadable or ())]
    if not good:
        raise InputError(
            f"None of {len(dataset)} recordings can be read: "
            f"{next(iter(unreadable.values()))}"
        )
    return subset(dataset, good)


def check_format(path, ids=()):
    """Refuse a file of vectors that could not be written, before the work.

    Arguments
    ---------
    path : str or Path
        ``.npz``, ``.parquet`` (for which pyarrow is needed) or ``.ark``
        (Kaldi's; kaldiio).
    ids : iterable of str
        What will be in it.

    Raises
    ------
    InputError
        If it has another suffix, the library is missing, it is a folder, or an
        ID cannot be in it.

    Example
    -------
    >>> check_format("a.csv")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: a.csv: vectors are written as \
.npz, .parquet or .ark
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise InputError(
            f"{path}: vectors are written as .npz, .parquet or .ark"
        )
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    library = {".parquet": "pyarrow", ".ark": "kaldiio"}.get(suffix)
    try:
        __import__(library or "numpy")
    except ImportError:
        raise InputError(f"{path}: install {library}, or write a .npz file")
    for key in ids if suffix == ".ark" else ():
        if len(key.split()) != 1:
            raise InputError(
                f"{path}: the ID '{key}' has a blank, which Kaldi's files "
                "cannot have: write a .npz or .parquet file"
            )


def write_vectors(path, parts, in_spans=False):
    """Write vectors to a file, complete or not at all.

    Arguments
    ---------
    path : str or Path
        Where to; its suffix chooses the format, see :func:`check_format`.
    parts : iterable of Vectors
        What is written: ``ids`` and ``vectors``. But for ``.npz``, one part at
        a time is in memory; in ``.parquet`` it is a row group.
    in_spans : bool
        Write ``begin`` and ``end`` too; in Kaldi's format they become part of
        the ID, in hundredths of a second.

    Returns
    -------
    tuple of int
        (rows, D)

    Example
    -------
    >>> path = getfixture("tmp_path") / "x.npz"
    >>> write_vectors(path, [Vectors(["a"], np.ones((1, 2)), [(0.0, 1.0)])])
    (1, 2)
    >>> list(np.load(path))
    ['ids', 'vectors']
    """
    check_format(path)
    write = {".npz": _write_npz, ".parquet": _write_parquet, ".ark": _write_ark}
    rows = width = 0

    def counted():
        """Each part, checked."""
        nonlocal rows, width
        for part in parts:
            check_format(path, part.ids)
            rows, width = rows + len(part.ids), part.vectors.shape[1]
            yield part

    with replacing(path) as temporary:
        write[Path(path).suffix.lower()](temporary, counted(), in_spans)
    return rows, width


def _columns(part, in_spans):
    """Arrays of vectors by their names in a file."""
    columns = {"ids": np.array(part.ids), "vectors": part.vectors}
    if in_spans:
        columns["begin"], columns["end"] = np.array(part.spans).T
    return columns


def _write_npz(path, parts, in_spans):
    with open(path, "wb") as file:  # a path .NPZ would get .npz
        np.savez(file, **_columns(joined(parts), in_spans))


def _write_parquet(path, parts, in_spans):
    import pyarrow
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        writer = None
        for part in parts:
            columns = _columns(part, in_spans)
            columns["vectors"] = pyarrow.FixedSizeListArray.from_arrays(
                part.vectors.ravel(), part.vectors.shape[1]
            )
            table = pyarrow.table(columns)
            writer = writer or stack.enter_context(
                parquet.ParquetWriter(path, table.schema)
            )
            writer.write_table(table)


def _write_ark(path, parts, in_spans):
    import kaldiio

    for part in parts:
        keys = part.ids
        if in_spans:
            keys = [
                f"{key}-{round(100 * a):07d}-{round(100 * b):07d}"
                for key, (a, b) in zip(keys, part.spans)
            ]
        vectors = dict(zip(keys, part.vectors))
        kaldiio.save_ark(str(path), vectors, append=True)


def read_vectors(path):
    """Vectors out of a file of :func:`write_vectors`, or one like it.

    Arguments
    ---------
    path : str or Path
        ``.npz``, ``.parquet`` or ``.ark``.

    Returns
    -------
    ids : list of str
    vectors : numpy.ndarray
        Shape [N, D].

    Raises
    ------
    InputError
        If it cannot be read, or has no such arrays.

    Example
    -------
    >>> read_vectors("/no/such/x.npz")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: /no/such/x.npz cannot be read ...
    """
    check_format(path)
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".npz":
            with np.load(path) as arrays:
                ids, vectors = arrays["ids"].tolist(), arrays["vectors"]
        elif suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path, columns=["ids", "vectors"])
            ids = table["ids"].to_pylist()
            flat = [c.flatten().to_numpy() for c in table["vectors"].chunks]
            vectors = np.concatenate(flat, dtype=np.float32)
            vectors = vectors.reshape(len(ids), -1)
        else:
            import kaldiio

            ids, vectors = zip(*kaldiio.load_ark(str(path)))
            ids, vectors = list(ids), np.stack(vectors)
    # What damaged files raise depends on where the damage is.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{path} cannot be read as vectors ({reason})")
    if vectors.ndim != 2 or len(ids) != len(vectors):
        raise InputError(
            f"{path} has {len(ids)} ids and vectors of shape "
            f"{list(vectors.shape)}: expected [ids, D]"
        )
    return ids, vectors
