"""Synthesises the speech that the mini encoder is pre-trained on.

Many pseudo-speakers, each of whom says sentences and single words of his own.
A pseudo-speaker is a timbre of espeak-ng at some pitch and range whose speech
is played a little faster or slower, which moves the formants as another vocal
tract would. Words are made up, in several languages, for the sake of their
sounds; a word is said by many speakers.

Of a grid of 32, 8 and 16 voices (that of ``hparams/evaluate.yaml``), the
timbres of the validation and test splits are left out, and all sentences.
"""

import csv
import dataclasses
import functools
import multiprocessing
import random
from pathlib import Path

from interventional_prepare import split_sentences, split_voices
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.synthesis.base import Voice
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice
from speechbrain_ext.synthesis.grid import FORMAT, grid_cells, render_grid
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import claim_folder, replacing

logger = get_logger(__name__)

COLUMNS = ["ID", "wav", "duration", "speaker", "word", "text"]

# The grid of hparams/evaluate.yaml.
GRID_SEED = 1986
GRID_VOICES = {"train": 32, "valid": 8, "test": 16}
GRID_SENTENCES = {"train": 128, "valid": 128, "test": 64}

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
WARPS = (0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12, 1.18)

# Consonants, vowels and what may end a word, by alphabet.
ALPHABETS = {
    "latin": (
        "b d f g h k l m n p r s t v z br dr fl gr kl pr sk st tr".split(),
        "a e i o u ai ou".split(),
        ["", "", "n", "r", "s", "l", "k", "t", "m"],
    ),
    "arabic": (
        list("بتجحخدرزسشصضطعغفقكلمنهوي"),
        list("اوي"),
        ["", *"نرسلكدمب"],
    ),
    "cyrillic": (list("бвгджзклмнпрстфхцчш"), list("аеиоуыя"), ["", *"нрслкт"]),
}
LANGUAGES = {
    "en-us": "latin",
    "de": "latin",
    "es": "latin",
    "fi": "latin",
    "pl": "latin",
    "tr": "latin",
    "ru": "cyrillic",
    "ar": "arabic",
}


@dataclasses.dataclass(frozen=True)
class WarpedVoice(Voice):
    """A voice whose speech is played ``warp`` times as fast."""

    warp: float = 1.0


class WarpedSynthesizer(EspeakSynthesizer):
    """espeak-ng that knows warped voices."""

    def synthesize(self, text, voice):
        """As of the base class, with the rate that warps the speech."""
        samples, rate = super().synthesize(text, voice)
        # Whole hundreds, or resampling would need a very long filter.
        return samples, 100 * round(rate * voice.warp / 100)


def prepare_mini(
    data_folder,
    n_speakers=256,
    n_sentences=8,
    n_words=28,
    n_vocabulary=448,
    seed=2026,
):
    """Renders the speech and writes ``manifest.csv``.

    A finished folder is left alone, an unfinished one completed.

    Arguments
    ---------
    data_folder : str or Path
        Gets the audio in ``wav/<speaker>/`` and the manifest, with the
        columns ID, wav, duration, speaker, word (empty for sentences), text.
    n_speakers : int
        Pseudo-speakers.
    n_sentences, n_words : int
        What each of them says.
    n_vocabulary : int
        Words to draw from, over all languages.
    seed : int
        Draws speakers, sentences and words.

    Raises
    ------
    InputError
        If the folder holds speech of other settings, or there are too few
        words.
    """
    data_folder = Path(data_folder)
    synthesizer = WarpedSynthesizer()
    settings = {
        **{"format": FORMAT, "seed": seed, "speakers": n_speakers},
        **{"sentences": n_sentences, "words": n_words},
        **{"vocabulary": n_vocabulary, **synthesizer.settings},
    }
    claim_folder(data_folder, settings, began="wav")
    if (data_folder / "manifest.csv").is_file():
        logger.info(f"Speech found in {data_folder}: nothing to do")
        return
    rng = random.Random(seed)
    voices = draw_speakers(synthesizer.voices(), n_speakers, rng)
    vocabulary = make_words(n_vocabulary, rng)
    if n_words > len(vocabulary):
        raise InputError(
            f"n_words is {n_words}, but n_vocabulary only {n_vocabulary}"
        )
    sentences = new_sentences(max(n_sentences, 2 * n_speakers), seed)
    rows = []
    for voice in tqdm(voices, desc="speakers", dynamic_ncols=True):
        said = {None: dict(rng.sample(sorted(sentences.items()), n_sentences))}
        for word in rng.sample(sorted(vocabulary), n_words):
            language = word.rpartition("-")[0]
            said.setdefault(language, {})[word] = vocabulary[word]
        for language, texts in said.items():
            accent = language or voice.accent
            part = _render(
                synthesizer,
                [dataclasses.replace(voice, accent=accent)],
                texts,
                data_folder / "wav",
            )
            rows += [_row(row, language) for row in part]
    with replacing(data_folder / "manifest.csv") as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    hours = sum(row["duration"] for row in rows) / 3600
    logger.info(f"{data_folder}: {len(rows)} clips, {hours:.1f} hours")


def _render(synthesizer, voices, texts, folder):
    """Rows of a small grid; none where espeak-ng crashes, as on a few words.

    Rendered in a process of its own, which a crash does not take along.
    """
    render = functools.partial(render_grid, num_workers=1, progress=False)
    arguments = (synthesizer, voices, texts, folder)
    paths = [folder / wav for _, _, wav in grid_cells(voices, texts)]
    if not all(path.is_file() for path in paths):
        process = multiprocessing.Process(target=render, args=arguments)
        process.start()
        process.join()
        if process.exitcode < 0:
            said = ", ".join(texts.values())
            logger.warning(f"espeak-ng crashed: {voices[0]}: {said}")
            return []
    return render(*arguments)


def _row(row, language):
    """A row of the manifest from one of a rendered grid."""
    content = row.pop("content")
    word = content if language else ""
    return {**row, "wav": f"wav/{row['wav']}", "word": word}


def draw_speakers(voices, count, rng):
    """Pseudo-speakers from the training voices of the grid.

    Arguments
    ---------
    voices : list of Voice
        All voices of the synthesiser.
    count : int
        How many are wanted.
    rng : random.Random
        Draws them.

    Returns
    -------
    list of WarpedVoice
    """
    known = split_voices(voices, GRID_VOICES, GRID_SEED)["train"]
    timbres = sorted({(voice.variant, voice.gender) for voice in known})
    speakers = []
    for number in range(count):
        variant, gender = timbres[number % len(timbres)]
        voice = make_voice(
            variant,
            rng.choice(ACCENTS),
            rng.randint(20, 80),
            rng.randint(30, 90),
            gender,
        )
        fields = {**voice.as_dict(), "ID": f"p{number:03}"}
        speakers.append(WarpedVoice(**fields, warp=rng.choice(WARPS)))
    return speakers


def new_sentences(count, seed):
    """Sentences that the grid does not have: ID -> text."""
    splits = split_sentences(GRID_SENTENCES, GRID_SEED).values()
    grid = {text for split in splits for text in split.values()}
    drawn = generate_sentences(count, seed)
    texts = [text for text in drawn if text not in grid]
    return {f"s{number:04}": text for number, text in enumerate(texts)}


def make_words(count, rng):
    """Made-up words, as many of each language: ID -> text."""
    words = {}
    for number in range(count):
        language = list(LANGUAGES)[number % len(LANGUAGES)]
        word = None
        while word is None or word in words.values():
            word = _word(*ALPHABETS[LANGUAGES[language]], rng)
        words[f"{language}-{number:03}"] = word
    return words


def _word(consonants, vowels, endings, rng):
    """One to three syllables."""
    syllables = rng.choices((1, 2, 3), (0.4, 0.45, 0.15))[0]
    parts = [
        rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables)
    ]
    # A syllable alone is too short without something after it.
    ending = rng.choice(endings[2 if syllables == 1 else 0 :])
    return "".join(parts) + ending
