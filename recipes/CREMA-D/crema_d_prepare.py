"""Reads CREMA-D: actors say 12 sentences in 6 emotions.

The corpus (H. Cao et al., "CREMA-D: Crowd-sourced emotional multimodal actors
dataset", IEEE Transactions on Affective Computing, 2014) comes as
``AudioWAV/<actor>_<sentence>_<emotion>_<level>.wav`` and
``VideoDemographics.csv``. It is a grid of speaker x content x emotion with
holes. Only the sentence IEO was recorded at several intensities, which are
several takes of a cell.

Actors are divided among the splits. With 12 sentences in all, the sentences
cannot be: all splits say the same ones.
"""

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.manifest import write_manifest
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv

logger = get_logger(__name__)

AUDIO, DEMOGRAPHICS = "AudioWAV", "VideoDemographics.csv"
# One file of the corpus ends in a single X.
NAME = re.compile(
    r"(?P<speaker>\d{4})_(?P<content>[A-Z]{3})_"
    r"(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<intensity>LO|MD|HI|XX?)\.wav"
)
# Clips last 1 to 5 s. Some are known to be silent, nearly empty, or a whole
# session in one file.
MIN_SECONDS, MAX_SECONDS = 0.5, 10.0
MIN_PEAK = 0.001
FACTORS = ("speaker", "content", "emotion")
COLUMNS = ("ID", "wav", "duration", *FACTORS, "intensity", "gender", "split")


def prepare_crema_d(
    data_folder,
    manifest,
    ratios=(0.6, 0.2, 0.2),
    seed=1986,
    skip_prep=False,
):
    """Writes the manifest of a CREMA-D folder.

    Clips that are silent, shorter than 0.5 s or longer than 10 s are left
    out, with a line in the log that names them. A manifest that is there and
    says something else is not overwritten: a network may have learned by it.

    Arguments
    ---------
    data_folder : str or Path
        Holds ``AudioWAV`` and ``VideoDemographics.csv``; nothing is written
        there.
    manifest : str or Path
        The table to write, with the columns ID, wav (relative to the data
        folder), duration in seconds, speaker, content, emotion, intensity
        (LO, MD, HI, or XX where it was not asked for), gender and split.
    ratios : tuple of float
        Shares of the actors of each gender for train, valid and test.
    seed : int
        Draws the actors of each split.
    skip_prep : bool
        Take the manifest as it is.

    Raises
    ------
    InputError
        If the folder is not CREMA-D or incomplete (names what is missing), a
        file is not audio, a split would be empty, or there is another
        manifest.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / DEMOGRAPHICS).write_text(
    ...     "ActorID,Age,Sex,Race,Ethnicity\\n"
    ...     + "".join(f"{n},30,Male,x,y\\n" for n in (1001, 1002, 1003))
    ... )
    >>> (folder / AUDIO).mkdir()
    >>> for actor in (1001, 1002, 1003):
    ...     name = f"{actor}_DFA_ANG_XX.wav"
    ...     soundfile.write(folder / AUDIO / name, np.ones(16000) / 2, 16000)
    >>> prepare_crema_d(folder, folder / "manifest.csv")
    >>> row = read_csv(folder / "manifest.csv")[0]
    >>> [row[c] for c in ("content", "emotion", "gender", "duration")]
    ['DFA', 'ANG', 'male', '1.0']
    """
    if skip_prep:
        logger.info("Skipping the preparation of CREMA-D")
        return
    data_folder = Path(data_folder)
    parts = (AUDIO, DEMOGRAPHICS)
    missing = [name for name in parts if not (data_folder / name).exists()]
    if missing:
        raise InputError(
            f"{data_folder} is not a CREMA-D folder, it lacks "
            f"{' and '.join(missing)}: give --data_folder the folder that "
            f"holds {AUDIO} and {DEMOGRAPHICS}"
        )
    genders = read_genders(data_folder / DEMOGRAPHICS)
    rows = _audible(_read_names(data_folder), data_folder)
    speakers = sorted({row["speaker"] for row in rows})
    unknown = [speaker for speaker in speakers if speaker not in genders]
    if unknown:
        raise InputError(
            f"{data_folder / DEMOGRAPHICS} has no row for "
            f"{len(unknown)} of the actors in {AUDIO} ({unknown[0]}, ...): "
            "take the file of the same release"
        )
    splits = split_actors({s: genders[s] for s in speakers}, ratios, seed)
    for row in rows:
        row["gender"] = genders[row["speaker"]]
        row["split"] = splits[row["speaker"]]
    if Path(manifest).exists():
        wanted = [{name: str(row[name]) for name in COLUMNS} for row in rows]
        if read_csv(manifest) != wanted:
            raise InputError(
                f"{manifest} is of other options or another corpus, and is "
                "not overwritten: give another --output_folder, delete it, or "
                "use it with --skip_prep True"
            )
        logger.info(f"{manifest} is there: nothing to do")
        return
    write_manifest(manifest, rows, COLUMNS)


def read_genders(path):
    """The gender of every actor.

    Arguments
    ---------
    path : str or Path
        ``VideoDemographics.csv``.

    Returns
    -------
    dict of str
        Actor -> ``female`` or ``male``.

    Raises
    ------
    InputError
        If it lacks a column.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / DEMOGRAPHICS
    >>> _ = path.write_text("ActorID,Age,Sex\\n1001,51,Male\\n")
    >>> read_genders(path)
    {'1001': 'male'}
    """
    rows = read_csv(path)
    columns = list(rows[0]) if rows else []
    if not {"ActorID", "Sex"} <= set(columns):
        raise InputError(
            f"{path}: expected the columns 'ActorID' and 'Sex', got {columns}"
        )
    return {row["ActorID"]: row["Sex"].strip().lower() for row in rows}


def _read_names(folder):
    """A row for every file whose name says what it is."""
    rows, others = [], []
    for path in sorted((folder / AUDIO).glob("*.wav")):
        match = NAME.fullmatch(path.name)
        if not match:
            others.append(path.name)
            continue
        row = {"ID": path.stem, "wav": f"{AUDIO}/{path.name}"}
        intensity = match["intensity"].ljust(2, "X")
        rows.append(row | match.groupdict() | {"intensity": intensity})
    if not rows:
        raise InputError(
            f"{folder / AUDIO} has no file that is named like "
            "1001_DFA_ANG_XX.wav: is this CREMA-D's?"
        )
    if others:
        logger.warning(
            f"{len(others)} file(s) in {folder / AUDIO} with other names than "
            f"CREMA-D's are left out: {', '.join(others[:5])}"
        )
    return rows


def _audible(rows, folder):
    """The rows whose clips can be used, with their duration."""
    kept, dropped = [], []
    for row in rows:
        row["duration"], peak = _measure(folder / row["wav"])
        if peak < MIN_PEAK:
            dropped.append(f"{row['ID']} (silent)")
        elif not MIN_SECONDS <= row["duration"] <= MAX_SECONDS:
            dropped.append(f"{row['ID']} ({row['duration']:.2f} s)")
        else:
            kept.append(row)
    if dropped:
        logger.warning(
            f"{len(dropped)} clip(s) are silent, under {MIN_SECONDS} s or over "
            f"{MAX_SECONDS} s, and left out: {', '.join(dropped[:20])}"
        )
    return kept


def _measure(path):
    """Duration in seconds and peak of a file."""
    try:
        samples, rate = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        why = str(error)
        if path.read_bytes().startswith(b"version https://git"):
            why = "a pointer of Git LFS: fetch the audio with `git lfs pull`"
        raise InputError(f"{path} is not readable audio ({why})")
    return len(samples) / rate, float(np.abs(samples).max(initial=0))


def split_actors(genders, ratios=(0.6, 0.2, 0.2), seed=1986):
    """Divides the actors among train, valid and test, each gender alike.

    Arguments
    ---------
    genders : dict of str
        Actor -> gender.
    ratios : tuple of float
        Shares of train, valid and test.
    seed : int
        Of the draw.

    Returns
    -------
    dict of str
        Actor -> split.

    Raises
    ------
    InputError
        If a share is not positive, or there are fewer than three actors.

    Example
    -------
    >>> splits = split_actors({str(n): "female" for n in range(10)})
    >>> [list(splits.values()).count(s) for s in ("train", "valid", "test")]
    [6, 2, 2]
    """
    names = ("train", "valid", "test")
    if len(ratios) != len(names) or min(ratios) <= 0:
        raise InputError(
            f"The ratios {list(ratios)} are not three positive shares for "
            "train, valid and test"
        )
    if len(genders) < len(names):
        raise InputError(
            f"{len(genders)} actor(s) cannot be divided into train, valid and "
            "test: 3 are needed"
        )
    order = sorted(genders)
    random.Random(seed).shuffle(order)
    shares, sizes, splits = dict(zip(names, ratios)), Counter(), {}
    for actor in order:
        # Where most are missing of this gender, then of both.
        groups = (genders[actor], "both")
        split = min(
            names, key=lambda s: [sizes[g, s] / shares[s] for g in groups]
        )
        splits[actor] = split
        sizes.update((group, split) for group in groups)
    return splits
