"""A folder in the layout of LibriTTS, with buzzes in place of speech."""

from pathlib import Path

import numpy as np
import soundfile
from conftest import voiced

RATE = 24000
WHO = "teacher sailor farmer doctor painter writer hunter".split()
DID = "carried painted followed noticed borrowed".split()
WHAT = "basket lantern wagon letter kettle blanket mirror saddle".split()
WHERE = "river garden station harbour forest market bridge castle mill".split()


def sentence(number):
    """One of 2520 different sentences of 9 words."""
    parts = []
    for words in (WHO, DID, WHAT, WHERE):
        number, place = divmod(number, len(words))
        parts.append(words[place])
    return "The {} {} the old {} near the {}.".format(*parts)


def build_libritts(
    folder,
    speakers=4,
    chapters=2,
    sentences=4,
    seconds=3.2,
    text=None,
    subset="test-clean",
):
    """Writes an archive as it comes: audio, texts and tables of speakers.

    Arguments
    ---------
    folder : str or Path
        Gets the folder LibriTTS; further calls add other subsets to it.
    speakers, chapters, sentences : int
        Speakers, chapters of each, utterances of each chapter.
    seconds : float
        Length of the clips; they are longer by up to 0.3 s.
    text : callable
        (speaker, chapter, sentence), counted from 0 -> what is said there.
        By default all utterances differ.
    subset : str
        Name of the subset.

    Returns
    -------
    Path
        The folder of the subset.
    """
    root = Path(folder) / "LibriTTS"
    for speaker in range(speakers):
        reader = 1001 + 37 * speaker
        for chapter in range(chapters):
            book = f"{reader}_{120000 + 100 * speaker + chapter}"
            shelf = root / subset / book.replace("_", "/")
            shelf.mkdir(parents=True)
            for number in range(sentences):
                name = f"{book}_{number // 3:06}_{number % 3:06}"
                place = (speaker, chapter, number)
                count = (speaker * chapters + chapter) * sentences + number
                said = text(*place) if text else sentence(count)
                length = seconds + 0.1 * (number % 4)
                buzz = voiced(speaker, number, chapter, 0.4, RATE)
                buzz = np.resize(buzz, round(length * RATE))
                soundfile.write(shelf / f"{name}.wav", buzz, RATE)
                for kind in ("normalized", "original"):
                    (shelf / f"{name}.{kind}.txt").write_text(said)
    _write_tables(root, subset, speakers)
    return root / subset


def _write_tables(root, subset, speakers):
    """Who reads, in the two formats that the archives carry."""
    tabs, pipes = "READER\tGENDER\tSUBSET NAME\n", ";ID  |SEX| SUBSET |NAME\n"
    for speaker in range(speakers):
        reader, sex = 1001 + 37 * speaker, "FM"[speaker % 2]
        tabs += f"{reader}\t{sex}\t{subset}\tReader {speaker}\n"
        pipes += f"{reader:<5}| {sex} | {subset:<17}| |R|eader {speaker}\n"
    (root / "speakers.tsv").write_text(tabs)
    (root / "SPEAKERS.txt").write_text(pipes)
