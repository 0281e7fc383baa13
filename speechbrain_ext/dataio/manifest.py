"""Manifests with factor columns, and their splits.

A manifest is a CSV file (one row per utterance) or a JSON file (``{ID: row}``)
with the columns ``ID`` and ``wav``, one column per factor (``speaker``,
``content``, ...), and optionally ``duration`` in seconds, ``start`` and
``stop`` in samples, ``split`` and anything else. Recordings that come without
one are read as if they had one, see :mod:`speechbrain_ext.dataio.readers`.
"""

import csv
import io
import itertools
import json
import math
import operator
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.columns import ABSENT, Columns, Text, pack
from speechbrain_ext.dataio.readers import LISTS, read_source, read_text
from speechbrain_ext.dataio.remote import is_remote, join, tidy
from speechbrain_ext.dataio.tar_shards import is_shards, shard_rows
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_csv
from speechbrain_ext.utils.hparams import run_label

logger = get_logger(__name__)

# Rows of a CSV file at a time; of more, Python's garbage collector would look
# through all again and again.
CHUNK = 500
# Columns with numbers.
TIMES = ("duration", "start", "stop")


def _read_csv(text):
    """Rows of a CSV file as (line number, dict)."""
    file = io.StringIO(text, newline="")
    reader = csv.DictReader(file, skipinitialspace=True)
    names = [name for name in reader.fieldnames or () if name]
    for name in set(names):
        if names.count(name) > 1:
            raise ValueError(f"column '{name}' occurs twice")
    return [(reader.line_num, row) for row in reader]


def _read_json(text):
    """Rows of a ``{ID: row}`` JSON file as (position, dict)."""
    # Pairs, because a dict would swallow a repeated ID; lists stay lists.
    pairs = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(pairs, tuple) or not all(
        isinstance(row, tuple) for _, row in pairs
    ):
        raise ValueError("expected {ID: {column: value, ...}, ...}")
    return [
        (i, {"ID": key, **dict(row)}) for i, (key, row) in enumerate(pairs, 1)
    ]


def _find(path):
    """A manifest, a folder without one, or a list."""
    if (path / "manifest.csv").is_file():
        return path / "manifest.csv"
    if path.name == "manifest.csv" and not path.exists():
        path = path.parent if path.parent.is_dir() else path
    if not path.exists():
        raise InputError(
            f"No manifest {path}: give --manifest FILE (CSV or JSON), or "
            "--data_folder with a manifest.csv, wav.scp or audio in it"
        )
    return path


def _where(path, data_root):
    """A source, and where its relative paths start from."""
    if is_shards(path):
        return path, data_root
    if is_remote(path):
        path = str(path)
        root = path.rpartition("/")[0]
    else:
        path = _find(Path(str(path)))
        root = path if path.is_dir() else path.parent
    return path, join(Path.cwd(), root if data_root is None else data_root)


def _is_table(path):
    """Whether it is a manifest; other sources become rows of one."""
    listed = Path(path).suffix.lower() in LISTS
    return not (listed or os.path.isdir(path))


def _read(path):
    """Rows of a manifest as (file and line, dict)."""
    suffix = Path(path).suffix.lower()
    reader = _read_json if suffix == ".json" else _read_csv
    try:
        rows = reader(read_text(path))
    except InputError:
        raise
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as {suffix}: {error}")
    return [(f"{path}, line {line}", row) for line, row in rows]


def load_manifest(path, data_root=None, factors=(), columns=None):
    """Load a manifest as a SpeechBrain dataset.

    Arguments
    ---------
    path : str, Path or list
        A ``.csv`` or ``.json`` manifest. In place of a ``manifest.csv``, also
        the folder that it is in or, where there is none, one whose sub-folders
        are speakers or a data folder of Kaldi; or a list of files. Manifest
        and list may be addresses (``://``), as may their paths. Also shards,
        see :func:`~speechbrain_ext.dataio.tar_shards.shard_rows`.
    data_root : str or Path
        What ``{data_root}`` and ``$data_root`` in the column ``wav`` stand
        for, and the folder that relative paths start from. Default: the
        folder of the manifest, of the list or of Kaldi.
    factors : list of str
        Columns that every row must fill.
    columns : dict
        Our name -> the name of that column in the file, for tables with
        other headings, e.g. ``{"speaker": "spk_id", "ID": "utt"}``. A column
        ``id`` that is not mapped is left out.

    Returns
    -------
    DynamicItemDataset
        In the order of the file; the items are the columns under our names
        (``id``, ``wav`` as an absolute path, the factors, ``split``, ...).

    Raises
    ------
    InputError
        If the file is missing, empty or malformed, lacks a column, repeats
        an ID or leaves a needed field empty.

    Example
    -------
    >>> path = getfixture("tmpdir") / "manifest.csv"
    >>> path.write("ID,wav,speaker\\nu1,a.wav,ann\\nu2,b.wav,bob\\n")
    >>> dataset = load_manifest(path, "/corpus", factors=["speaker"])
    >>> dataset.data["u2"]["wav"], dataset.data["u2"]["speaker"]
    ('/corpus/b.wav', 'bob')
    """
    path, root = _where(path, data_root)
    given = path, root, dict(columns or {}), ["ID", "wav", *factors]
    data, stripped = _read_columns(*given) or _read_rows(*given)
    if stripped:
        logger.warning(
            f"{path}: blanks at the ends of {stripped} values left out"
        )
    _warn_of_like_values(path, data, factors)
    dataset = DynamicItemDataset(data)
    dataset.manifest_path = path
    return dataset


def _read_rows(path, root, columns, needed):
    """Rows of any source, and how many of their values had blanks."""
    if is_shards(path):
        rows = shard_rows(path)
    elif _is_table(path):
        rows = _read(path)
    else:
        rows = read_source(path, root, labelled=len(needed) > 2)
    if not rows:
        raise InputError(f"{path} has no rows: it names no recordings")
    data, stripped = {}, 0
    for where, row in rows:
        item = _rename(row, columns, needed, path, where)
        # Blanks at the ends would make two speakers of one.
        for name in _labels(needed, item):
            value = str(item[name])
            item[name] = value.strip()
            stripped += value != item[name]
        key = item.pop("ID")
        if key in data:
            raise InputError(
                f"{where}: ID '{key}' occurs twice; IDs must be unique"
            )
        [item["wav"]] = _paths([str(item["wav"])], root)
        data[key] = _with_times(item, where)
    return Columns.of(data), stripped


def _read_columns(path, root, columns, needed):
    """What :func:`_read_rows` gives, for a CSV file many rows at a time.

    None of other sources, and where something is wrong, which that tells.
    """
    on_disk = isinstance(path, Path) and not is_shards(path)
    if not on_disk or not _is_table(path) or path.suffix.lower() == ".json":
        return None
    ids, parts, own, known, stripped = [], {}, set(), {}, 0
    try:
        for table in _tables(path):
            renamed = {name: name for name in table}
            renamed = _rename(renamed, columns, needed, path, path)
            table = {ours: table[name] for ours, name in renamed.items()}
            for name in _labels(needed, table):
                clean = [value.strip() for value in table[name]]
                stripped += sum(map(operator.ne, clean, table[name]))
                table[name] = clean
            if not all(all(map(str.strip, table[name])) for name in needed):
                return None
            ids += table.pop("ID")
            table["wav"] = _paths(table["wav"], root)
            if not parts:
                own = {n for n in table if n not in (*needed[2:], *TIMES)}
                own = {n for n in own if len(set(table[n])) > 0.95 * len(ids)}
                parts = {n: Text() if n in own else [] for n in table}
            for name, values in table.items():
                if name in TIMES:
                    times = [_time(name, value) for value in values]
                    parts[name].append(pack(times))
                elif name in own:
                    parts[name].extend(values)
                else:
                    parts[name].extend(map(known.setdefault, values, values))
    except (ValueError, csv.Error):
        return None
    for name in parts.keys() - own:
        join = np.concatenate if name in TIMES else pack
        parts[name] = join(parts[name])
    data = Columns(ids, parts)
    return (data, stripped) if 0 < len(data) == len(ids) else None


def _tables(path):
    """Heading -> values, of some rows of a CSV file at a time.

    Raises a ValueError where it is no table.
    """
    with open(path, "rb") as file:
        if any(b"\0" in block for block in iter(lambda: file.read(2**20), b"")):
            raise ValueError
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise ValueError
        reader = filter(None, reader)
        while rows := list(itertools.islice(reader, CHUNK)):
            yield dict(zip(names, zip(*rows, strict=True), strict=True))


def _labels(needed, item):
    """Columns in which blanks at the ends are left out."""
    labels = dict.fromkeys(["ID", *needed[2:], "split"])
    return [name for name in labels if item.get(name)]


def _paths(paths, root):
    """Absolute paths of the column wav."""
    text = "\0".join(["", *paths, ""])
    for mark in ("{data_root}", "$data_root"):
        if mark in text:
            paths = [path.replace(mark, str(root)) for path in paths]
            text = "\0".join(["", *paths, ""])
    # What pathlib would write in another way; it takes long.
    odd = any(part in text for part in ("//", "/.", "/\0", "\0."))
    if odd or os.sep != "/" or is_remote(root):
        return [join(root, path) for path in paths]
    start = os.path.join(root, "")
    return [path if path[:1] == "/" else start + path for path in paths]


def find_recordings(source, data_root=None):
    """Recordings without labels as a SpeechBrain dataset.

    Arguments
    ---------
    source : str, Path, list or DynamicItemDataset
        What :func:`load_manifest` takes (of a folder without manifest all
        audio in it), or a list of paths.
    data_root : str or Path
        See :func:`load_manifest`.

    Returns
    -------
    DynamicItemDataset
        With ``id`` and ``wav``. One that is given is returned as it is, of one
        that was filtered what is left.

    Raises
    ------
    InputError
        If there is nothing.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> find_recordings(folder).data["a.wav"]["wav"].endswith("a.wav")
    True
    """
    if isinstance(getattr(source, "data", None), Mapping):
        whole = source.data_ids == [*source.data]
        return source if whole else subset(source, source.data_ids)
    if isinstance(source, (str, Path)) or is_shards(source):
        return load_manifest(source, data_root)
    try:
        paths = list(dict.fromkeys(map(tidy, source)))
    except TypeError:
        raise InputError(
            f"Recordings are a folder, a manifest or a list of paths, got "
            f"{source!r}"
        )
    if not paths:
        raise InputError(f"No recordings in {source}: give a path or more")
    wavs = Text(join(Path.cwd(), path) for path in paths)
    return DynamicItemDataset(Columns(paths, {"wav": wavs}))


def recordings_name(source):
    """What tables and caches call recordings.

    Arguments
    ---------
    source : object
        As of :func:`find_recordings`.

    Returns
    -------
    str
        Name of the folder or manifest, in characters of file names.

    Example
    -------
    >>> recordings_name("corpus/my odd half.csv")
    'my_odd_half'
    """
    if not isinstance(source, (str, Path)):
        return "recordings"
    path = Path(source).resolve()
    if path.suffix.lower() in (".csv", ".json", ".tar", *LISTS):
        path = path.parent if path.stem == "manifest" else path.with_suffix("")
    return run_label(path) or "recordings"


def write_manifest(path, rows, columns=None):
    """Write a manifest as CSV, complete or not at all, and log its size.

    Arguments
    ---------
    path : str or Path
        File to write.
    rows : list of dict
        With ``duration`` in seconds.
    columns : list of str
        Which of their keys. Default: those of the first row.

    Example
    -------
    >>> path = getfixture("tmp_path") / "manifest.csv"
    >>> write_manifest(path, [{"ID": "a", "wav": "a.wav", "duration": 1.5}])
    >>> path.read_text().split()
    ['ID,wav,duration', 'a,a.wav,1.5']
    """
    write_csv(path, rows, columns)
    hours = sum(float(row["duration"]) for row in rows) / 3600
    logger.info(f"{path}: {len(rows)} utterances, {hours:.2f} hours")


def _rename(row, columns, needed, path, where):
    """A row under our names, in which nothing that is needed is empty."""
    if None in row:
        raise InputError(f"{where}: too many fields")
    renamed = {columns.get(name, name): name for name in needed}
    renamed |= {theirs: ours for ours, theirs in columns.items()}
    # A mapped name hides a column of the file that is called the same.
    item = {
        renamed.get(key, key): value
        for key, value in row.items()
        if key in renamed or key not in columns
    }
    item.pop("id", None)  # SpeechBrain's name of the ID
    for name in needed:
        if name not in item:
            hint = f"add it, or map it with --columns='{{{name}: THEIR_NAME}}'"
            raise InputError(
                f"{path}: no column '{columns.get(name, name)}' (has "
                f"{', '.join(row)}): "
                + ("write a manifest.csv" if os.path.isdir(path) else hint)
            )
        if item[name] is None or str(item[name]).strip() == "":
            raise InputError(f"{where}: empty '{name}'")
    for name in (*needed, "split"):
        if isinstance(item.get(name), (list, tuple)):
            raise InputError(
                f"{where}: {name} is {item[name]!r}: expected one text or "
                "number"
            )
    return item


def _with_times(item, where):
    """A row whose times are numbers, or not there."""
    for name in TIMES:
        try:
            value = _time(name, item.pop(name, None))
        except ValueError as error:
            raise InputError(f"{where}: {name} {error}")
        if value is not ABSENT:
            item[name] = value
    return item


def _time(name, value):
    """A time of a row as a number."""
    if value in (None, ""):
        return ABSENT
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"'{value}' is not a number")
    if name == "duration":
        fits, wanted = math.isfinite(found), "seconds"
    else:
        fits = found.is_integer()
        wanted = "a whole number of samples, not seconds"
    if not fits or found < 0:
        raise ValueError(f"is {value}: expected {wanted}")
    return found if name == "duration" else int(found)


def _warn_of_like_values(path, data, factors):
    """Values that differ only by case or by how an accent is written."""
    for factor in factors:
        values = {}
        for value in dict.fromkeys(data.values_of(factor)):
            like = unicodedata.normalize("NFC", value).casefold()
            values.setdefault(like, []).append(value)
        like = [sorted(group) for group in values.values() if len(group) > 1]
        if like:
            logger.warning(
                f"{path}: {len(like)} values of '{factor}' are written in "
                f"several ways, and taken for different ones: "
                f"{' and '.join(map(repr, like[0]))}"
            )


def subset(dataset, ids):
    """Some utterances of a dataset, in that order.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    ids : list of str
        Utterances.

    Returns
    -------
    DynamicItemDataset
        With copies of the rows.

    Example
    -------
    >>> rows = {"u1": {"wav": "a.wav"}, "u2": {"wav": "b.wav"}}
    >>> list(subset(DynamicItemDataset(rows), ["u2"]).data)
    ['u2']
    """
    return DynamicItemDataset(Columns.of(dataset.data).take(ids))


def factor_labels(dataset, ids, factors):
    """Values of some utterances, per factor.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    ids : list of str
        Utterances.
    factors : list of str
        Columns.

    Returns
    -------
    dict
        Factor -> list of its values, in the order of ``ids``.

    Example
    -------
    >>> dataset = DynamicItemDataset({"u1": {"speaker": "ann"}})
    >>> factor_labels(dataset, ["u1"], ["speaker"])
    {'speaker': ['ann']}
    """
    data = Columns.of(dataset.data)
    return {factor: data.values_of(factor, ids) for factor in factors}
