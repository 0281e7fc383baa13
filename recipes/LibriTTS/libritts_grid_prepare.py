"""Synthesises a grid of LibriTTS's speakers and sentences by voice cloning.

Speakers, clips to clone them from and sentences are drawn from one subset of
LibriTTS or LibriTTS-R (test-clean, as published); a backend then has every
speaker of a split say every sentence of that split. Speakers and sentences of
the splits are disjoint.

H. Zen et al., "LibriTTS: a corpus derived from LibriSpeech for
text-to-speech", Interspeech 2019.
"""

import random
import re
from collections import Counter
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import audio_info
from speechbrain_ext.dataio.manifest import write_manifest
from speechbrain_ext.synthesis.base import ReferenceVoice
from speechbrain_ext.synthesis.f5 import F5Synthesizer
from speechbrain_ext.synthesis.grid import FORMAT, check_manifest, render_cells
from speechbrain_ext.synthesis.quality import add_quality, filter_rows
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import (
    claim_folder,
    digest,
    file_digest,
    read_csv,
    write_csv,
)
from speechbrain_ext.utils.options import check_options, whole

logger = get_logger(__name__)

CLIPS = "clips.csv"
GENDER_TABLES = ("speakers.tsv", "SPEAKERS.txt")
# With fewer clips a speaker would be a handful of recordings: what the cells
# share would be their words, mood and microphone as much as the voice. All
# speakers of test-clean have many more.
MIN_REFERENCES = 5
# Rule of the options that select references and sentences.
SPAN = (
    lambda span: len(span) == 2 and 0 < span[0] <= span[1],
    "the lowest and the highest value, as in [3, 10]",
)


def prepare_libritts_grid(
    libritts_folder,
    data_folder,
    manifest=None,
    backend=None,
    n_train_speakers=32,
    n_train_sentences=256,
    n_valid_speakers=6,
    n_valid_sentences=256,
    n_test_speakers=0,
    n_test_sentences=0,
    reference_seconds=(3.0, 10.0),
    sentence_words=(5, 15),
    references_per_speaker=None,
    seed=1986,
    limits=None,
    transcribe=None,
    embed=None,
    sample_rate=16000,
    num_workers=1,
    shard=(0, 1),
    skip_prep=False,
):
    """Renders the grid and writes its manifest.

    A finished grid is recognised and left alone, an unfinished one completed.
    The manifest is written when all cells are there, by whichever call finds
    them so; other limits write it anew without rendering. ``settings.json``
    in the data folder says what the audio is, and keeps grids of other
    settings out of it; ``clips.csv`` has the measures of all cells.

    Arguments
    ---------
    libritts_folder : str or Path
        A subset as unpacked, or the archive's folder if that has one subset.
    data_folder : str or Path
        Gets the audio in ``wav/<speaker>/``.
    manifest : str or Path
        The table to write (default: ``manifest.csv`` in the data folder),
        with the columns ID, wav (relative to the data folder), duration in
        seconds, speaker, gender (empty where unknown), content (ID of the
        utterance that the sentence is from), text, reference (ID of the
        cloned clip), split, and measures of the clip.
    backend : Synthesizer
        One that clones, see :class:`~speechbrain_ext.synthesis.base.\
ReferenceVoice`; None takes F5-TTS.
    n_train_speakers, n_valid_speakers, n_test_speakers : int
        Speakers of each split; 0, with 0 sentences, leaves it out.
    n_train_sentences, n_valid_sentences, n_test_sentences : int
        Sentences that each of them says.
    reference_seconds : tuple of float
        Shortest and longest clip to clone from.
    sentence_words : tuple of int
        Fewest and most words of a sentence.
    references_per_speaker : int or None
        Clips that each speaker is cloned from, None for all: backends prepare
        a clip once, so that few make fewer, larger batches.
    seed : int
        Draws speakers, sentences and the reference of each cell.
    limits : dict of tuple
        Column -> lowest and highest value; other cells are left out of the
        manifest. See :func:`~speechbrain_ext.synthesis.quality.filter_rows`.
    transcribe, embed : callable
        Recogniser and speaker encoder for the columns word_error_rate and
        speaker_similarity, see :func:`~speechbrain_ext.synthesis.quality.\
add_quality`. Cells are measured once: delete ``clips.csv`` to do it again.
    sample_rate : int
        Samples per second of the audio.
    num_workers : int or None
        Processes that render, see :func:`~speechbrain_ext.synthesis.grid.\
render_cells`.
    shard : tuple of int
        (index, count): render one of ``count`` parts.
    skip_prep : bool
        Take the manifest as it is.

    Raises
    ------
    InputError
        If the folder is not LibriTTS or has too few speakers or sentences,
        the data folder holds something else, or the limits empty a split.
    """
    if skip_prep:
        logger.info("Skipping the preparation of the grid")
        return
    data_folder = Path(data_folder)
    manifest = Path(manifest or data_folder / "manifest.csv")
    synthesizer = F5Synthesizer() if backend is None else backend
    sizes = {
        "train": (n_train_speakers, n_train_sentences),
        "valid": (n_valid_speakers, n_valid_sentences),
        "test": (n_test_speakers, n_test_sentences),
    }
    selection = {
        "reference_seconds": reference_seconds,
        "sentence_words": sentence_words,
        "references_per_speaker": references_per_speaker,
    }
    limits = limits or {}
    _check_options(sizes, selection, limits)
    folder = find_subset(libritts_folder)
    utterances, genders = read_utterances(folder), read_genders(folder)
    cells = plan_cells(utterances, genders, sizes, seed=seed, **selection)
    settings = {
        "format": FORMAT,
        "sample_rate": sample_rate,
        "seed": seed,
        **{f"{split} cells": size for split, size in sizes.items()},
        **selection,
        **_identity(cells),
        **synthesizer.settings,
    }
    claim_folder(data_folder, settings, "wav", "data_folder")
    check_manifest(manifest, cells, data_folder)
    options = (sample_rate, num_workers, shard)
    rows = _render(synthesizer, cells, data_folder, *options)
    if rows:
        rows = _measure(rows, cells, data_folder, transcribe, embed)
        _write_manifest(manifest, rows, limits)


def _check_options(sizes, selection, limits):
    """Refuses what cannot be meant."""
    spans = ("reference_seconds", "sentence_words")
    check_options(selection, dict.fromkeys(spans, SPAN))
    if selection["references_per_speaker"] is not None:
        check_options(selection, {"references_per_speaker": whole(1)})
    filter_rows([], limits)  # finds what is wrong with them
    for split, counts in sizes.items():
        names = (f"n_{split}_speakers", f"n_{split}_sentences")
        check_options(dict(zip(names, counts)), dict.fromkeys(names, whole(0)))
        speakers, sentences = counts
        if bool(speakers) != bool(sentences):
            raise InputError(
                f"{names[0]} is {speakers} and {names[1]} {sentences}: give "
                "both, or 0 for both to leave the split out"
            )
    if not any(speakers for speakers, _ in sizes.values()):
        raise InputError("No split has speakers: give n_train_speakers")


class Utterance(NamedTuple):
    """One clip of LibriTTS."""

    ID: str
    speaker: str
    wav: Path
    text: str
    key: str
    """The text without what cannot be heard, see :func:`normalise`."""


def find_subset(folder):
    """The folder of a subset, or of the only one in an archive's folder.

    Arguments
    ---------
    folder : str or Path
        A subset (``test-clean``) or what it lies in (``LibriTTS``).

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If there is no subset, or a choice of them.

    Example
    -------
    >>> find_subset("nowhere")
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: nowhere is not a subset of \
LibriTTS: there is no <speaker>/<chapter>/<speaker>_<chapter>_<paragraph>_\
<sentence>.wav; give one as unpacked, e.g. --libritts_folder \
/data/LibriTTS/test-clean
    """
    folder = Path(folder)
    places = [folder, *sorted(folder.glob("*/"))]
    subsets = [path for path in places if any(_find_clips(path))]
    if len(subsets) > 1:
        raise InputError(
            f"{folder} has the subsets "
            f"{', '.join(path.name for path in subsets)}: give one of them, "
            f"e.g. --libritts_folder {subsets[0]}"
        )
    if not subsets:
        raise InputError(
            f"{folder} is not a subset of LibriTTS: there is no <speaker>/"
            "<chapter>/<speaker>_<chapter>_<paragraph>_<sentence>.wav; give "
            "one as unpacked, e.g. --libritts_folder /data/LibriTTS/test-clean"
        )
    return subsets[0]


def _find_clips(folder):
    """The clips that lie and are called as in LibriTTS."""
    for wav in Path(folder).glob("[0-9]*/[0-9]*/*_*_*_*.wav"):
        chapter = wav.parent
        if wav.name.startswith(f"{chapter.parent.name}_{chapter.name}_"):
            yield wav


def read_utterances(folder):
    """All clips of a subset with their texts.

    Arguments
    ---------
    folder : str or Path
        A subset.

    Returns
    -------
    list of Utterance
        In the order of their IDs. Clips without a normalised text are left
        out with a warning.

    Raises
    ------
    InputError
        If no clip has a text, or one is not UTF-8.
    """
    utterances, without = [], 0
    for wav in sorted(_find_clips(folder)):
        path = wav.with_suffix(".normalized.txt")
        try:
            text = " ".join(path.read_text(encoding="utf-8-sig").split())
        except FileNotFoundError:
            without += 1
            continue
        except ValueError as error:
            raise InputError(f"{path} is not UTF-8 ({error})")
        speaker = wav.parent.parent.name
        utterances.append(
            Utterance(wav.stem, speaker, wav, text, normalise(text))
        )
    if not utterances:
        raise InputError(
            f"{folder}: none of the {without} clips has its text beside it "
            "(<clip>.normalized.txt): unpack the whole archive of LibriTTS"
        )
    if without:
        logger.warning(
            f"{folder}: {without} clips have no .normalized.txt, and are left "
            "out"
        )
    return utterances


def normalise(text):
    """What is heard of a text: lower-case words, no punctuation.

    Example
    -------
    >>> normalise("WELL-known; it's Ann's!")
    'well known its anns'
    """
    text = re.sub("['\u2019]", "", text.casefold())
    return re.sub(r"[\W_]+", " ", text).strip()


def read_genders(folder):
    """Gender of each speaker, from the tables in the archive's folder.

    Arguments
    ---------
    folder : str or Path
        A subset; ``speakers.tsv`` or ``SPEAKERS.txt`` are looked for in it
        and above.

    Returns
    -------
    dict of str
        Speaker -> "female" or "male"; empty if there is no table.

    Example
    -------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> table = "; comment\\n14   | F | train-clean-360  | 25.03 | K. L.\\n"
    >>> _ = (folder / "SPEAKERS.txt").write_text(table)
    >>> read_genders(folder)
    {'14': 'female'}
    """
    folder = Path(folder).absolute()
    names = {"F": "female", "M": "male"}
    for place, table in product((folder, folder.parent), GENDER_TABLES):
        if (place / table).is_file():
            text = (place / table).read_text("utf-8", errors="replace")
            found = re.findall(r"^ *(\d+) *[|\t] *([FM])\b", text, re.M)
            return {speaker: names[sex] for speaker, sex in found}
    return {}


def plan_cells(
    utterances,
    genders,
    sizes,
    reference_seconds=(3.0, 10.0),
    sentence_words=(5, 15),
    references_per_speaker=None,
    seed=1986,
):
    """Which speaker says what in which split, cloned from which clip.

    Arguments
    ---------
    utterances : list of Utterance
        All clips of a subset.
    genders : dict of str
        Speaker -> gender, where known.
    sizes : dict of tuple
        Split -> (speakers, sentences).
    reference_seconds, sentence_words : tuple
        Lowest and highest length of a reference and of a sentence.
    references_per_speaker : int or None
        Clips that each speaker is cloned from, None for all.
    seed : int
        Of the draws.

    Returns
    -------
    cells : list of tuple
        (row, ReferenceVoice), speaker by speaker; a row is the part of the
        manifest's that is known before rendering.

    Raises
    ------
    InputError
        If there are too few speakers or sentences.
    """
    references = find_references(utterances, reference_seconds)
    counts = {split: size[0] for split, size in sizes.items()}
    speakers = split_speakers(references, counts, seed)
    counts = {split: size[1] for split, size in sizes.items()}
    sentences = split_texts(utterances, counts, sentence_words, seed)
    cells = []
    for split in sizes:
        keys = [sentence.key for sentence in sentences[split]]
        for speaker in speakers[split]:
            drawn = draw_references(
                references[speaker], keys, references_per_speaker, seed
            )
            gender = genders.get(speaker, "")
            cells += [
                _cell(split, sentence, clip, gender)
                for sentence, clip in zip(sentences[split], drawn)
            ]
    return cells


def _cell(split, sentence, clip, gender):
    """Row and voice of one cell."""
    key = f"{clip.speaker}-{sentence.ID}"
    row = {
        "ID": key,
        "wav": f"wav/{clip.speaker}/{key}.wav",
        "duration": None,
        "speaker": clip.speaker,
        "gender": gender,
        "content": sentence.ID,
        "text": sentence.text,
        "reference": clip.ID,
        "split": split,
    }
    return row, ReferenceVoice(clip.ID, str(clip.wav), clip.text, gender)


def find_references(utterances, seconds=(3.0, 10.0)):
    """The clips of each speaker that are of the right length.

    Arguments
    ---------
    utterances : list of Utterance
        All clips of a subset.
    seconds : tuple of float
        Shortest and longest clip.

    Returns
    -------
    dict of list
        Speaker -> clips.

    Raises
    ------
    InputError
        If a clip is not readable audio.
    """
    references = {}
    for utterance in utterances:
        clips = references.setdefault(utterance.speaker, [])
        length = audio_info(utterance.wav).duration
        # Without words there is nothing to tell a cloning backend.
        if seconds[0] <= length <= seconds[1] and utterance.key:
            clips.append(utterance)
    return references


def split_speakers(references, counts, seed):
    """Draws the speakers of each split among those with enough clips.

    Arguments
    ---------
    references : dict of list
        Speaker -> clips to clone from.
    counts : dict of int
        Split -> number of speakers wanted.
    seed : int
        Of the draw.

    Returns
    -------
    dict of list
        Split -> speakers.

    Raises
    ------
    InputError
        If there are too few.

    Example
    -------
    >>> clips = {"61": range(9), "84": range(2), "121": range(7)}
    >>> drawn = split_speakers(clips, {"train": 1, "valid": 1}, seed=1)
    >>> sorted(drawn["train"] + drawn["valid"])
    ['121', '61']
    """
    speakers = sorted(
        speaker
        for speaker, clips in references.items()
        if len(clips) >= MIN_REFERENCES
    )
    what = (
        f"speakers with {MIN_REFERENCES} or more references of the right "
        f"length, of {len(references)} speakers"
    )
    return _deal(speakers, counts, f"{seed} speakers", what)


def split_texts(utterances, counts, words=(5, 15), seed=1986):
    """Draws the sentences of each split; none sounds like another.

    Arguments
    ---------
    utterances : list of Utterance
        Whose texts are taken, whoever speaks them. Of equal texts it is that
        of the first.
    counts : dict of int
        Split -> number of sentences wanted.
    words : tuple of int
        Fewest and most words.
    seed : int
        Of the draw.

    Returns
    -------
    dict of list
        Split -> utterances.

    Raises
    ------
    InputError
        If there are too few.

    Example
    -------
    >>> texts = ["Yes.", "One and two!", "one, and two", "Go on then."]
    >>> said = [
    ...     Utterance(str(i), "61", Path(), text, normalise(text))
    ...     for i, text in enumerate(texts)
    ... ]
    >>> drawn = split_texts(said, {"train": 1, "valid": 1}, (2, 5), 1)
    >>> sorted(one.ID for part in drawn.values() for one in part)
    ['1', '3']
    """
    unique = {}
    for utterance in utterances:
        if words[0] <= len(utterance.key.split()) <= words[1]:
            unique.setdefault(utterance.key, utterance)
    what = f"different sentences of {words[0]} to {words[1]} words"
    return _deal(list(unique.values()), counts, f"{seed} sentences", what)


def _deal(items, counts, seed, what):
    """Shuffles the items and gives each split its number of them."""
    if sum(counts.values()) > len(items):
        wanted = ", ".join(f"{counts[s]} for {s}" for s in counts if counts[s])
        raise InputError(
            f"{sum(counts.values())} were asked for ({wanted}), but there are "
            f"{len(items)} {what}: ask for fewer, or give a larger subset"
        )
    items = iter(_shuffled(items, seed))
    return {split: list(islice(items, n)) for split, n in counts.items()}


def _shuffled(items, seed):
    """A shuffled copy; a seed that is a string gives the same everywhere."""
    return random.Random(seed).sample(items, len(items))


def draw_references(clips, keys, limit=None, seed=1986):
    """Draws the clip that a speaker is cloned from, for each sentence.

    All clips are used before any comes again, in another order each time. A
    clip that says the sentence itself is left for the next one. The draw
    depends on this speaker's clips and the sentences only.

    Arguments
    ---------
    clips : list of Utterance
        One speaker's.
    keys : list of str
        The sentences, normalised.
    limit : int or None
        Use so many clips, None for all. Those that say none of the sentences
        are preferred.
    seed : int
        Of the draw.

    Returns
    -------
    list of Utterance
        One clip per sentence.

    Raises
    ------
    InputError
        If all clips say a sentence themselves.

    Example
    -------
    >>> clips = [Utterance(text, "61", Path(), text, text) for text in "abcd"]
    >>> drawn = [clip.key for clip in draw_references(clips, list("azbz"))]
    >>> sorted(drawn), drawn[0] != "a" and drawn[2] != "b"
    (['a', 'b', 'c', 'd'], True)
    """
    seed = f"{seed} {clips[0].speaker}"
    said = set(keys)
    pool = sorted(_shuffled(clips, seed), key=lambda clip: clip.key in said)
    pool = pool[:limit]
    drawn, left, turn = [], [], 0
    for key in keys:
        if all(clip.key == key for clip in left):
            left = left + _shuffled(pool, f"{seed} {turn}")
            turn += 1
        others = [clip for clip in left if clip.key != key]
        if not others:
            raise InputError(
                f"All {len(pool)} references of the speaker "
                f"{clips[0].speaker} say '{key}', and so does a cell of "
                "the grid: raise references_per_speaker, or give another seed"
            )
        drawn.append(others[0])
        left.remove(others[0])
    return drawn


def _identity(cells):
    """What tells plans, and LibriTTS from LibriTTS-R."""
    names = ("ID", "text", "reference", "split")
    plan = [[row[name] for name in names] for row, _ in cells]
    return {
        "plan": digest(plan),
        "first reference": file_digest(cells[0][1].wav, "sha256")[:16],
    }


def _render(*arguments):
    """The rows of all cells, or none while other shards have some to render."""
    rows = render_cells(*arguments)
    if any(row["duration"] is None for row in rows):
        rows = render_cells(*arguments)  # the others may have finished
    missing = sum(row["duration"] is None for row in rows)
    if missing:
        logger.info(
            f"{missing} of {len(rows)} cells are left to the other shards: "
            "no manifest yet"
        )
    return [] if missing else rows


def _measure(rows, cells, folder, transcribe, embed):
    """The rows with their measures, kept from one call to the next."""
    path = folder / CLIPS
    models = {"word_error_rate": transcribe, "speaker_similarity": embed}
    wanted = {name for name, model in models.items() if model is not None}
    found = read_csv(path)
    if found and wanted | {"speaking_rate"} <= set(found[0]):
        here = [(row["ID"], float(row["duration"])) for row in found]
        if here == [(row["ID"], row["duration"]) for row in rows]:
            return found
    logger.info(f"Measuring {len(rows)} clips")
    voices = {row["ID"]: voice.wav for row, voice in cells}
    rows = add_quality(rows, folder, transcribe, embed, voices)
    write_csv(path, rows)
    return rows


def _write_manifest(path, rows, limits):
    """Writes the rows within the limits, unless that is what is there."""
    kept, dropped = filter_rows(rows, limits)
    for reason, count in dropped.items():
        logger.info(f"{count} cells are left out, as {reason}")
    every, here = (Counter(r["split"] for r in part) for part in (rows, kept))
    for split, count in every.items():
        if not here[split]:
            raise InputError(
                f"None of the {count} cells of {split} is within the limits "
                f"{limits}: see {CLIPS} in the data folder"
            )
    wanted = [{name: str(row[name]) for name in row} for row in kept]
    # Further columns that somebody added may stay.
    if wanted == [
        {name: row.get(name) for name in kept[0]} for row in read_csv(path)
    ]:
        logger.info(f"{path} is there: nothing to do")
        return
    write_manifest(path, kept)
