"""Measures of rendered clips, and a filter by them."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from speechbrain.utils.edit_distance import accumulatable_wer_stats
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.options import check_options

FRAME = 0.025
# Speech pauses are well below, quiet consonants above.
SILENCE_DB = -30


def add_quality(rows, folder, transcribe=None, embed=None, references=None):
    """Measures every clip of a grid.

    Arguments
    ---------
    rows : list of dict
        With the columns ID, wav (relative to the folder) and text.
    folder : str or Path
        Where the clips are.
    transcribe : callable or None
        Speech recogniser: (float32 [time] in [-1, 1], samples per second) ->
        text.
    embed : callable or None
        Speaker encoder: (samples, rate) as above -> vector [dim].
    references : dict of str
        ID of a row -> path of the recording whose voice it was to have;
        needed with ``embed``.

    Returns
    -------
    rows : list of dict
        With the further columns of :func:`measure_clip`, and, where there is
        a model, word_error_rate (errors per word of the text, lower case
        without punctuation) and speaker_similarity (cosine of the embeddings
        of clip and reference).

    Raises
    ------
    InputError
        If a clip or a reference is missing.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> noise = np.random.default_rng(0).normal(size=16000) / 9
    >>> soundfile.write(folder / "a.wav", noise, 16000)
    >>> rows = [{"ID": "a", "wav": "a.wav", "text": "Good day!"}]
    >>> [row] = add_quality(rows, folder, lambda samples, rate: "good night")
    >>> row["duration"], row["speaking_rate"], row["word_error_rate"]
    (1.0, 7.0, 0.5)
    """
    measured, embeddings = [], {}
    for row in rows:
        samples, rate = _read(Path(folder, row["wav"]))
        row = {**row, **measure_clip(samples, rate, row["text"])}
        if transcribe is not None:
            row["word_error_rate"] = word_error_rate(
                row["text"], transcribe(samples, rate)
            )
        if embed is not None:
            path = (references or {}).get(row["ID"])
            if path is None:
                raise InputError(
                    f"The clip {row['ID']!r} has no reference, which "
                    "speaker_similarity needs"
                )
            if path not in embeddings:
                embeddings[path] = embed(*_read(path))
            row["speaker_similarity"] = _cosine(
                embed(samples, rate), embeddings[path]
            )
        measured.append(row)
    return measured


def measure_clip(samples, rate, text):
    """What can be told of a clip without a model.

    Arguments
    ---------
    samples : numpy.ndarray
        Float [time].
    rate : int
        Samples per second.
    text : str
        What is said, in any language with letters.

    Returns
    -------
    dict of float
        duration: in seconds.
        speaking_rate: letters and digits of the text per second. English has
        about 10 to 18; words would differ too much in length.
        clipping: share of the samples in flat tops, see :func:`clipping`.
        silence: share of the frames of 25 ms that are more than 30 dB under
        the clip's own level (root mean square).

    Example
    -------
    >>> tone = np.sin(np.arange(16000) / 3) * (np.arange(16000) < 12000)
    >>> measure_clip(tone, 16000, "Aaah!")["silence"]
    0.25
    """
    samples = np.asarray(samples, dtype=np.float64)
    duration = len(samples) / rate
    size = round(FRAME * rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    silent = np.mean(samples**2) * 10 ** (SILENCE_DB / 10)
    power = np.mean(frames**2, axis=1)
    return {
        "duration": duration,
        "speaking_rate": sum(map(str.isalnum, text)) / duration,
        "clipping": clipping(samples),
        # A clip shorter than a frame has none.
        "silence": float(np.mean(power <= silent)) if len(frames) else 0.0,
    }


def clipping(samples):
    """Share of the samples that are in flat tops at the clip's own peak.

    A rendered clip was resampled and levelled after it was clipped, so its
    tops are neither at full scale nor quite flat, and single samples stand
    out. Counted are runs of 3 samples or more beyond 90 % of the 99.9th
    percentile.

    Measured on clips at 16 kHz, the 5th to the 95th percentile: 0.0005 to
    0.004 for espeak-ng and 0.0015 to 0.003 for recordings; where 1 % of the
    samples had been clipped, 0.005 to 0.017 and 0.011 to 0.016. A limit of
    0.005 thus keeps most of the good ones.

    Arguments
    ---------
    samples : numpy.ndarray
        Float [time].

    Returns
    -------
    float

    Example
    -------
    >>> time = np.arange(16000) / 16000
    >>> wave = np.sin(2 * np.pi * 100 * time) * np.exp(-9 * time)
    >>> clipping(wave) < 0.005 < 0.04 < clipping(np.clip(wave, -0.5, 0.5))
    True
    """
    threshold = 0.9 * np.quantile(np.abs(samples), 0.999)
    # Never together with 0, as a run has one sign.
    state = np.sign(samples) * (np.abs(samples) >= threshold)
    starts = np.flatnonzero(np.diff(state, prepend=np.nan) != 0)
    lengths = np.diff(starts, append=len(state))
    lengths = lengths[(state[starts] != 0) & (lengths >= 3)]
    return float(lengths.sum() / len(samples))


def word_error_rate(text, heard):
    """Errors per word of the text, without regard to case and punctuation.

    Arguments
    ---------
    text : str
        What was to be said.
    heard : str
        What a recogniser understood.

    Returns
    -------
    float
        0 or more; can exceed 1.

    Example
    -------
    >>> word_error_rate("Don't look now, Ann!", "don't look now at ann")
    0.25
    """
    words = [_words(text), _words(heard)]
    if not words[0]:
        raise InputError(f"The text {text!r} has no words")
    return accumulatable_wer_stats(words[:1], words[1:])["WER"] / 100


def _words(text):
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("\u2019", "'"))


def _cosine(first, second):
    """Cosine of two vectors."""
    first, second = (np.ravel(np.asarray(v, float)) for v in (first, second))
    return float(
        first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    )


def _read(path):
    """Float32 [time] and rate of a file, the mean of its channels."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path} cannot be measured: {error}")
    if not len(samples):
        raise InputError(f"{path} cannot be measured: it is empty")
    return samples.mean(axis=1), rate


def filter_rows(rows, limits):
    """Keeps the clips whose measures are within limits.

    Arguments
    ---------
    rows : list of dict
        From :func:`add_quality`, or read from a manifest.
    limits : dict of list
        Column -> [lowest, highest] value that is kept, None for no limit.

    Returns
    -------
    kept : list of dict
        Rows within all the limits, in order.
    dropped : dict of int
        Reason -> number of rows. A row counts under each of its reasons.

    Raises
    ------
    InputError
        If a column is missing or not a number, or a limit is not a pair of
        numbers.

    Example
    -------
    >>> rows = [{"ID": n, "speaking_rate": n} for n in (2, 15, 40, 60)]
    >>> kept, dropped = filter_rows(rows, {"speaking_rate": [8, 24]})
    >>> [row["ID"] for row in kept], dropped
    ([15], {'speaking_rate < 8': 1, 'speaking_rate > 24': 2})
    """
    limited = {f"The limit of {column}": limits[column] for column in limits}
    expected = "[lowest, highest], with null for no limit on one side"
    check_options(limited, dict.fromkeys(limited, (_is_limit, expected)))
    kept, dropped = [], Counter()
    for row in rows:
        reasons = []
        for column, (low, high) in limits.items():
            value = _number(row, column)
            if low is not None and value < low:
                reasons.append(f"{column} < {low}")
            if high is not None and value > high:
                reasons.append(f"{column} > {high}")
        dropped.update(reasons)
        if not reasons:
            kept.append(row)
    return kept, dict(dropped)


def _is_limit(limit):
    """Whether it is [lowest, highest], one of which may be None."""
    low, high = limit
    given = [value for value in (low, high) if value is not None]
    return given and all(map(math.isfinite, given)) and given == sorted(given)


def _number(row, column):
    """The value of a column to filter by."""
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        raise InputError(
            f"The row {row['ID']!r} has {row.get(column)!r} as {column}, which "
            f"is not a number to filter by; it has {', '.join(row)}"
        )
    return value
