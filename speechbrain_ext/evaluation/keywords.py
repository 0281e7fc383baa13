"""Keyword spotting: the 12 classes of Speech Commands, a linear classifier.

P. Warden, "Speech Commands: a dataset for limited-vocabulary speech
recognition", arXiv 1804.03209.
"""

import csv
from pathlib import Path

import numpy as np
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    recall_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from speechbrain_ext.evaluation.arrays import to_codes, to_matrix, to_numpy
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

KEYWORDS = "yes no up down left right on off stop go".split()
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE = "_background_noise_"
COLUMNS = "ID wav start stop duration speaker content split".split()
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}


def speech_commands_rows(
    folder, seed=0, silence_share=0.1, silence_counts=None
):
    """The 12-class task of a Speech Commands folder, v0.01 or v0.02.

    Ten keywords, ``_unknown_`` (all other words) and ``_silence_`` (one-second
    pieces of the noise recordings). Every clip is kept: weigh or average by
    class, there are many more unknown words than others. The split is that of
    the official lists; what they do not name is for training. Noise recordings
    are divided between the splits too, so that no test silence comes from a
    recording heard in training; with only two there is none in validation.

    Arguments
    ---------
    folder : str or Path
        Unpacked archive: a folder a word, ``_background_noise_``,
        ``validation_list.txt`` and ``testing_list.txt``.
    seed : int
        Divides the noise recordings and places the pieces.
    silence_share : float
        Pieces of silence, as a share of the clips of the ten keywords in the
        same split. 0.1 makes as many as of an average keyword.
    silence_counts : dict, optional
        Split -> number of pieces instead, each from any noise recording, also
        those of other splits (as in the published evaluation).

    Returns
    -------
    rows : list of dict
        Rows of a manifest: ``ID``, ``wav`` (relative to the folder),
        ``start`` and ``stop`` in samples, ``duration`` in seconds,
        ``speaker`` (of silence: the noise recording), ``content`` (the
        class), ``split``.

    Raises
    ------
    InputError
        If lists, keywords, listed clips or noise recordings are missing, a
        recording is unreadable, or a speaker is in two splits.

    Example
    -------
    >>> speech_commands_rows("nowhere")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: nowhere: no validation_list.txt: \
give the unpacked folder of Speech Commands v0.01 or v0.02
    """
    folder = Path(folder)
    listed = {}
    for split, name in LISTS.items():
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: no {name}: give the unpacked folder of Speech "
                "Commands v0.01 or v0.02"
            )
        lines = (folder / name).read_text(encoding="utf-8").split()
        listed.update(dict.fromkeys(lines, split))
    clips = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.glob("[!_.]*/*.wav")
    )
    missing = sorted(set(listed) - set(clips))
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} clips of the official lists are not "
            f"there, first {missing[0]}"
        )
    absent = set(KEYWORDS) - {clip.split("/")[0] for clip in clips}
    if absent:
        raise InputError(f"{folder}: no clips of {', '.join(sorted(absent))}")
    rows = []
    for clip in clips:
        word, name = clip.split("/")
        frames, rate = _length(folder / clip)
        rows.append(
            _row(
                clip.removesuffix(".wav"),
                clip,
                (0, frames, rate),
                name.removesuffix(".wav").split("_nohash_")[0],
                word if word in KEYWORDS else UNKNOWN,
                listed.get(clip, "train"),
            )
        )
    check_disjoint([r["speaker"] for r in rows], [r["split"] for r in rows])
    rng = np.random.default_rng(seed)
    noises = sorted(folder.glob(f"{NOISE}/*.wav"))
    noises = [path for path in noises if _length(path)[0] > _length(path)[1]]
    if len(noises) < 2:
        raise InputError(
            f"{folder / NOISE}: {len(noises)} noise recordings of more than a "
            "second; training and test need one each"
        )
    noises = [noises[i] for i in rng.permutation(len(noises))]
    if silence_counts is None:
        return rows + _divided_silence(rows, noises, silence_share, rng)
    for split, count in silence_counts.items():
        chosen = rng.integers(len(noises), size=count)
        for i, path in enumerate(noises):
            name = f"{path.stem}_{split}"
            rows += _pieces(path, np.sum(chosen == i), split, rng, name)
    return rows


def _row(key, wav, span, speaker, content, split):
    start, stop, rate = span
    duration = (stop - start) / rate
    values = (key, wav, start, stop, duration, speaker, content, split)
    return dict(zip(COLUMNS, values, strict=True))


def _length(path):
    """Samples and rate of a recording."""
    try:
        info = soundfile.info(str(path))
    except (RuntimeError, OSError) as error:
        raise InputError(f"{path} is no readable audio ({error})")
    return info.frames, info.samplerate


def _divided_silence(rows, noises, share, rng):
    """Silence of each split from noise recordings of its own."""
    n_test = max(1, len(noises) // 3)
    n_valid = max(1, len(noises) // 6) if len(noises) > 2 else 0
    parts = {
        "test": noises[:n_test],
        "valid": noises[n_test : n_test + n_valid],
        "train": noises[n_test + n_valid :],
    }
    silence = []
    for split, paths in parts.items():
        known = sum(
            row["split"] == split and row["content"] != UNKNOWN for row in rows
        )
        wanted = round(share * known)
        for number, path in enumerate(paths):
            count = len(range(number, wanted, len(paths)))
            silence += _pieces(path, count, split, rng)
    return silence


def _pieces(path, count, split, rng, name=None):
    """Rows of one-second pieces of a noise recording."""
    frames, rate = _length(path)
    places = frames - rate + 1
    starts = rng.choice(places, count, replace=count > places)
    return [
        _row(
            f"{NOISE}/{name or path.stem}_{i}",
            f"{NOISE}/{path.name}",
            (int(start), int(start) + rate, rate),
            f"{NOISE}/{path.stem}",
            SILENCE,
            split,
        )
        for i, start in enumerate(sorted(starts))
    ]


def write_rows(path, rows):
    """Write manifest rows as CSV, atomically.

    Arguments
    ---------
    path : str or Path
        File to write.
    rows : list of dict
        With the same keys.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "manifest.csv"
    >>> write_rows(path, [{"ID": "a", "wav": "a.wav"}])
    >>> path.read_text().split()
    ['ID,wav', 'a,a.wav']
    """
    if not rows:
        raise InputError(f"{path}: no rows to write")
    with replacing(path) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def check_disjoint(speakers, splits):
    """Refuse splits that share a speaker.

    Arguments
    ---------
    speakers : sequence
        [N] speaker of each utterance.
    splits : sequence
        [N] split of each utterance.

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
            f"{len(shared)} speaker(s) are in several splits, e.g. "
            f"'{shared[0]}' in {' and '.join(sorted(found[shared[0]]))}"
        )


def standardised_regression(regularisation=1.0, max_iterations=500):
    """scikit-learn's multinomial logistic regression on standardised input.

    Arguments
    ---------
    regularisation : float
        Strength of the L2 penalty (1 / C).
    max_iterations : int
        Of the optimiser.

    Returns
    -------
    sklearn.pipeline.Pipeline

    Example
    -------
    >>> model = standardised_regression().fit(np.eye(2), [0, 1])
    >>> model.predict(np.eye(2))
    array([0, 1])
    """
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=1 / regularisation, max_iter=max_iterations, tol=1e-3
        ),
    )


def keyword_classification(
    train_embeddings,
    train_labels,
    test_embeddings,
    test_labels,
    train_speakers=None,
    test_speakers=None,
    make_classifier=standardised_regression,
):
    """Linear classification of keywords in a subspace.

    Arguments
    ---------
    train_embeddings : array or torch.Tensor
        [N, D].
    train_labels : sequence
        [N] keyword of each utterance.
    test_embeddings : array or torch.Tensor
        [M, D].
    test_labels : sequence
        [M].
    train_speakers, test_speakers : sequence, optional
        [N] and [M]; where both are given, they may not share a speaker.
    make_classifier : callable
        Returns a new classifier with ``fit`` and ``predict``, such as
        scikit-learn's, for classes numbered from 0. Default:
        :func:`standardised_regression`.

    Returns
    -------
    result : dict
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes),
        ``macro_f1``, ``chance`` (1 / classes), ``majority`` (share of the most
        frequent class of the test), ``classes`` (sorted), ``confusion``
        (counts [true][predicted] in that order) and ``correct``, a bool array
        [M]. Averages are over the classes that occur in the test set.

    Raises
    ------
    InputError
        On NaN, labels that do not fit, fewer than two classes, a test class
        that was never trained, or a speaker in both sets.

    Example
    -------
    >>> train, test = np.eye(2)[[0, 1, 0, 1]], np.eye(2)
    >>> result = keyword_classification(train, list("ynyn"), test, list("yn"))
    >>> result["accuracy"], result["classes"], result["confusion"]
    (1.0, ['n', 'y'], [[1, 0], [0, 1]])
    """
    train = to_matrix(train_embeddings, "training embeddings")
    test = to_matrix(test_embeddings, "test embeddings")
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"training embeddings have {train.shape[1]} dimensions, test "
            f"embeddings {test.shape[1]}"
        )
    classes, codes = to_codes(train_labels, len(train), "training labels")
    to_codes(test_labels, len(test), "test labels")
    test_labels = to_numpy(test_labels)
    if len(classes) < 2:
        raise InputError(f"2 classes or more are needed, got {len(classes)}")
    unseen = np.setdiff1d(test_labels, classes)
    if len(unseen):
        raise InputError(
            f"{len(unseen)} class(es) of the test set have no training "
            f"utterance, e.g. '{unseen[0]}'"
        )
    if train_speakers is not None and test_speakers is not None:
        speakers = [*train_speakers, *test_speakers]
        splits = ["train"] * len(train) + ["test"] * len(test)
        if len(speakers) != len(splits):
            raise InputError(
                f"expected one speaker for each of {len(splits)} utterances, "
                f"got {len(speakers)}"
            )
        check_disjoint(speakers, splits)
    found = classes[make_classifier().fit(train, codes).predict(test)]
    occurring, counts = np.unique(test_labels, return_counts=True)
    return {
        "accuracy": float(np.mean(found == test_labels)),
        # scikit-learn's balanced_accuracy_score warns of classes that are
        # predicted but do not occur; this is the same number.
        "balanced_accuracy": float(
            recall_score(
                test_labels, found, labels=occurring, average="macro"
            )
        ),
        "macro_f1": float(
            f1_score(
                test_labels, found, labels=occurring, average="macro",
                zero_division=0,
            )
        ),
        "chance": 1 / len(classes),
        "majority": float(counts.max() / len(test)),
        "classes": classes.tolist(),
        "confusion": confusion_matrix(
            test_labels, found, labels=classes
        ).tolist(),
        "correct": found == test_labels,
    }  # fmt: skip
