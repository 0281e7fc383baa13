"""The 12 classes of Speech Commands, v0.01 or v0.02, as rows of a manifest.

P. Warden, "Speech Commands: a dataset for limited-vocabulary speech
recognition", arXiv 1804.03209.
"""

from pathlib import Path

import numpy as np

from speechbrain_ext.dataio.audio import audio_info
from speechbrain_ext.dataio.splits import check_disjoint
from speechbrain_ext.utils.errors import InputError

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
        Unpacked archive: a folder per word, ``_background_noise_``,
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
        info = audio_info(folder / clip)
        rows.append(
            _row(
                clip.removesuffix(".wav"),
                clip,
                (0, info.frames, info.samplerate),
                name.removesuffix(".wav").split("_nohash_")[0],
                word if word in KEYWORDS else UNKNOWN,
                listed.get(clip, "train"),
            )
        )
    check_disjoint([r["speaker"] for r in rows], [r["split"] for r in rows])
    rng = np.random.default_rng(seed)
    noises = sorted(folder.glob(f"{NOISE}/*.wav"))
    noises = [path for path in noises if audio_info(path).duration > 1]
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
            count = np.sum(chosen == i)
            rows += _pieces(path, count, split, rng, f"{path.stem}_{split}")
    return rows


def _row(key, wav, span, speaker, content, split):
    start, stop, rate = span
    duration = (stop - start) / rate
    values = (key, wav, start, stop, duration, speaker, content, split)
    return dict(zip(COLUMNS, values, strict=True))


def _divided_silence(rows, noises, share, rng):
    """Silence of each split from noise recordings of its own."""
    n_test = max(1, len(noises) // 3)
    n_valid = max(1, len(noises) // 6) if len(noises) > 2 else 0
    parts = np.split(np.array(noises), [n_test, n_test + n_valid])
    silence = []
    for split, paths in zip(("test", "valid", "train"), parts, strict=True):
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
    info = audio_info(path)
    rate, places = info.samplerate, info.frames - info.samplerate + 1
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
