"""Synthesises the grid of the recipe: every voice says every sentence.

Voices and sentences of the three splits are disjoint. Voices that share a
timbre (espeak-ng's variant, at different pitches or in different accents) are
kept in one split, or the test voices would be half known from training.

The speaking rate may be a third factor: then every voice says every sentence
at every rate. Its few values are the same in all splits.
"""

import random
from dataclasses import asdict
from itertools import islice, zip_longest
from pathlib import Path

from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.manifest import write_manifest
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import (
    FORMAT,
    check_manifest,
    grid_cells,
    render_cells,
)
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import claim_folder
from speechbrain_ext.utils.options import check_options, whole

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
SETTINGS = "grid_settings.json"
COLUMNS = [
    *("ID", "wav", "duration", "speaker", "content", "rate", "split", "text")
]


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
    shard=(0, 1),
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
        Samples per second of the audio.
    num_workers : int
        Processes that render; None takes one per core.
    rates : list of int
        Speaking rates in words per minute, the levels of a third factor. It
        needs a backend with a method ``at_rate(rate)`` that returns the same
        one at that rate. Default: the backend as it is, in two factors.
    skip_prep : bool
        Take the manifest as it is.
    shard : tuple of int
        (index, count): render one of ``count`` parts.

    Returns
    -------
    bool
        Whether the manifest is there: not, while other shards are left.

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
    True
    >>> len(Path(folder, "manifest.csv").read_text().splitlines())
    9
    """
    if skip_prep:
        logger.info("Skipping the preparation of the grid")
        return True
    data_folder = Path(data_folder)
    manifest = Path(manifest or data_folder / "manifest.csv")
    synthesizer = EspeakSynthesizer() if backend is None else backend
    n_voices = (n_train_voices, n_valid_voices, n_test_voices)
    n_voices = dict(zip(SPLITS, n_voices))
    n_sentences = (n_train_sentences, n_valid_sentences, n_test_sentences)
    n_sentences = dict(zip(SPLITS, n_sentences))
    for what, counts in (("voices", n_voices), ("sentences", n_sentences)):
        options = {f"n_{split}_{what}": n for split, n in counts.items()}
        check_options(options, dict.fromkeys(options, whole(1)))
    levels = split_rates(synthesizer, rates)
    voices = split_voices(synthesizer.voices(), n_voices, seed)
    sentences = split_sentences(n_sentences, seed)
    cells = _plan(voices, sentences, levels)
    settings = {
        "format": FORMAT,
        "sample_rate": sample_rate,
        "seed": seed,
        **synthesizer.settings,
        **({"rate": rates} if rates else {}),
        "voices": {s: list(map(asdict, voices[s])) for s in voices},
        "sentences": sentences,
    }
    claim_folder(data_folder, settings, "wav", "data_folder", SETTINGS)
    if check_manifest(manifest, cells, data_folder):
        logger.info(f"Grid found in {data_folder}: nothing to do")
        return True
    logger.info(f"Rendering {len(cells)} clips into {data_folder}")
    rows = _render(levels, cells, data_folder, sample_rate, num_workers, shard)
    left = sum(row["duration"] is None for row in rows)
    if left:
        logger.info(f"{left} of {len(rows)} clips are left to the other shards")
        return False
    write_manifest(manifest, rows, [n for n in COLUMNS if n in rows[0]])
    return True


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
    drawn = {}
    for split, count in counts.items():
        random.Random(seed).shuffle(pools[split])
        turns = zip_longest(*(variants[variant] for variant in pools[split]))
        drawn[split] = [v for turn in turns for v in turn if v][:count]
        if len(drawn[split]) < count:
            raise InputError(
                f"{count} voices were asked for {split}, but its share of the "
                f"{len(voices)} that the synthesiser has in {len(variants)} "
                f"timbres is {sizes[split]}, and a timbre stays in one split: "
                "ask for fewer"
            )
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
        If there are not so many sentences.

    Example
    -------
    >>> sentences = split_sentences({"train": 2, "test": 1}, seed=1)
    >>> [list(sentences[split]) for split in sentences]
    [['s0001', 's0002'], ['s0003']]
    """
    texts = generate_sentences(sum(counts.values()), seed)
    named = ((f"s{number:04}", text) for number, text in enumerate(texts, 1))
    return {split: dict(islice(named, n)) for split, n in counts.items()}


def split_rates(synthesizer, rates=None):
    """The synthesiser at each level of the factor speaking rate.

    Arguments
    ---------
    synthesizer : Synthesizer
        With the method ``at_rate``, if there are rates.
    rates : list of int
        Words per minute. Default: the rate is not a factor.

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
            f"rates is {rates}: expected a list of two or more different rates "
            "in words per minute, or null if the rate is not a factor"
        )
    if not hasattr(synthesizer, "at_rate"):
        raise InputError(
            "rates were given, but the speaking rate of "
            f"{type(synthesizer).__name__} cannot be set: it has no at_rate"
        )
    return {rate: synthesizer.at_rate(rate) for rate in rates}


def _plan(voices, sentences, rates):
    """The cells of all splits as (row, voice); rate None: not a factor."""
    cells = []
    for split in voices:
        for row, voice in grid_cells(voices[split], sentences[split]):
            for rate in rates:
                level = {} if rate is None else {"rate": rate}
                ID = row["ID"] + (f"_r{rate}" if level else "")
                wav = f"wav/{voice.ID}/{ID}.wav"
                own = {"ID": ID, "wav": wav, "split": split, **level}
                cells.append((row | own, voice))
    return cells


def _render(levels, cells, folder, sample_rate, num_workers, shard):
    """Renders cells, each at its rate; the rows in the order of the cells."""
    rows = {}
    for rate, synthesizer in levels.items():
        own = [cell for cell in cells if cell[0].get("rate") == rate]
        options = sample_rate, num_workers, shard
        part = render_cells(synthesizer, own, folder, *options)
        rows |= {row["ID"]: row for row in part}
    return [rows[row["ID"]] for row, _ in cells]
