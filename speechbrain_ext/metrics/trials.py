"""Trials of a verification test: made from labels, read, written, scored.

A trial asks whether two utterances share a value of a factor, such as the
speaker; nothing here says which.
"""

import dataclasses
import os
from array import array
from collections import defaultdict

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_ext.metrics.arrays import (
    to_codes,
    to_matrix,
    to_numpy,
    unit_rows,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_lines
from speechbrain_ext.utils.options import check_options, optional, whole

logger = get_logger(__name__)

# Above this, "all pairs" is taken for an oversight: 24 bytes per trial.
MAX_PAIRS = 200_000_000
CHUNK = 1 << 22
CACHED = 1 << 19  # numbers that stay in a processor's cache
LABELS = {"0": 0, "1": 1, None: -1}  # of a list's lines
AUDIO_SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus")


def cosine_scores(embeddings, enrol, test):
    """Cosine similarity of the two sides of each trial.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row per utterance.
    enrol : array of int
        [T] rows of the enrolment side.
    test : array of int
        [T] rows of the test side.

    Returns
    -------
    scores : numpy.ndarray
        [T], in [-1, 1]; 0 where an embedding is all zeros. Memory beside the
        embeddings is linear in T, or some MiB.

    Raises
    ------
    InputError
        On NaN embeddings or rows that do not exist.

    Example
    -------
    >>> import torch
    >>> cosine_scores(torch.eye(2), [0, 0], [0, 1]).tolist()
    [1.0, 0.0]
    """
    unit = unit_rows(to_matrix(embeddings))
    enrol, test = check_rows(enrol, len(unit)), check_rows(test, len(unit))
    if len(enrol) != len(test):
        raise InputError(f"{len(enrol)} enrolment rows, {len(test)} test rows")
    # All pairs at once when they are few, or no more than the trials need.
    if len(unit) ** 2 <= max(CHUNK, 4 * len(enrol)):
        return np.clip((unit @ unit.T)[enrol, test], -1, 1)
    scores = np.empty(len(enrol), dtype=unit.dtype)
    step = max(1, CACHED // unit.shape[1])
    for start in range(0, len(enrol), step):
        part = slice(start, start + step)
        np.einsum(
            "td,td->t", unit[enrol[part]], unit[test[part]], out=scores[part]
        )
    return np.clip(scores, -1, 1, out=scores)


def check_rows(rows, count):
    """Index array into ``count`` rows, or an error.

    Example
    -------
    >>> check_rows([0, 2], 3).tolist()
    [0, 2]
    """
    rows = to_numpy(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(
            f"trials must be integer row numbers [T], got {rows.dtype} "
            f"{rows.shape}"
        )
    if len(rows) and not (rows.min() >= 0 and rows.max() < count):
        raise InputError(
            f"trials name rows {rows.min()} to {rows.max()}, but there are "
            f"{count} embeddings"
        )
    return rows


@dataclasses.dataclass(frozen=True)
class Trials:
    """Verification trials as rows of an embedding array.

    Arguments
    ---------
    enrol : numpy.ndarray
        [T] int, rows of the enrolment side.
    test : numpy.ndarray
        [T] int, rows of the test side.
    label : numpy.ndarray
        [T] int, 1 = target, 0 = non-target. None where it is not known.

    Example
    -------
    >>> trials = Trials(np.array([0]), np.array([1]), np.array([1]))
    >>> len(trials)
    1
    """

    enrol: np.ndarray
    test: np.ndarray
    label: np.ndarray

    def __len__(self):
        return len(self.enrol)

    def score(self, embeddings):
        """Cosine score of each trial, see :func:`cosine_scores`."""
        return cosine_scores(embeddings, self.enrol, self.test)


def _bare(name):
    """Utterance name without the suffix of an audio file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in AUDIO_SUFFIXES else name


@dataclasses.dataclass(frozen=True)
class TrialList:
    """A trial list as it stands in a file, 24 bytes a trial.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    names : list of str
        Utterances, each once, in the order in which the file has them.
    lines : list of int
        First line of each.
    trials : Trials
        On the rows of ``names``.
    """

    path: str
    names: list
    lines: list
    trials: Trials

    def on(self, ids):
        """The same trials on the rows of ``ids``, see :func:`read_trials`."""
        rows = {_bare(str(name)): row for row, name in enumerate(ids)}
        if len(rows) != len(ids):
            raise InputError(
                f"{len(ids) - len(rows)} of {len(ids)} utterance names occur "
                "twice, where the suffix of an audio file does not count"
            )
        row = np.array([rows.get(_bare(name), -1) for name in self.names])
        unknown = np.flatnonzero(row < 0)
        if len(unknown):
            first = unknown[0]
            raise InputError(
                f"{self.path}: {len(unknown)} utterances of the trials are "
                f"unknown, first {self.names[first]!r} "
                f"(line {self.lines[first]})"
            )
        enrol, test = row[self.trials.enrol], row[self.trials.test]
        same = np.flatnonzero(enrol == test)
        if len(same):
            raise InputError(
                f"{self.path}: {len(same)} of {len(enrol)} trials pair an "
                f"utterance with itself, first trial {same[0] + 1}: take them "
                "out, they cannot fail"
            )
        pairs = np.minimum(enrol, test) * len(ids) + np.maximum(enrol, test)
        pairs.sort()
        repeated = np.count_nonzero(pairs[1:] == pairs[:-1])
        if repeated:  # published lists have some, too
            logger.warning(
                f"{self.path}: {repeated} of {len(enrol)} trials repeat the "
                "pair of another, in either order, and count again"
            )
        return Trials(enrol, test, self.trials.label)


def parse_trials(path, labelled=True):
    """The lines of a trial list.

    Arguments
    ---------
    path : str or pathlib.Path
        See :func:`read_trials`.
    labelled : bool
        Whether each line needs a label; else all have one, or none has.

    Returns
    -------
    TrialList

    Raises
    ------
    InputError
        If the file cannot be read, has a line of another format, or no trial.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("a.wav b.wav")
    >>> found = parse_trials(path, labelled=False)
    >>> found.names, found.trials
    (['a.wav', 'b.wav'], Trials(enrol=array([0]), test=array([1]), label=None))
    """
    lines, labels, sides = [], array("q"), array("q")

    def row_of_a_new_name():
        """Its position, and the line is noted."""
        lines.append(number)
        return len(lines) - 1

    rows = defaultdict(row_of_a_new_name)
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                fields = line.split()
                if not fields:
                    continue
                if len(fields) == 2 and not labelled:
                    fields.insert(0, None)
                label = LABELS.get(fields[0])
                if len(fields) != 3 or label is None:
                    raise InputError(
                        f"{path}, line {number}: expected 'label enrol.wav "
                        f"test.wav' with label 0 or 1, got {line.strip()!r}"
                    )
                if labels and (label < 0) != (labels[0] < 0):
                    raise InputError(
                        f"{path}, line {number}: some trials have a label and "
                        "others none"
                    )
                labels.append(label)
                sides.append(rows[fields[1]])
                sides.append(rows[fields[2]])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the trial list ({error})")
    if not labels:
        raise InputError(f"{path}: no trials in the list")
    label = None if labels[0] < 0 else np.frombuffer(labels, np.int64)
    enrol, test = np.frombuffer(sides, np.int64).reshape(-1, 2).T.copy()
    return TrialList(path, list(rows), lines, Trials(enrol, test, label))


def read_trials(path, ids, labelled=True):
    """Read a trial list in VoxCeleb's format, ``label enrol.wav test.wav``.

    Arguments
    ---------
    path : str or pathlib.Path
        Text file, one trial per line, label 1 = target. The suffix of the audio
        files may be left out.
    ids : sequence of str
        Name of each utterance, in the order of the embeddings; with or
        without suffix.
    labelled : bool
        Whether the trials need labels.

    Returns
    -------
    trials : Trials

    Raises
    ------
    InputError
        Unreadable file, line of another format, no trials, utterances that
        ``ids`` does not have (the first is named, and how many they are) or
        that are paired with themselves, or an ``ids`` with duplicates.

    Example
    -------
    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "trials.txt")
    >>> with open(path, "w") as file:
    ...     _ = file.write("1 a/1.wav a/2.wav")
    >>> read_trials(path, ["a/2", "a/1"])
    Trials(enrol=array([1]), test=array([0]), label=array([1]))
    """
    return parse_trials(path, labelled).on(ids)


def check_labels(trials, speakers, path="trials"):
    """Refuse trials whose labels contradict the speakers of the utterances, or
    are all the same.

    Arguments
    ---------
    trials : Trials
        On the N utterances.
    speakers : sequence
        [N].
    path : str
        Where the trials come from, for the message.

    Raises
    ------
    InputError
        With the number of wrong labels and the first, or of targets.

    Example
    -------
    >>> check_labels(Trials(*np.array([[0], [1], [1]])), ["a", "b"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: trials: 1 of 1 labels contradict...
    """
    code = to_codes(speakers, None, "speakers")[1]
    wrong = np.flatnonzero(
        (code[trials.enrol] == code[trials.test]) != (trials.label == 1)
    )
    if len(wrong):
        raise InputError(
            f"{path}: {len(wrong)} of {len(trials)} labels contradict the "
            f"speakers in the manifest, first trial {wrong[0] + 1}: label 1 is "
            "for the same speaker"
        )
    targets = np.sum(trials.label == 1)
    if targets in (0, len(trials)):
        raise InputError(
            f"{path}: {targets} of {len(trials)} trials are targets: error "
            "rates need both kinds"
        )


def write_trials(path, trials, ids, scores=None):
    """Write a trial list in VoxCeleb's format, atomically.

    Arguments
    ---------
    path : str or pathlib.Path
        File to write.
    trials : Trials
        Trials on the rows of ``ids``.
    ids : sequence of str
        Name of each utterance; ``.wav`` is added where there is no suffix.
    scores : sequence of str, optional
        [T] a fourth column.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "trials.txt"
    >>> one = np.array([1])
    >>> write_trials(path, Trials(one - 1, one, one), ["a/1", "a/2"])
    >>> path.read_text()
    '1 a/1.wav a/2.wav\\n'
    """
    names = [str(i) if _bare(str(i)) != str(i) else f"{i}.wav" for i in ids]
    lines = (
        f"{label} {names[enrol]} {names[test]}"
        for enrol, test, label in zip(trials.enrol, trials.test, trials.label)
    )
    if scores is not None:
        lines = map(" ".join, zip(lines, scores, strict=True))
    write_lines(path, lines)


def _pairs_of(codes):
    """Number of unordered pairs with the same code."""
    counts = np.unique(codes, return_counts=True)[1].astype(object)
    return int((counts * (counts - 1) // 2).sum())


def _joint(*codes):
    """One code for each combination of codes."""
    joint = codes[0]
    for other in codes[1:]:
        joint = joint * (other.max() + 1) + other
        joint = np.unique(joint, return_inverse=True)[1].astype(np.int64)
    return joint


class _PairSpace:
    """All pairs in the same group but in different blocks of it, numbered.

    With utterances sorted by group and block, the partners of an utterance
    that come after it are one range: from the end of its block to the end of
    its group. A running sum over the lengths of these ranges numbers the
    pairs, in memory linear in the utterances.
    """

    def __init__(self, group, block):
        self.order = np.lexsort((block, group))
        group, block = group[self.order], block[self.order]
        new_group = np.append(group[1:] != group[:-1], True)
        new_block = new_group | np.append(block[1:] != block[:-1], True)
        ends = np.arange(1, len(group) + 1)
        group_end = self._next(ends, new_group)
        self.start = self._next(ends, new_block)
        self.cumulated = np.append(0, np.cumsum(group_end - self.start))
        self.size = int(self.cumulated[-1])

    @staticmethod
    def _next(ends, is_end):
        return ends[is_end][np.cumsum(is_end) - is_end]

    def pair(self, number):
        """Rows of both utterances of the pairs with these numbers."""
        first = np.searchsorted(self.cumulated, number, side="right") - 1
        second = self.start[first] + number - self.cumulated[first]
        return self.order[first], self.order[second]


def _select(space, forbidden, eligible, maximum, rng):
    """Numbers of ``maximum`` eligible pairs, of all if there are no more."""

    def allowed(numbers):
        """Those of some pairs that are eligible."""
        if forbidden is None:
            return numbers
        one, other = space.pair(numbers)
        return numbers[forbidden[one] != forbidden[other]]

    wanted = eligible if maximum is None else min(maximum, eligible)
    if wanted == eligible or space.size <= 8 * wanted:
        numbers = np.concatenate(
            [
                allowed(np.arange(low, min(low + CHUNK, space.size)))
                for low in range(0, space.size, CHUNK)
            ]
        )
        if wanted < len(numbers):
            numbers = rng.choice(numbers, wanted, replace=False)
        return np.sort(numbers)
    # Few out of many: draw, drop what is forbidden or drawn twice, repeat.
    numbers = np.empty(0, dtype=np.int64)
    while len(numbers) < wanted:
        missing = wanted - len(numbers)
        draw = int(1.3 * missing * space.size / eligible) + 16
        drawn = rng.integers(space.size, size=min(draw, CHUNK))
        numbers = np.union1d(numbers, allowed(drawn))
    return np.sort(rng.choice(numbers, wanted, replace=False))


def generate_trials(
    speakers,
    contents=None,
    genders=None,
    different_content=True,
    same_gender=False,
    max_targets=None,
    max_nontargets=None,
    seed=0,
):
    """Trials from labels: all pairs, or a random selection of them.

    Each unordered pair occurs at most once, and no utterance is compared with
    itself. Memory is linear in the utterances and in the trials asked for.

    Arguments
    ---------
    speakers : sequence
        [N] speaker (or value of any other factor) of each utterance; a target
        pair has the same.
    contents : sequence, optional
        [N] what is said in each utterance.
    genders : sequence, optional
        [N] gender of each utterance's speaker (or any other category).
    different_content : bool
        Where ``contents`` is given, take only pairs (target and non-target)
        of which the two contents differ: otherwise a system that hears the
        words gets better or worse for it.
    same_gender : bool
        Non-target pairs only within a gender; needs ``genders``.
    max_targets : int, optional
        At most so many target pairs, drawn without replacement. Default: all.
    max_nontargets : int, optional
        The same for non-target pairs.
    seed : int
        Seed of the selection.

    Returns
    -------
    trials : Trials
        Targets first; in each trial the lower row is the enrolment side.

    Raises
    ------
    InputError
        If there is no target or no non-target pair, more pairs than fit in
        memory and no maximum, or a maximum or the seed is no whole number.

    Example
    -------
    >>> trials = generate_trials(["a", "a", "b", "b"], [1, 2, 1, 2])
    >>> list(zip(trials.enrol, trials.test, trials.label)) == [
    ...     (0, 1, 1),
    ...     (2, 3, 1),
    ...     (0, 3, 0),
    ...     (1, 2, 0),
    ... ]
    True
    """
    most = optional(whole(1))
    check_options(
        {
            "max_targets": max_targets,
            "max_nontargets": max_nontargets,
            "seed": seed,
        },
        {"max_targets": most, "max_nontargets": most, "seed": whole(0)},
    )
    rng = np.random.default_rng(seed)
    speaker = to_codes(speakers, None, "speakers")[1]
    count = len(speaker)
    if not count:
        raise InputError("no utterances to make trials from")
    content = None
    if contents is not None and different_content:
        content = to_codes(contents, count, "contents")[1]
    group = np.zeros(count, dtype=np.int64)
    if same_gender:
        if genders is None:
            raise InputError("same_gender needs the genders of the speakers")
        group = to_codes(genders, count, "genders")[1]

    targets = _PairSpace(
        speaker, np.arange(count) if content is None else content
    )
    nontargets = _PairSpace(group, speaker)
    eligible = nontargets.size
    if content is not None:  # less those that say the same
        eligible -= _pairs_of(_joint(group, content))
        eligible += _pairs_of(_joint(group, content, speaker))
    restriction = "" if content is None else " of different content"

    parts = []
    for kind, space, forbidden, number, maximum, label in (
        ("target", targets, None, targets.size, max_targets, 1),
        ("non-target", nontargets, content, eligible, max_nontargets, 0),
    ):
        if not number:
            raise InputError(
                f"no {kind} pair{restriction} among {count} utterances of "
                f"{speaker.max() + 1} speaker(s)"
            )
        if min(number, maximum or number) > MAX_PAIRS:
            raise InputError(
                f"{number} {kind} pairs do not fit in memory: give a maximum"
            )
        numbers = _select(space, forbidden, number, maximum, rng)
        one, other = space.pair(numbers)
        enrol, test = np.minimum(one, other), np.maximum(one, other)
        order = np.lexsort((test, enrol))
        parts.append((enrol[order], test[order], np.full(len(order), label)))
    return Trials(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def trial_groups(values, trials):
    """Name the kind of each trial by the values of its two sides.

    Arguments
    ---------
    values : sequence
        [N] value of each utterance, e.g. the gender of its speaker.
    trials : Trials
        Trials on the same N rows.

    Returns
    -------
    groups : numpy.ndarray
        [T] strings such as ``"f-m"``, enrolment side first: it differs from
        ``"m-f"``.

    Raises
    ------
    InputError
        If there are fewer values than utterances.

    Example
    -------
    >>> trials = Trials(*np.array([[0, 1], [1, 0], [0, 0]]))
    >>> trial_groups(["f", "m"], trials).tolist()
    ['f-m', 'm-f']
    """
    names, codes = to_codes(values, None, "values")
    pairs = codes[trials.enrol] * len(names) + codes[trials.test]
    pairs, pair = np.unique(pairs, return_inverse=True)
    named = [f"{names[p // len(names)]}-{names[p % len(names)]}" for p in pairs]
    return np.array(named)[pair]
