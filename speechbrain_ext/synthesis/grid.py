"""Renders voices x sentences to audio files."""

import functools
import itertools
import math
import multiprocessing
import os
import pickle
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

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
# A fork starts at once, where a new process first imports the main script
# (with torch) again; elsewhere than on Linux it is not safe.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
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
    cells = [
        (
            {
                "ID": Path(wav).stem,
                "wav": wav,
                "duration": None,
                "speaker": voice.ID,
                "content": content,
                "text": sentences[content],
            },
            voice,
        )
        for voice, content, wav in grid_cells(voices, sentences)
    ]
    return render_cells(
        synthesizer,
        cells,
        folder,
        sample_rate,
        num_workers,
        progress=progress,
        description=description,
    )


def render_cells(
    synthesizer,
    cells,
    folder,
    sample_rate=16000,
    num_workers=None,
    shard=(0, 1),
    progress=True,
    description="rendering",
):
    """Renders any cells, each with a voice of its own, as 16-bit WAV files.

    Like :func:`render_grid`, for grids in which the voice changes from cell
    to cell, as when a speaker is cloned from several recordings.

    Arguments
    ---------
    synthesizer : Synthesizer
        A backend, see :mod:`speechbrain_ext.synthesis.base`.
    cells : list of tuple
        (row, voice): a dictionary with at least ID, wav (path relative to
        the folder) and text, and the Voice or ReferenceVoice that says it.
    folder : str or Path
        Gets the files.
    sample_rate : int
        Samples a second in the files.
    num_workers : int or None
        Processes; 1 renders in this one, None takes a process a core, or
        this one if the backend runs a neural network. The cells of a voice
        are handed out 16 at a time.
    shard : tuple of int
        (index, count): only every count-th voice is rendered, from number
        ``index`` on, with all its cells. Calls with the same cells and folder
        and every index below ``count``, say on as many GPUs, render all.
    progress : bool
        Whether to show a progress bar.
    description : str
        What the bar is called.

    Returns
    -------
    rows : list of dict
        The rows in the order of the cells, with ``duration`` in seconds. It
        is None where the cell is another shard's and not rendered yet.

    Raises
    ------
    InputError
        If a path is not below the folder or occurs twice, two voices share an
        ID, the shard does not exist, or a clip comes out silent.
    RuntimeError
        If the backend fails: names the cell.

    Example
    -------
    >>> import tempfile
    >>> from speechbrain_ext.synthesis.base import ReferenceVoice
    >>> class Echo:
    ...     settings = {"backend": "echo"}
    ...
    ...     def synthesize(self, text, voice):
    ...         return np.sin(np.arange(800 * len(voice.text))), 8000
    >>> voices = [ReferenceVoice(n, f"{n}.wav", n) for n in ("ann", "bo")]
    >>> cells = [
    ...     ({"ID": f"c{n}", "wav": f"c{n}.wav", "text": "Hi."}, voices[n % 2])
    ...     for n in range(3)
    ... ]
    >>> options = dict(num_workers=1, progress=False)
    >>> folder = tempfile.mkdtemp()
    >>> rows = render_cells(Echo(), cells, folder, shard=(0, 2), **options)
    >>> [row["duration"] for row in rows]
    [0.3, None, 0.3]
    >>> rows = render_cells(Echo(), cells, folder, shard=(1, 2), **options)
    >>> [row["duration"] for row in rows]
    [0.3, 0.2, 0.3]
    """
    folder = Path(folder)
    groups = _groups(cells, *shard)
    rows = [
        {**row, "duration": _duration(folder / row["wav"])} for row, _ in cells
    ]
    mine = [number for group in groups for number in group]
    missing = [n for n in mine if rows[n]["duration"] is None]
    pieces = []
    for group in groups:
        todo = [n for n in group if rows[n]["duration"] is None]
        pieces += [todo[i : i + 16] for i in range(0, len(todo), 16)]
    work = functools.partial(_render_files, synthesizer, sample_rate, folder)
    batches = [
        [(rows[n]["text"], cells[n][1], rows[n]["wav"]) for n in piece]
        for piece in pieces
    ]
    durations = itertools.chain.from_iterable(
        _map(work, batches, _count_workers(synthesizer, num_workers, missing))
    )
    bar = tqdm(
        durations,
        desc=description,
        unit="clip",
        total=len(mine),
        initial=len(mine) - len(missing),
        disable=not (progress and missing),
        dynamic_ncols=True,
    )
    for number, duration in zip(missing, bar):
        rows[number]["duration"] = duration
    return rows


def _groups(cells, index, count):
    """The numbers of the cells of each voice, of one shard's voices."""
    if not 0 <= index < count:
        raise InputError(
            f"There is no shard ({index}, {count}): the index must be 0 to "
            "count - 1"
        )
    voices, groups, wavs = {}, {}, set()
    for number, (row, voice) in enumerate(cells):
        wav = PurePosixPath(row["wav"])
        if wav.is_absolute() or ".." in wav.parts:
            raise InputError(
                f"The cell {row['ID']!r} has the path {row['wav']!r}, which "
                "is not below the folder of the grid"
            )
        # Some file systems do not tell upper from lower case.
        if row["wav"].lower() in wavs:
            raise InputError(f"Two cells are to be written to {row['wav']!r}")
        wavs.add(row["wav"].lower())
        if voices.setdefault(voice.ID, voice) != voice:
            raise InputError(f"Two different voices have the ID {voice.ID!r}")
        groups.setdefault(voice.ID, []).append(number)
    return list(groups.values())[index::count]


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


def _render_files(synthesizer, sample_rate, folder, batch):
    """Renders cells to their files; returns the durations in seconds."""
    durations = []
    for text, voice, wav in batch:
        try:
            samples = render_clip(synthesizer, text, voice, sample_rate)
        except InputError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"{wav} could not be rendered (voice {voice.ID!r}, text "
                f"{text!r}): {type(error).__name__}: {error}"
            ) from error
        with replacing(folder / wav) as temporary:
            soundfile.write(temporary, samples, sample_rate, subtype="PCM_16")
        durations.append(len(samples) / sample_rate)
    return durations


def _duration(path):
    """Duration of a finished file, None if it has to be rendered."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:  # missing, or cut off by a power failure
        return None
    return info.frames / info.samplerate if info.frames else None


def _count_workers(synthesizer, num_workers, missing):
    """Processes that are worth starting, and how: (count, method)."""
    loads_model = getattr(synthesizer, "loads_model", False)
    if num_workers is None:
        num_workers = 1 if loads_model else usable_cores()
    method = "spawn" if loads_model else START_METHOD
    return min(num_workers, len(missing) // 16), method


def usable_cores():
    """Cores that this process may use, 16 at most.

    Example
    -------
    >>> 1 <= usable_cores() <= 16
    True
    """
    cores = getattr(os, "sched_getaffinity", lambda _: range(4))(0)
    return min(len(cores), 16)


def _map(function, items, workers):
    """Like map, in some processes."""
    count, method = workers
    if count < 2:
        yield from map(function, items)
        return
    # The function goes to each process once, so that the synthesiser in it
    # can keep a model from one item to the next.
    with ProcessPoolExecutor(
        count,
        multiprocessing.get_context(method),
        initializer=_set_work,
        initargs=(pickle.dumps(function),),
    ) as executor:
        yield from executor.map(_do_work, items)


def _set_work(pickled):
    """Unpickles the function of a worker."""
    global _work
    _work = pickle.loads(pickled)


def _do_work(item):
    """Calls the function of a worker."""
    return _work(item)
