"""Manifests with factor columns, their audio and their splits.

A manifest is a CSV file (one row an utterance) or a JSON file (``{ID: row}``)
with the columns ``ID`` and ``wav``, one column a factor (``speaker``,
``content``, ...), and optionally ``duration`` in seconds, ``start`` and
``stop`` in samples, ``split`` and anything else.
"""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile
import speechbrain as sb
import torch
import torchaudio
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger

from speechbrain_ext.utils.errors import InputError

logger = get_logger(__name__)

# Names of a split in the column `split`.
SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}


def _read_csv(path):
    """Rows of a CSV file as (line number, dict)."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        return [(reader.line_num, row) for row in reader]


def _read_json(path):
    """Rows of a ``{ID: row}`` JSON file as (position, dict)."""
    with open(path, encoding="utf-8") as file:
        # Pairs, because a dict would swallow a repeated ID.
        pairs = json.load(file, object_pairs_hook=list)
    return [
        (i, {"ID": key, **dict(row)}) for i, (key, row) in enumerate(pairs, 1)
    ]


def load_manifest(path, data_root=None, factors=(), columns=None):
    """Load a manifest as a SpeechBrain dataset.

    Arguments
    ---------
    path : str or Path
        A ``.csv`` or ``.json`` manifest.
    data_root : str or Path
        What ``{data_root}`` and ``$data_root`` in the column ``wav`` stand
        for, and the folder that relative paths start from. Default: the
        folder of the manifest.
    factors : list of str
        Columns that every row must fill.
    columns : dict
        Our name -> the name of that column in the file, for tables with
        other headings, e.g. ``{"speaker": "spk_id", "ID": "utt"}``.

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
    path = Path(str(path))
    if not path.is_file():
        raise InputError(
            f"No manifest {path}: give --manifest FILE (CSV or JSON), or "
            "--data_folder with a manifest.csv in it"
        )
    root = Path(data_root if data_root is not None else path.parent).absolute()
    reader = _read_json if path.suffix == ".json" else _read_csv
    try:
        rows = reader(path)
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix}: {error}")
    if not rows:
        raise InputError(f"{path}: the manifest has no rows")

    columns = dict(columns or {})
    needed = ["ID", "wav", *factors]
    renamed = {columns.get(name, name): name for name in needed}
    renamed.update({theirs: ours for ours, theirs in columns.items()})
    data = {}
    for line, row in rows:
        for theirs in row:
            if theirs is None:
                raise InputError(f"{path}, line {line}: too many fields")
        # A mapped name hides a column of the file that is called the same.
        item = {
            renamed.get(key, key): value
            for key, value in row.items()
            if key in renamed or key not in columns
        }
        for name in needed:
            if name not in item:
                raise InputError(
                    f"{path}: no column '{columns.get(name, name)}' (has "
                    f"{', '.join(row)}): add it, or map it with "
                    f"--columns='{{{name}: THEIR_NAME}}'"
                )
            if item[name] is None or str(item[name]).strip() == "":
                raise InputError(f"{path}, line {line}: empty '{name}'")
        key = str(item.pop("ID"))
        if key in data:
            raise InputError(
                f"{path}, line {line}: ID '{key}' occurs twice; IDs must be "
                "unique"
            )
        wav = str(item["wav"])
        for mark in ("{data_root}", "$data_root"):
            wav = wav.replace(mark, str(root))
        item["wav"] = str(root / wav)
        for name in factors:
            item[name] = str(item[name])
        for name in ("duration", "start", "stop"):
            if item.get(name) in (None, ""):
                item.pop(name, None)
                continue
            try:
                value = float(item[name])
            except (TypeError, ValueError):
                raise InputError(
                    f"{path}, line {line}: {name} '{item[name]}' is no number"
                )
            item[name] = value if name == "duration" else int(value)
        data[key] = item
    dataset = DynamicItemDataset(data)
    dataset.manifest_path = path
    return dataset


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
        Shares the rows of the first.

    Example
    -------
    >>> rows = {"u1": {"wav": "a.wav"}, "u2": {"wav": "b.wav"}}
    >>> list(subset(DynamicItemDataset(rows), ["u2"]).data)
    ['u2']
    """
    return DynamicItemDataset({key: dataset.data[key] for key in ids})


def in_split(dataset, split=None):
    """Utterances of one split.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    split : str
        Value of the column ``split``. Default: all utterances.

    Returns
    -------
    list of str
        Their IDs.

    Raises
    ------
    InputError
        If there are none; names the splits that there are.

    Example
    -------
    >>> dataset = DynamicItemDataset({"u1": {"split": "test"}, "u2": {}})
    >>> in_split(dataset, "test"), in_split(dataset)
    (['u1'], ['u1', 'u2'])
    """
    rows = dataset.data.items()
    ids = [k for k, row in rows if split in (None, row.get("split"))]
    if not ids:
        found = sorted({str(row.get("split")) for _, row in rows})
        raise InputError(
            f"No utterance in split '{split}': the manifest has "
            f"{', '.join(found)}"
        )
    return ids


def factor_labels(dataset, ids, factors):
    """Values of some utterances, a factor.

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
    return {f: [dataset.data[key][f] for key in ids] for f in factors}


def check_audio(dataset, sample_rate=16000, resample=True):
    """Check every file of a dataset before any work starts on it.

    Reads headers only. Fills in ``duration`` (seconds) where it is missing.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    sample_rate : int
        Rate in Hz that the encoder takes.
    resample : bool
        Whether other rates are allowed (they are converted on reading).

    Raises
    ------
    InputError
        If a file is missing, unreadable or empty, a segment lies outside its
        file, or a rate differs while ``resample`` is off.
    """
    infos = {}
    for key, row in dataset.data.items():
        wav = row["wav"]
        if wav not in infos:
            if not Path(wav).is_file():
                raise InputError(
                    f"Utterance '{key}': no file {wav}; check the column wav "
                    "and --data_folder"
                )
            try:
                infos[wav] = soundfile.info(wav)
            except (RuntimeError, OSError) as error:
                raise InputError(
                    f"Utterance '{key}': {wav} is no readable audio ({error})"
                )
        info = infos[wav]
        start, stop = row.get("start", 0), row.get("stop", info.frames)
        if info.frames == 0:
            raise InputError(f"Utterance '{key}': {wav} is empty")
        if not 0 <= start < stop <= info.frames:
            raise InputError(
                f"Utterance '{key}': samples {start} to {stop} are not in "
                f"{wav}, which has {info.frames}"
            )
        if info.samplerate != sample_rate and not resample:
            raise InputError(
                f"Utterance '{key}': {wav} has {info.samplerate} Hz, expected "
                f"{sample_rate}; convert it or set --resample=True"
            )
        row["duration"] = (stop - start) / info.samplerate


def read_audio(key, wav, start=None, stop=None, sample_rate=16000):
    """Read an utterance as one channel at a given rate.

    Arguments
    ---------
    key : str
        The utterance's ID, for messages.
    wav : str
        A file.
    start, stop : int
        First sample and the sample after the last one, at the file's own
        rate. Default: the whole file.
    sample_rate : int
        Wanted rate in Hz; other rates are converted.

    Returns
    -------
    torch.Tensor
        The samples, shape [time], channels averaged.

    Raises
    ------
    InputError
        If the file cannot be decoded, is empty or has samples that are not
        finite.
    """
    start = start or 0
    frames = -1 if stop is None else stop - start
    try:
        signal, rate = audio_io.load(wav, frame_offset=start, num_frames=frames)
    except (RuntimeError, OSError) as error:
        raise InputError(f"Utterance '{key}': cannot decode {wav} ({error})")
    signal = signal.mean(dim=0)
    if signal.numel() == 0:
        raise InputError(f"Utterance '{key}': {wav} is empty")
    if not torch.isfinite(signal).all():
        raise InputError(
            f"Utterance '{key}': {wav} has samples that are NaN or infinite"
        )
    if rate != sample_rate:
        signal = torchaudio.functional.resample(signal, rate, sample_rate)
    return signal


def add_audio_pipeline(dataset, sample_rate=16000, channel=None):
    """A copy of a dataset that yields ``id`` and ``sig``.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    sample_rate : int
        Rate in Hz.
    channel : callable
        ``channel(signal, key) -> signal``, such as
        :class:`speechbrain_ext.augment.channel.RandomChannel`.

    Returns
    -------
    DynamicItemDataset
        Items ``id`` and ``sig`` (torch.Tensor of shape [time]).
    """

    @sb.utils.data_pipeline.takes("id")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(key):
        row = dataset.data[key]
        signal = read_audio(
            key, row["wav"], row.get("start"), row.get("stop"), sample_rate
        )
        return signal if channel is None else channel(signal, key)

    return DynamicItemDataset(
        dataset.data, [audio_pipeline], output_keys=["id", "sig"]
    )


def _shared_values(data, splits, factor):
    """Values of a factor that occur in more than one split, sorted."""
    owners = {}
    for split, ids in splits.items():
        for key in ids:
            owners.setdefault(data[key][factor], set()).add(split)
    return sorted(value for value, names in owners.items() if len(names) > 1)


def split_manifest(
    dataset,
    by,
    held_out=None,
    ratios=(0.6, 0.2, 0.2),
    seed=0,
    split_names=None,
):
    """Divide the utterances into train, valid and test.

    A column ``split`` decides where there is one. Otherwise the values of the
    factor ``by`` are divided at random, so that no speaker (say) is in two
    splits; with ``held_out`` the values of a second factor are divided too,
    and utterances whose two values fall in different splits are left out.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    by : str
        The factor whose values are kept disjoint.
    held_out : str
        Another factor whose values are to be disjoint too.
    ratios : tuple of float
        Shares of the values for train, valid and test.
    seed : int
        Seed of the division.
    split_names : dict
        Our split -> its name in the column ``split``. Default: train or
        training; valid, val, validation or dev; test, testing or eval.

    Returns
    -------
    dict
        ``{"train": [ID, ...], "valid": [...], "test": [...]}``

    Raises
    ------
    InputError
        If a split would be empty, or the column ``split`` is filled in only
        some rows.

    Example
    -------
    >>> rows = {f"u{i}": {"speaker": f"s{i % 5}"} for i in range(10)}
    >>> splits = split_manifest(DynamicItemDataset(rows), by="speaker")
    >>> {name: len(ids) for name, ids in splits.items()}
    {'train': 6, 'valid': 2, 'test': 2}
    """
    data = dataset.data
    where = getattr(dataset, "manifest_path", "manifest")
    marked = [key for key, row in data.items() if row.get("split")]
    if marked and len(marked) < len(data):
        raise InputError(
            f"{where}: column 'split' is empty in {len(data) - len(marked)} "
            "rows; fill it in all rows or remove the column"
        )
    if marked:
        unknown = set(split_names or {}) - set(SPLITS)
        if unknown:
            raise InputError(
                f"split_names has '{min(unknown)}': expected "
                f"{', '.join(SPLITS)}"
            )
        names = SPLITS | {k: (v,) for k, v in (split_names or {}).items()}
        ignored = len(data) - sum(
            row["split"] in sum(names.values(), ()) for row in data.values()
        )
        if ignored:
            logger.warning(
                f"{where}: {ignored} utterances in other splits are left out"
            )
        splits = {
            split: [
                k for k, row in data.items() if row["split"] in names[split]
            ]
            for split in SPLITS
        }
        found = sorted({row["split"] for row in data.values()})
        hint = (
            f"the column 'split' has {', '.join(found)}; map other names "
            "with --split='{split_names: {valid: THEIR_NAME}}'"
        )
    else:
        rng = np.random.default_rng(seed)
        assigned = {}
        for factor in filter(None, (by, held_out)):
            values = sorted({row[factor] for row in data.values()})
            rng.shuffle(values)
            bounds = np.cumsum(np.asarray(ratios[:2]) / np.sum(ratios))
            bounds = np.round(bounds * len(values)).astype(int)
            assigned[factor] = {
                value: split
                for split, part in zip(SPLITS, np.split(values, bounds))
                for value in part
            }
        splits = {split: [] for split in SPLITS}
        for key, row in data.items():
            found = {assigned[f][row[f]] for f in assigned}
            if len(found) == 1:
                splits[found.pop()].append(key)
        left_out = len(data) - sum(map(len, splits.values()))
        if left_out:
            logger.info(
                f"{where}: {left_out} of {len(data)} utterances join values "
                "of different splits and are left out"
            )
        hint = f"there are too few values of '{by}' to divide"
    shared = _shared_values(data, splits, by)
    if shared:
        logger.warning(
            f"{where}: {len(shared)} values of '{by}' are in several splits, "
            f"e.g. '{shared[0]}': results on the test split will be too good"
        )
    for split, ids in splits.items():
        if not ids:
            raise InputError(
                f"{where}: no utterance in split '{split}'; {hint}"
            )
    return splits
