"""Which utterances of a manifest are trained on, validated on and tested on."""

import itertools
from collections import Counter

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.columns import Columns
from speechbrain_ext.dataio.manifest import factor_labels
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.options import (
    check_name,
    check_options,
    list_of,
    number,
    whole,
)

logger = get_logger(__name__)

# Names of a split in the column `split`.
SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
# Rules of how a manifest is divided.
DIVISION = {
    "ratios": (
        lambda shares: (
            len(shares) == 3 and list_of(number(most=1e9, above=0))[0](shares)
        ),
        "three numbers above 0, for train, valid and test",
    ),
    "seed": whole(0),
}


def first_values(dataset, ids, factors, count):
    """Utterances of the first values of every factor, for a smoke run.

    Arguments
    ---------
    dataset : DynamicItemDataset
        From :func:`load_manifest`.
    ids : list of str
        Utterances.
    factors : list of str
        Columns.
    count : int
        Values of each.

    Returns
    -------
    list of str
        Some of the IDs.

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> rows = {f"u{i}": {"speaker": f"s{i % 5}"} for i in range(10)}
    >>> dataset = DynamicItemDataset(rows)
    >>> first_values(dataset, list(rows), ["speaker"], 2)
    ['u0', 'u1', 'u5', 'u6']
    """
    for factor in factors:
        column = factor_labels(dataset, ids, [factor])[factor]
        values = sorted(set(column))[:count]
        ids = [key for key, value in zip(ids, column) if value in values]
    return ids


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
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> dataset = DynamicItemDataset({"u1": {"split": "test"}, "u2": {}})
    >>> in_split(dataset, "test"), in_split(dataset)
    (['u1'], ['u1', 'u2'])
    """
    marks = Columns.of(dataset.data).values_of("split", default=None)
    pairs = zip(dataset.data, marks)
    ids = [key for key, mark in pairs if split in (None, mark)]
    if not ids:
        found = sorted(set(map(str, marks)))
        raise InputError(
            f"No utterance in split '{split}': the manifest has "
            f"{', '.join(found)}"
        )
    return ids


def _shared_values(data, splits, factor):
    """Values of a factor that occur in more than one split, sorted."""
    met = (set(data.values_of(factor, ids)) for ids in splits.values())
    counts = Counter(itertools.chain.from_iterable(met))
    return sorted(value for value, count in counts.items() if count > 1)


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
        If a split would be empty, there is no such column, the column
        ``split`` is filled in only some rows, or there is one beside
        ``held_out``.

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> rows = {f"u{i}": {"speaker": f"s{i % 5}"} for i in range(10)}
    >>> splits = split_manifest(DynamicItemDataset(rows), by="speaker")
    >>> {name: len(ids) for name, ids in splits.items()}
    {'train': 6, 'valid': 2, 'test': 2}
    """
    data = Columns.of(dataset.data)
    where = getattr(dataset, "manifest_path", "manifest")
    check_options({"ratios": ratios, "seed": seed}, DIVISION)
    marked = sum(map(bool, data.values_of("split", default=None)))
    if marked and marked < len(data):
        raise InputError(
            f"{where}: column 'split' is empty in {len(data) - marked} "
            "rows; fill it in all rows or remove the column"
        )
    if marked and held_out:
        raise InputError(
            f"{where}: held_out is '{held_out}', but the column 'split' "
            "decides: say held_out: null, or remove the column"
        )
    for factor in filter(None, (by, held_out)):
        if None in (column := data.values_of(factor, default=None)):
            key = next(itertools.islice(data, column.index(None), None))
            check_name(f"{where}: utterance '{key}' has no", factor, data[key])
    if marked:
        splits, hint = _as_marked(data, split_names or {})
        why = "are in other splits"
    else:
        splits = _at_random(data, filter(None, (by, held_out)), ratios, seed)
        hint = f"there are too few values of '{by}' to divide"
        why = "join values of different splits"
    left_out = len(data) - len(set().union(*splits.values()))
    if left_out:
        logger.warning(
            f"{where}: {left_out} of {len(data)} utterances {why} and are "
            "left out"
        )
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


def _as_marked(data, split_names):
    """Utterances of each split by the column, and what there is in it."""
    unknown = set(split_names) - set(SPLITS)
    if unknown:
        raise InputError(
            f"split_names has '{min(unknown)}': expected {', '.join(SPLITS)}"
        )
    names = SPLITS | {ours: (theirs,) for ours, theirs in split_names.items()}
    marks = data.values_of("split")
    splits = {
        split: [key for key, mark in zip(data, marks) if mark in names[split]]
        for split in SPLITS
    }
    found = sorted(set(marks))
    return splits, (
        f"the column 'split' has {', '.join(found)}; map other names with "
        "--split='{split_names: {valid: THEIR_NAME}}'"
    )


def _at_random(data, factors, ratios, seed):
    """Utterances whose values of all factors fall in the same split."""
    rng = np.random.default_rng(seed)
    assigned = []  # the split of each utterance, by each factor
    for factor in factors:
        column = data.values_of(factor)
        values = sorted(set(column))
        rng.shuffle(values)
        bounds = np.cumsum(np.asarray(ratios[:2]) / np.sum(ratios))
        bounds = np.round(bounds * len(values)).astype(int)
        split_of = {
            value: split
            for split, part in zip(SPLITS, np.split(values, bounds))
            for value in part
        }
        assigned.append([split_of[value] for value in column])
    splits = {split: [] for split in SPLITS}
    for key, *found in zip(data, *assigned):
        if len(set(found)) == 1:
            splits[found[0]].append(key)
    return splits


def check_disjoint(speakers, splits, factor="speaker"):
    """Refuse splits that share a speaker.

    Arguments
    ---------
    speakers : sequence
        [N] speaker of each utterance.
    splits : sequence
        [N] split of each utterance.
    factor : str
        What to call a speaker.

    Raises
    ------
    InputError
        Names a speaker and the splits.

    Example
    -------
    >>> check_disjoint(["a", "a", "b"], ["train", "train", "test"])
    >>> check_disjoint(["a", "a", "b"], ["train", "test", "test"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: 1 speaker(s) are in several \
splits, e.g. 'a' in test and train
    """
    found = {}
    for speaker, split in zip(speakers, splits, strict=True):
        found.setdefault(speaker, set()).add(str(split))
    shared = [speaker for speaker, parts in found.items() if len(parts) > 1]
    if shared:
        raise InputError(
            f"{len(shared)} {factor}(s) are in several splits, e.g. "
            f"'{shared[0]}' in {' and '.join(sorted(found[shared[0]]))}"
        )
