"""Renders the cells of a grid, voices x sentences, to audio files."""

import errno
import functools
import math
import multiprocessing
import os
import re
import shutil
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv, replacing
from speechbrain_ext.utils.shards import own_cores

# The level of every clip, so that loudness does not tell voices apart. Speech
# is at most 20 dB over its mean at its peaks: 26 dB leave room.
RMS = 10 ** (-26 / 20)
PEAK = 0.99
# A fork starts at once, where a new process first imports the main script
# (with torch) again; elsewhere than on Linux it is not safe.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
MAX_WORKERS = 16  # unless more are asked for
# Cells that a process is given at a time: mostly of one voice.
BATCH = 16
# Raise it when the same synthesiser would give other files.
FORMAT = 1


def grid_cells(voices, sentences):
    """The cells of a grid in which every voice says every sentence.

    Arguments
    ---------
    voices : list of Voice
        The speakers.
    sentences : dict of str
        ID of a sentence -> its text.

    Returns
    -------
    cells : list of tuple
        (row, voice), voice by voice, for :func:`render_cells`. A row has ID,
        wav, duration (None), speaker, content and text.

    Raises
    ------
    InputError
        If an ID cannot be a file name.

    Example
    -------
    >>> from speechbrain_ext.synthesis.base import Voice
    >>> [(row, _)] = grid_cells([Voice("v", "f2", "")], {"s": "Hi."})
    >>> row["ID"], row["wav"], row["content"]
    ('v_s', 'v/v_s.wav', 's')
    """
    for name in [voice.ID for voice in voices] + list(sentences):
        if not re.fullmatch(r"\w[\w.+-]*", name, re.ASCII):
            raise InputError(
                f"The ID {name!r} of a voice or sentence is not a plain file "
                "name: use letters, digits and . _ + -"
            )
    return [
        (
            {
                "ID": f"{voice.ID}_{content}",
                "wav": f"{voice.ID}/{voice.ID}_{content}.wav",
                "duration": None,
                "speaker": voice.ID,
                "content": content,
                "text": text,
            },
            voice,
        )
        for voice in voices
        for content, text in sentences.items()
    ]


def render_cells(
    synthesizer,
    cells,
    folder,
    sample_rate=16000,
    num_workers=None,
    shard=(0, 1),
    progress=True,
):
    """Renders cells as 16-bit WAV files.

    Files that are there are kept, so an interrupted call continues where it
    stopped; no file is ever there half-written. The bytes depend on text,
    voice and synthesiser only, not on the order or the number of processes.
    A folder must not be used for other settings of the synthesiser.

    Arguments
    ---------
    synthesizer : Synthesizer
        A backend, see :mod:`speechbrain_ext.synthesis.base`.
    cells : list of tuple
        (row, voice), as from :func:`grid_cells`: a dictionary with at least
        ID, wav (path relative to the folder) and text, and the Voice or
        ReferenceVoice that says it. The voice may change from cell to cell,
        as when a speaker is cloned from several recordings.
    folder : str or Path
        Gets the files.
    sample_rate : int
        Samples per second in the files.
    num_workers : int or None
        Processes; 1 renders in this one, None takes one per core, or this one
        if the backend runs a neural network.
    shard : tuple of int
        (index, count): only every count-th voice is rendered, from number
        ``index`` on, with all its cells. Calls with the same cells and folder
        and every index below ``count``, say on as many GPUs, render all.
    progress : bool
        Whether to show a progress bar.

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
    mine = _shard(cells, *shard)
    rows = [
        {**row, "duration": _duration(folder / row["wav"])} for row, _ in cells
    ]
    missing = [n for n in mine if rows[n]["duration"] is None]
    loads_model = getattr(synthesizer, "loads_model", False)
    if num_workers is None:
        num_workers = 1 if loads_model else min(own_cores(), MAX_WORKERS)
    durations = _map(
        functools.partial(_render_file, synthesizer, sample_rate, folder),
        [cells[n] for n in missing],
        min(num_workers, len(missing) // BATCH),
        "spawn" if loads_model else START_METHOD,
    )
    bar = tqdm(
        durations,
        desc="rendering",
        unit="clip",
        total=len(mine),
        initial=len(mine) - len(missing),
        disable=not (progress and missing),
        dynamic_ncols=True,
    )
    for duration, number in zip(bar, missing):
        rows[number]["duration"] = duration
    return rows


def _shard(cells, index, count):
    """The numbers of the cells of one shard, voice by voice."""
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
    chosen = list(groups.values())[index::count]
    return [number for group in chosen for number in group]


def check_manifest(path, cells, folder):
    """Whether a grid is finished; its manifest is written after its audio.

    Arguments
    ---------
    path : Path
        The manifest. If audio is missing or cut off, it is removed.
    cells : list of tuple
        (row, voice), all that may be in the manifest.
    folder : Path
        Where the audio is.

    Returns
    -------
    bool
        Whether the manifest and all audio is there, whole.

    Raises
    ------
    InputError
        If the manifest is of something else than this grid.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_manifest(
    ...     folder / "manifest.csv",
    ...     [({"ID": "a", "wav": "a.wav"}, None)],
    ...     folder,
    ... )
    False
    """
    found = {row.get("ID") for row in read_csv(path)}
    wanted = {row["ID"] for row, _ in cells}
    if path.exists() and not (found and found <= wanted):
        raise InputError(
            f"{path} is the manifest of something else than this grid, and is "
            "not overwritten: give another --manifest, or use it with "
            "--skip_prep True"
        )
    if all(_duration(folder / row["wav"]) for row, _ in cells):
        return path.exists()
    path.unlink(missing_ok=True)
    return False


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
        Samples per second.

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
    if len(samples):
        samples = resample_poly(samples, sample_rate, rate)
    rms = np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    if not (math.isfinite(rms) and rms > 1e-5):
        raise InputError(
            f"The voice {voice.ID!r} says nothing audible for {text!r}"
        )
    samples = samples * (RMS / rms)
    samples *= min(1.0, PEAK / np.abs(samples).max())
    return np.round(samples * 32767).astype(np.int16)


def _render_file(synthesizer, sample_rate, folder, cell):
    """Renders a cell to its file; returns the duration in seconds."""
    row, voice = cell
    try:
        samples = render_clip(synthesizer, row["text"], voice, sample_rate)
    except InputError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"{row['wav']} could not be rendered (voice {voice.ID!r}, text "
            f"{row['text']!r}): {type(error).__name__}: {error}"
        ) from error
    path = folder / row["wav"]
    try:
        with replacing(path, synced=False) as temporary:
            soundfile.write(temporary, samples, sample_rate, subtype="PCM_16")
    except soundfile.LibsndfileError as error:  # which says no more
        if shutil.disk_usage(folder).free > 4 * samples.nbytes:
            raise InputError(f"{path} cannot be written: {error}")
        said = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, said, str(path))
    return len(samples) / sample_rate


def _duration(path):
    """Duration of a finished file, None if it has to be rendered."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:  # missing, or empty
        return None
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8)[4:], "little") + 8
    # What a power failure cut off would be taken for a shorter clip.
    if not info.frames or size != path.stat().st_size:
        return None
    return info.frames / info.samplerate


def _map(function, items, num_workers, start_method):
    """Like map, in some processes."""
    if num_workers < 2:
        yield from map(function, items)
        return
    # The function goes to each process once, so that the synthesiser in it
    # can keep a model from one item to the next.
    with ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context(start_method),
        initializer=_set_work,
        initargs=(function,),
    ) as executor:
        yield from executor.map(_do_work, items, chunksize=BATCH)


def _set_work(function):
    """Keeps the function of a worker, who ends when its parent is killed."""
    global _work
    _work = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """Does not wait for work of a parent that is no more."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _do_work(item):
    """Calls the function of a worker."""
    return _work(item)
