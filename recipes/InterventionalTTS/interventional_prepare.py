"""Synthesises the grid of the recipe: every voice says every sentence.

Voices and sentences of the three splits are disjoint. Voices that share a
timbre (espeak-ng's variant, at different pitches or in different accents) are
kept in one split, or the test voices would be half known from training.

The speaking rate may be a third factor: then every voice says every sentence
at every rate. Its few values are the same in all splits.
"""

import csv
import json
import random
from pathlib import Path

from speechbrain.utils.logger import get_logger

from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import FORMAT, grid_cells, render_cells
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

logger = get_logger(__name__)

COLUMNS = [
    *("ID", "wav", "duration", "speaker", "content", "rate", "split", "text")
]
SETTINGS = "grid_settings.json"


def prepare_interventional_tts(
    data_folder,
    manifest=None,
    n_train_voices=32,
    n_train_sentences=128,
    n_valid_voices=8,
    n_valid_sentences=128,
    n_test_voices=16,
    n_test_sentences=64,
    seed=1986,
    backend=None,
    sample_rate=16000,
    num_workers=None,
    rates=None,
    skip_prep=False,
):
    """Renders the grid and writes its manifest.

    A finished grid is recognised and left alone, an unfinished one completed.
    The manifest is written when all else is done. ``grid_settings.json`` in
    the data folder says what the audio is, and keeps grids of other settings
    out of it.

    Arguments
    ---------
    data_folder : str or Path
        Gets the audio in ``wav/<voice>/``.
    manifest : str or Path
        The table to write (default: ``manifest.csv`` in the data folder),
        with the columns ID, wav (relative to the data folder), duration in
        seconds, speaker, content, split and text; with ``rates`` also rate.
    n_train_voices, n_valid_voices, n_test_voices : int
        Speakers of each split.
    n_train_sentences, n_valid_sentences, n_test_sentences : int
        Sentences that each of them says.
    seed : int
        Draws the voices of each split and the sentences.
    backend : Synthesizer
        See :mod:`speechbrain_ext.synthesis.base`; None takes espeak-ng.
    sample_rate : int
        Samples a second of the audio.
    num_workers : int
        Processes that render; None takes one a core.
    rates : list of int
        Speaking rates in words a minute, the levels of a third factor. It
        needs a backend with a method ``at_rate(rate)`` that returns the same
        one at that rate. Default: the backend as it is, in two factors.
    skip_prep : bool
        Take the manifest as it is.

    Raises
    ------
    InputError
        If there are too few voices, no such rates, or the folder holds
        something else.

    Example
    -------
    >>> import pytest, tempfile
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> folder = tempfile.mkdtemp()
    >>> prepare_interventional_tts(folder, None, 2, 2, 1, 2, 1, 2)
    >>> len(Path(folder, "manifest.csv").read_text().splitlines())
    9
    """
    if skip_prep:
        logger.info("Skipping the preparation of the grid")
        return
    data_folder = Path(data_folder)
    manifest = Path(manifest or data_folder / "manifest.csv")
    synthesizer = backend if backend is not None else EspeakSynthesizer()
    at_rates = split_rates(synthesizer, rates)
    voices = split_voices(
        synthesizer.voices(),
        {
            "train": n_train_voices,
            "valid": n_valid_voices,
            "test": n_test_voices,
        },
        seed,
    )
    sentences = split_sentences(
        {
            "train": n_train_sentences,
            "valid": n_valid_sentences,
            "test": n_test_sentences,
        },
        seed,
    )
    settings = {
        "format": FORMAT,
        "sample_rate": sample_rate,
        "seed": seed,
        **synthesizer.settings,
        **({"rate": list(rates)} if rates else {}),
        "voices": {
            split: [voice.as_dict() for voice in voices[split]]
            for split in voices
        },
        "sentences": sentences,
    }
    _claim_folder(data_folder, settings)

    cells = {
        split: _cells(voices[split], sentences[split], at_rates)
        for split in voices
    }
    wavs = [
        data_folder / "wav" / row["wav"]
        for split in cells
        for row, _ in cells[split]
    ]
    if manifest.exists():
        if _manifest_ids(manifest) != [wav.stem for wav in wavs]:
            raise InputError(
                f"{manifest} is the manifest of something else than this "
                "grid, and is not overwritten: give another --manifest, or "
                "use it with --skip_prep True"
            )
        if all(wav.is_file() for wav in wavs):
            logger.info(f"Grid found in {data_folder}: nothing to do")
            return
        manifest.unlink()
    logger.info(f"Rendering {len(wavs)} clips into {data_folder}")
    rows = []
    for split in cells:
        part = _render(
            at_rates,
            cells[split],
            data_folder / "wav",
            sample_rate,
            num_workers,
            f"rendering {split}",
        )
        rows += [
            {**row, "wav": f"wav/{row['wav']}", "split": split} for row in part
        ]
    columns = [name for name in COLUMNS if name in rows[0]]
    with replacing(manifest) as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    hours = sum(row["duration"] for row in rows) / 3600
    logger.info(f"{manifest}: {len(rows)} utterances, {hours:.1f} hours")


def split_voices(voices, counts, seed):
    """Draws the voices of each split; none shares a variant with another.

    All variants are dealt out in proportion to the voices wanted, those of
    each gender by themselves. A split takes one voice of each of its variants
    before it takes a second one.

    Arguments
    ---------
    voices : list of Voice
        All that the synthesiser has.
    counts : dict of int
        Split -> number of voices wanted.
    seed : int
        Of the draw.

    Returns
    -------
    dict of list
        Split -> voices.

    Raises
    ------
    InputError
        If there are too few voices.

    Example
    -------
    >>> from speechbrain_ext.synthesis.base import Voice
    >>> voices = [Voice(v + a, v, a) for v in "fghm" for a in ("uk", "us")]
    >>> drawn = split_voices(voices, {"train": 3, "test": 2}, seed=1)
    >>> [len({voice.variant for voice in drawn[split]}) for split in drawn]
    [2, 2]
    """
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"n_{split}_voices is {count}, and must be 1+")
    variants = {}
    for voice in voices:
        variants.setdefault(voice.variant, []).append(voice)
    order = sorted(variants)
    random.Random(seed).shuffle(order)
    # Big ones first, so that the rest can even out the shares.
    order.sort(key=lambda v: (variants[v][0].gender, -len(variants[v])))
    pools = {split: [] for split in counts}
    sizes = dict.fromkeys(counts, 0)
    for variant in order:
        split = min(counts, key=lambda s: sizes[s] / counts[s])
        pools[split].append(variant)
        sizes[split] += len(variants[variant])
    short = {s: n for s, n in sizes.items() if n < counts[s]}
    if short:
        raise InputError(
            f"{sum(counts.values())} voices were asked for "
            f"({', '.join(f'{n} for {s}' for s, n in counts.items())}), but "
            f"the synthesiser has {len(voices)} of {len(variants)} timbres, "
            "and a timbre stays in one split, which leaves "
            f"{', '.join(f'{n} for {s}' for s, n in short.items())}: ask for "
            "fewer"
        )
    drawn = {}
    for split, count in counts.items():
        random.Random(seed).shuffle(pools[split])
        turns = [
            (turn, place, voice)
            for place, variant in enumerate(pools[split])
            for turn, voice in enumerate(variants[variant])
        ]
        turns.sort(key=lambda one: one[:2])
        drawn[split] = [voice for _, _, voice in turns[:count]]
    return drawn


def split_sentences(counts, seed):
    """The sentences of each split, numbered on from one to the next.

    Arguments
    ---------
    counts : dict of int
        Split -> number of sentences.
    seed : int
        Of the generator.

    Returns
    -------
    dict of dict
        Split -> {ID: text}.

    Raises
    ------
    InputError
        If a number is not positive, or there are not so many sentences.

    Example
    -------
    >>> sentences = split_sentences({"train": 2, "test": 1}, seed=1)
    >>> [list(sentences[split]) for split in sentences]
    [['s0001', 's0002'], ['s0003']]
    """
    for split, count in counts.items():
        if count < 1:
            raise InputError(f"n_{split}_sentences is {count}, and must be 1+")
    texts = iter(
        enumerate(generate_sentences(sum(counts.values()), seed), start=1)
    )
    return {
        split: {f"s{number:04}": text for number, text in _take(texts, count)}
        for split, count in counts.items()
    }


def split_rates(synthesizer, rates=None):
    """The synthesiser at each level of the factor speaking rate.

    Arguments
    ---------
    synthesizer : Synthesizer
        With the method ``at_rate``, if there are rates.
    rates : list of int
        Words a minute. Default: the rate is no factor.

    Returns
    -------
    dict
        Rate -> synthesiser; without rates None -> the one given.

    Raises
    ------
    InputError
        If the synthesiser has no rates, or these are not two different ones
        or more.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("espeakng_loader")
    >>> levels = split_rates(EspeakSynthesizer(), [120, 255])
    >>> [levels[rate].settings["rate"] for rate in levels]
    [120, 255]
    """
    if rates is None:
        return {None: synthesizer}
    if not isinstance(rates, list) or len(set(rates)) < max(2, len(rates)):
        raise InputError(
            f"rates is {rates}: a factor needs a list of two or more different "
            "rates in words a minute, null makes it none"
        )
    if not hasattr(synthesizer, "at_rate"):
        raise InputError(
            "rates were given, but the speaking rate of "
            f"{type(synthesizer).__name__} cannot be set: it has no at_rate"
        )
    return {rate: synthesizer.at_rate(rate) for rate in rates}


def _cells(voices, sentences, rates):
    """The cells of one split as (row, voice); a rate of None is no factor."""
    cells = []
    for voice, content, wav in grid_cells(voices, sentences):
        for rate in rates:
            level = {} if rate is None else {"rate": rate}
            path = Path(wav)
            if level:
                path = path.with_name(f"{path.stem}_r{rate}.wav")
            row = {
                "ID": path.stem,
                "wav": path.as_posix(),
                "duration": None,
                "speaker": voice.ID,
                "content": content,
                **level,
                "text": sentences[content],
            }
            cells.append((row, voice))
    return cells


def _render(at_rates, cells, folder, sample_rate, num_workers, description):
    """Renders cells, each at its rate; the rows in the order of the cells."""
    done = {}
    for rate, synthesizer in at_rates.items():
        rows = render_cells(
            synthesizer,
            [cell for cell in cells if cell[0].get("rate") == rate],
            folder,
            sample_rate,
            num_workers,
            description=description + (f" at {rate} words/min" if rate else ""),
        )
        done |= {row["ID"]: row for row in rows}
    return [done[row["ID"]] for row, _ in cells]


def _take(iterator, count):
    """The next items."""
    return [next(iterator) for _ in range(count)]


def _claim_folder(folder, settings):
    """Writes the settings into the folder, or finds the same ones there."""
    path = folder / SETTINGS
    # As it will be read back, with lists in place of tuples.
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InputError(
                f"{path} is no settings file of a grid: give another "
                "--data_folder"
            )
        differ = [
            _difference(key, found.get(key), settings.get(key))
            for key in {**found, **settings}
            if found.get(key) != settings.get(key)
        ]
        if differ:
            raise InputError(
                f"{folder} holds a grid of other settings "
                f"({'; '.join(differ)}): give another --data_folder, delete "
                "this one to render it anew, or use it as it is with "
                "--skip_prep True"
            )
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"The data folder {folder} is a file")
    if (folder / "wav").exists():
        raise InputError(
            f"{folder} holds a folder wav that this script did not make: "
            "give another --data_folder"
        )
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(settings, indent=1) + "\n", encoding="utf-8"
        )


def _difference(key, found, wanted):
    """One difference of settings, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        splits = [
            f"{len(found.get(split, ()))} -> {len(wanted.get(split, ()))} "
            f"for {split}"
            if len(found.get(split, ())) != len(wanted.get(split, ()))
            else f"others for {split}"
            for split in wanted
            if found.get(split) != wanted[split]
        ]
        return f"{key}: {', '.join(splits)}"
    return f"{key}: {found} there, {wanted} wanted"


def _manifest_ids(path):
    """The column ID of a manifest."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return [row.get("ID") for row in csv.DictReader(file)]
