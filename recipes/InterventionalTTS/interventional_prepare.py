"""
Data preparation for InterventionalTTS, a synthetic grid of speakers and
sentences.

Every voice of a split says every sentence of the split. Voices, their timbres
and sentences are disjoint between the splits. The speech is rendered here, so
nothing has to be downloaded; by default with espeak-ng, from the package
`espeakng-loader` (GPL-3, extra `demo`).
"""

import csv
import json
import os
import random
from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_ext.synthesis.grid import PEAK, RMS, Clip, render_grid
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError

logger = get_logger(__name__)

COLUMNS = ("ID", "wav", "duration", "speaker", "content", "split", "text")


def prepare_interventional_tts(
    data_folder,
    manifest=None,
    n_train_voices=32,
    n_train_sentences=128,
    n_valid_voices=8,
    n_valid_sentences=128,
    n_test_voices=16,
    n_test_sentences=64,
    seed=1234,
    backend=None,
    sample_rate=16000,
    num_workers=None,
    skip_prep=False,
):
    """
    Renders the grid and writes its manifest.

    The manifest has one row an utterance, with the columns ID, wav (relative
    to data_folder), duration (seconds), speaker, content, split (train, valid
    or test) and text. It is written last: where there is a manifest, there is
    a complete grid. A second call finds it and renders nothing; a call after
    an interruption renders what is missing. The same arguments give the same
    files, bit for bit, with the same versions of the packages.

    Arguments
    ---------
    data_folder : str
        Where the grid goes. The audio is put in its subfolder wav.
    manifest : str
        Path of the manifest. Default: <data_folder>/manifest.csv.
    n_train_voices : int
        Number of voices for training.
    n_train_sentences : int
        Number of sentences for training.
    n_valid_voices : int
        Number of voices for validation.
    n_valid_sentences : int
        Number of sentences for validation.
    n_test_voices : int
        Number of voices for the test.
    n_test_sentences : int
        Number of sentences for the test.
    seed : int
        Makes the sentences, and chooses the voices of each split.
    backend : speechbrain_ext.synthesis.base.Synthesizer
        The speech synthesiser. Default: espeak-ng.
    sample_rate : int
        Sampling rate of the audio in Hz.
    num_workers : int
        Processes that render. Default: as many as there are cores.
    skip_prep : bool
        If True, skip data preparation.

    Returns
    -------
    None

    Raises
    ------
    InputError
        If the backend has not enough voices, or the folder holds a grid made
        with other settings.

    Example
    -------
    >>> data_folder = "/path/to/InterventionalTTS"
    >>> prepare_interventional_tts(data_folder)  # doctest: +SKIP
    """
    if skip_prep:
        return
    if backend is None:
        from speechbrain_ext.synthesis.espeak import EspeakSynthesizer

        backend = EspeakSynthesizer()
    data_folder = Path(data_folder)
    manifest = Path(manifest or data_folder / "manifest.csv")
    sizes = {
        "train": (n_train_voices, n_train_sentences),
        "valid": (n_valid_voices, n_valid_sentences),
        "test": (n_test_voices, n_test_sentences),
    }
    voices = split_voices(
        backend.voices(), {split: n for split, (n, _) in sizes.items()}, seed
    )
    sentences = iter(
        enumerate(generate_sentences(sum(n for _, n in sizes.values()), seed))
    )
    rows, clips = [], []
    for split, (_, n_sentences) in sizes.items():
        chosen = [next(sentences) for _ in range(n_sentences)]
        for voice in voices[split]:
            for number, text in chosen:
                content = f"s{number:04d}"
                wav = f"wav/{split}/{voice.ID}/{content}.wav"
                rows.append(
                    {
                        "ID": f"{voice.ID}_{content}",
                        "wav": wav,
                        "speaker": voice.ID,
                        "content": content,
                        "split": split,
                        "text": text,
                    }
                )
                clips.append(Clip(str(data_folder / wav), text, voice))

    settings = {
        "seed": seed,
        "sample_rate": sample_rate,
        "level": [RMS, PEAK],
        **{f"n_{split}": list(size) for split, size in sizes.items()},
        **backend.settings,
        # Catches changed voice and word lists.
        "voices": {
            split: [list(voice.as_dict().values()) for voice in chosen]
            for split, chosen in voices.items()
        },
        "sentences": list(dict.fromkeys(clip.text for clip in clips)),
    }
    # Settings are written first, so that they hold for half a grid as well.
    check_settings(data_folder / "grid_settings.json", settings)
    if manifest.exists() and all(os.path.exists(clip.path) for clip in clips):
        logger.info(f"{manifest}: found {len(rows)} clips, nothing to do")
        return

    durations = render_grid(clips, backend, sample_rate, num_workers)
    for row, seconds in zip(rows, durations):
        row["duration"] = f"{seconds:.4f}"
    write_manifest(manifest, rows)
    logger.info(
        f"{manifest}: {len(rows)} clips, {sum(durations) / 3600:.1f} hours"
    )


def split_voices(voices, sizes, seed):
    """
    Chooses the voices of each split, so that no timbre is in two splits.

    Timbres are drawn at random; all voices of a timbre go where it goes.

    Arguments
    ---------
    voices : list of Voice
        The voices there are.
    sizes : dict
        Number of voices of each split.
    seed : int
        Seed of the choice.

    Returns
    -------
    dict
        The list of voices of each split.

    Example
    -------
    >>> from speechbrain_ext.synthesis.base import Voice
    >>> voices = [
    ...     Voice(variant + accent, variant, accent)
    ...     for variant in "abc"
    ...     for accent in "xy"
    ... ]
    >>> chosen = split_voices(voices, {"train": 4, "test": 2}, seed=0)
    >>> len(chosen["train"])
    4
    >>> chosen["test"][0].variant == chosen["test"][1].variant
    True
    """
    timbres = {}
    for voice in voices:
        timbres.setdefault(voice.variant, []).append(voice)
    order = list(timbres)
    random.Random(seed).shuffle(order)
    chosen = {}
    # The smallest split first: what its last timbre has too many is lost.
    for split in sorted(sizes, key=sizes.get):
        chosen[split] = []
        while order and len(chosen[split]) < sizes[split]:
            chosen[split] += timbres[order.pop()]
        if len(chosen[split]) < sizes[split]:
            raise InputError(
                f"{sum(sizes.values())} voices with different timbres in "
                f"each split were asked for ({sizes}), but the synthesiser's "
                f"{len(voices)} voices have no room for them: ask for fewer"
            )
        del chosen[split][sizes[split] :]
    return {split: chosen[split] for split in sizes}


def check_settings(path, settings):
    """
    Keeps a folder for one grid: stores its settings, or compares them.

    Arguments
    ---------
    path : path
        JSON file of the settings.
    settings : dict
        The settings asked for.

    Raises
    ------
    InputError
        If the file holds other settings.

    Example
    -------
    >>> path = Path(getfixture("tmpdir")) / "settings.json"
    >>> check_settings(path, {"seed": 1})
    >>> check_settings(path, {"seed": 1})
    >>> check_settings(path, {"seed": 2})
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: ...
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        os.replace(temporary, path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = [
        key
        for key in dict.fromkeys([*found, *settings])
        if found.get(key) != settings.get(key)
    ]
    if differing:
        raise InputError(
            f"{path.parent} holds a grid made with other settings (differing: "
            f"{', '.join(differing)}; see {path.name}): give another "
            "data_folder, or delete that one"
        )


def write_manifest(path, rows):
    """
    Writes the manifest, which appears when complete.

    Arguments
    ---------
    path : path
        The CSV file.
    rows : list of dict
        With the keys of the columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
