"""Renders voices x sentences to audio files."""

import functools
import math
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

# The level of every clip, so that loudness does not tell voices apart. Speech
# is at most 20 dB over its mean at its peaks: 26 dB leave room.
RMS = 10 ** (-26 / 20)
PEAK = 0.99
# Raise it when the same synthesiser would give other files.
FORMAT = 1


def render_grid(
    synthesizer,
    voices,
    sentences,
    folder,
    sample_rate=16000,
    num_workers=None,
    progress=True,
    description="rendering",
):
    """Has every voice say every sentence, as 16-bit WAV files.

    Files that are there are kept, so an interrupted call continues where it
    stopped; no file is ever there half-written. The bytes depend on text,
    voice and synthesiser only, not on the order or the number of processes.
    A folder must not be used for other settings of the synthesiser.

    Arguments
    ---------
    synthesizer : Synthesizer
        A backend, see :mod:`speechbrain_ext.synthesis.base`.
    voices : list of Voice
        The speakers.
    sentences : dict of str
        ID of a sentence -> its text.
    folder : str or Path
        Gets a folder a voice.
    sample_rate : int
        Samples a second in the files.
    num_workers : int or None
        Processes; 1 renders in this one, None takes a process a core.
    progress : bool
        Whether to show a progress bar.
    description : str
        What the bar is called.

    Returns
    -------
    rows : list of dict
        A row a cell, voice by voice: ID, wav (relative to folder), duration
        in seconds, speaker, content, text.

    Raises
    ------
    InputError
        If an ID is no file name or occurs twice, or a clip comes out silent.

    Example
    -------
    >>> import tempfile
    >>> from speechbrain_ext.synthesis.base import Voice
    >>> class Sine:
    ...     settings = {"backend": "sine"}
    ...
    ...     def synthesize(self, text, voice):
    ...         time = np.arange(1000 * len(text)) / 8000
    ...         return np.sin(9 * voice.pitch * time), 8000
    >>> folder = tempfile.mkdtemp()
    >>> voices = [Voice("low", "sine", "", 40), Voice("high", "sine", "", 90)]
    >>> sentences = {"s1": "Hello.", "s2": "Good day."}
    >>> rows = render_grid(
    ...     Sine(), voices, sentences, folder, num_workers=1, progress=False
    ... )
    >>> [row["ID"] for row in rows]
    ['low_s1', 'low_s2', 'high_s1', 'high_s2']
    >>> rows[0]["wav"], rows[0]["duration"]
    ('low/low_s1.wav', 0.75)
    """
    folder = Path(folder)
    rows, jobs = [], []
    for voice, content, wav in grid_cells(voices, sentences):
        rows.append(
            {
                "ID": Path(wav).stem,
                "wav": wav,
                "duration": _duration(folder / wav),
                "speaker": voice.ID,
                "content": content,
                "text": sentences[content],
            }
        )
        if rows[-1]["duration"] is None:
            jobs.append((rows[-1], voice, folder / wav))
    work = functools.partial(_render_file, synthesizer, sample_rate)
    cells = [(row["text"], voice, path) for row, voice, path in jobs]
    durations = _map(work, cells, num_workers)
    bar = tqdm(
        durations,
        desc=description,
        unit="clip",
        total=len(rows),
        initial=len(rows) - len(jobs),
        disable=not (progress and jobs),
        dynamic_ncols=True,
    )
    for (row, _, _), duration in zip(jobs, bar):
        row["duration"] = duration
    return rows


def grid_cells(voices, sentences):
    """The cells of a grid and the names of their files.

    Arguments
    ---------
    voices : list of Voice
        The speakers.
    sentences : dict of str
        ID of a sentence -> its text.

    Returns
    -------
    cells : list of tuple
        (voice, ID of the sentence, path relative to the grid's folder).

    Raises
    ------
    InputError
        If an ID is no file name or occurs twice.

    Example
    -------
    >>> from speechbrain_ext.synthesis.base import Voice
    >>> [(_, content, wav)] = grid_cells([Voice("v", "f2", "")], {"s": "Hi."})
    >>> content, wav
    ('s', 'v/v_s.wav')
    """
    for name in [voice.ID for voice in voices] + list(sentences):
        if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
            raise InputError(
                f"The ID {name!r} of a voice or sentence is no plain file "
                "name: use letters, digits and . _ + -"
            )
    cells = [
        (voice, content, f"{voice.ID}/{voice.ID}_{content}.wav")
        for voice in voices
        for content in sentences
    ]
    # Some file systems do not tell upper from lower case.
    if len({wav.lower() for _, _, wav in cells}) < len(cells):
        raise InputError("The ID of a voice or sentence occurs twice")
    return cells


def render_clip(synthesizer, text, voice, sample_rate=16000):
    """One clip at the given sample rate, all clips equally loud.

    Arguments
    ---------
    synthesizer : Synthesizer
        A backend.
    text : str
        What to say.
    voice : Voice
        Who says it.
    sample_rate : int
        Samples a second wanted.

    Returns
    -------
    samples : numpy.ndarray
        Int16 [time], with a root mean square of -26 dB of full scale.

    Raises
    ------
    InputError
        If the clip is empty, silent or not finite.

    Example
    -------
    >>> class Noise:
    ...     def synthesize(self, text, voice):
    ...         return np.random.default_rng(0).normal(size=22050), 22050
    >>> samples = render_clip(Noise(), "Shh.", None)
    >>> samples.shape, samples.dtype, round(float(samples.std() / 32768), 3)
    ((16000,), dtype('int16'), 0.05)
    """
    samples, rate = synthesizer.synthesize(text, voice)
    samples = np.asarray(samples, dtype=np.float64)
    common = math.gcd(sample_rate, rate)
    if rate != sample_rate and len(samples):
        samples = resample_poly(samples, sample_rate // common, rate // common)
    rms = np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    if not (np.isfinite(rms) and rms > 1e-5):
        raise InputError(
            f"The voice {voice.ID!r} says nothing audible for {text!r}"
        )
    samples = samples * (RMS / rms)
    samples *= min(1.0, PEAK / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def _render_file(synthesizer, sample_rate, cell):
    """Renders one cell to its file; returns the duration in seconds."""
    text, voice, path = cell
    samples = render_clip(synthesizer, text, voice, sample_rate)
    with replacing(path) as temporary:
        soundfile.write(temporary, samples, sample_rate, subtype="PCM_16")
    return len(samples) / sample_rate


def _duration(path):
    """Duration of a finished file, None if it has to be rendered."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:  # missing, or cut off by a power failure
        return None
    return info.frames / info.samplerate if info.frames else None


def _map(function, items, num_workers):
    """Like map, in some processes."""
    if num_workers is None:
        count = getattr(os, "sched_getaffinity", lambda _: range(4))(0)
        num_workers = min(len(count), 16)
    num_workers = min(num_workers, len(items) // 16)
    if num_workers < 2:
        yield from map(function, items)
        return
    # A fork starts at once, where the others first import the main script
    # (with torch) again; elsewhere than on Linux it is not safe.
    method = "fork" if sys.platform == "linux" else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(num_workers, mp_context=context) as executor:
        yield from executor.map(function, items, chunksize=16)
