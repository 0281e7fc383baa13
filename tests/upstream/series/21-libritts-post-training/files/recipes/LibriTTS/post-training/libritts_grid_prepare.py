"""Synthesizes a grid of LibriTTS's speakers and sentences by voice cloning.

F5-TTS (https://arxiv.org/abs/2410.06885) has every speaker of a split say every
sentence of that split. Speakers, recordings to clone them from and sentences
are drawn from LibriTTS. No split shares speakers or sentences with another one.

F5-TTS downloads its weights, which are under CC-BY-NC, when it is first used.

Authors
 * @AUTHORS@
"""

import contextlib
import csv
import io
import os
import random
import re
import zlib
from collections import defaultdict, namedtuple
from pathlib import Path

import torch
import torchaudio
from tqdm import tqdm

from speechbrain.dataio import audio_io
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

REFERENCE_SECONDS = (3.0, 10.0)  # of a recording that is cloned from
SENTENCE_WORDS = (5, 15)
# With fewer recordings, what the cells of a speaker share is not only a voice.
MIN_REFERENCES = 5
F5_MODEL = "F5TTS_v1_Base"
COLUMNS = ("ID", "duration", "wav", "speaker", "content", "text")

Clip = namedtuple("Clip", ("id", "speaker", "wav", "text", "words", "seconds"))
Cell = namedtuple("Cell", ("reference", "sentence", "wav"))


def prepare_libritts_grid(
    data_folder,
    grid_folder,
    grid_sizes,
    annotations,
    sample_rate=16000,
    seed=1986,
    skip_prep=False,
):
    """Synthesizes the speech of all splits and writes their annotations.

    Clips that are there already are kept: after an interruption, call it again.

    Arguments
    ---------
    data_folder : str
        Folder of LibriTTS, with its subsets.
    grid_folder : str
        Where the audio goes.
    grid_sizes : dict
        Split -> (subset of LibriTTS, number of speakers, of sentences).
    annotations : dict
        Split -> path of the CSV file to write.
    sample_rate : int
        Of the audio, in Hz.
    seed : int
        Of the draws, and of the synthesis.
    skip_prep : bool
        If True, data preparation is skipped.

    Raises
    ------
    ValueError
        If LibriTTS is not there, or has too few speakers or sentences.
    """
    if skip_prep:
        return
    # With the names of clips, all that they depend on
    folder = Path(grid_folder) / f"{F5_MODEL}_seed{seed}_{sample_rate}Hz"
    cells = plan_cells(Path(data_folder), folder, grid_sizes, seed)
    missing = [
        cell
        for split in cells.values()
        for cell in split
        if not cell.wav.exists()
    ]
    if missing:
        synthesize(missing, sample_rate, seed)
    for split, path in annotations.items():
        write_csv(path, cells[split], Path(grid_folder))


def plan_cells(data_folder, folder, grid_sizes, seed):
    """Draws who says what, and from which recording the voice is taken.

    Arguments
    ---------
    data_folder : Path
        Folder of LibriTTS.
    folder : Path
        Of the clips.
    grid_sizes : dict
    seed : int
        As of ``prepare_libritts_grid``.

    Returns
    -------
    dict
        Split -> list of Cell, speaker by speaker.
    """
    rng = random.Random(seed)
    speakers, sentences, said = {}, {}, set()
    for subset in sorted({subset for subset, _, _ in grid_sizes.values()}):
        references, texts = defaultdict(list), []
        for clip in read_clips(data_folder / subset):
            if within(clip.seconds, REFERENCE_SECONDS):
                references[clip.speaker].append(clip)
            # A text counts once, whoever reads it.
            n_words = len(clip.words.split())
            if within(n_words, SENTENCE_WORDS) and clip.words not in said:
                said.add(clip.words)
                texts.append(clip)
        speakers[subset] = [
            clips
            for _, clips in sorted(references.items())
            if len(clips) >= MIN_REFERENCES
        ]
        sentences[subset] = texts
        rng.shuffle(speakers[subset])
        rng.shuffle(texts)
    cells = {}
    for split, (subset, n_speakers, n_sentences) in grid_sizes.items():
        cells[split] = []
        what = f"of {split} in {subset}"
        chosen = take(sentences[subset], n_sentences, f"sentences {what}")
        for clips in take(speakers[subset], n_speakers, f"speakers {what}"):
            for sentence in chosen:
                others = [c for c in clips if c.words != sentence.words]
                reference = rng.choice(others)
                wav = f"{reference.id}-says-{sentence.id}.wav"
                path = folder / reference.speaker / wav
                cells[split].append(Cell(reference, sentence, path))
    return cells


def within(value, limits):
    """Whether a value is within limits, both included."""
    return limits[0] <= value <= limits[1]


def take(items, number, what):
    """Takes the first ones off a list."""
    if number > len(items):
        raise ValueError(
            f"grid_sizes asks for {number} {what}, but {len(items)} are left "
            f"(sentences of {SENTENCE_WORDS} words; speakers with "
            f"{MIN_REFERENCES} recordings of {REFERENCE_SECONDS} seconds)"
        )
    taken, items[:number] = items[:number], []
    return taken


def read_clips(folder):
    """All recordings of a subset that have a text, in the order of their IDs.

    Arguments
    ---------
    folder : Path
        The subset, with ``<speaker>/<chapter>/<ID>.wav`` and, beside each,
        ``<ID>.normalized.txt``.

    Returns
    -------
    list of Clip
    """
    clips = []
    for path in sorted(folder.glob("*/*/*.normalized.txt")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        wav = Path(str(path).replace(".normalized.txt", ".wav"))
        # What is heard of a text
        words = re.sub("['\u2019]", "", text.lower())
        words = re.sub(r"[\W_]+", " ", words).strip()
        if words and wav.exists():
            seconds = audio_io.info(str(wav)).duration
            speaker = path.parent.parent.name
            clips.append(Clip(wav.stem, speaker, wav, text, words, seconds))
    if not clips:
        raise ValueError(
            f"{folder} has no <speaker>/<chapter>/<ID>.wav with an "
            "<ID>.normalized.txt: give the folder LibriTTS as data_folder (for "
            "other grids, --skip_prep=True and a grid_folder)"
        )
    return clips


def synthesize(cells, sample_rate, seed):
    """Writes the audio of cells.

    Arguments
    ---------
    cells : list of Cell
        What is said, by whom.
    sample_rate : int
        Of the audio, in Hz.
    seed : int
        Of the noise that clips are made from, with the name of the clip.
    """
    try:
        from f5_tts.api import F5TTS
    except ImportError as error:
        raise ImportError(
            "F5-TTS is needed: pip install -r extra_requirements.txt"
        ) from error

    logger.info(f"{len(cells)} clips are synthesized")
    f5_tts = F5TTS(model=F5_MODEL)
    for cell in tqdm(cells, desc="Synthesis", dynamic_ncols=True):
        # It prints each text.
        with contextlib.redirect_stdout(io.StringIO()):
            samples, rate, _ = f5_tts.infer(
                str(cell.reference.wav),
                cell.reference.text,
                cell.sentence.text,
                show_info=lambda message: None,
                progress=None,
                seed=zlib.crc32(f"{seed} {cell.wav.name}".encode()),
            )
        sig = torch.as_tensor(samples, dtype=torch.float32).unsqueeze(0)
        sig = torchaudio.functional.resample(sig, rate, sample_rate)
        sig = sig / sig.abs().max().clamp(min=1.0)
        cell.wav.parent.mkdir(parents=True, exist_ok=True)
        # Never found half-written
        partial = cell.wav.with_suffix(".part.wav")
        audio_io.save(str(partial), sig, sample_rate)
        os.replace(partial, cell.wav)


def write_csv(path, cells, grid_folder):
    """Writes the annotation of a split."""
    rows = []
    for cell in cells:
        rows.append(
            {
                "ID": cell.wav.stem,
                "duration": audio_io.info(str(cell.wav)).duration,
                "wav": "$data_root/" + str(cell.wav.relative_to(grid_folder)),
                "speaker": cell.reference.speaker,
                "content": cell.sentence.id,
                "text": cell.sentence.text,
            }
        )
    with open(f"{path}.part", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(f"{path}.part", path)
    logger.info(f"{path} is written: {len(rows)} clips")
