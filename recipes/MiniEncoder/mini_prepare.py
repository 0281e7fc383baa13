"""Synthesises the speech that the mini encoder is pre-trained on.

Many pseudo-speakers, each of whom says sentences and single words of his own.
A pseudo-speaker is a timbre of espeak-ng with a pitch, range and speaking rate
of his own, whose speech is played a little faster or slower, which moves the
formants as another vocal tract would. Words are made up, in several languages,
for the sake of their sounds; a word is said by many speakers.

The timbres of the validation and test splits of the default grid (that of
``interventional.yaml`` and ``hparams/evaluate.yaml``) are left out, and all of
its sentences. Timbres that are not among the measured voices of the package
are taken too, unless their name says that they are close to one left out.
"""

import csv
import dataclasses
import functools
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from interventional_prepare import split_sentences, split_voices
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.synthesis.base import Voice
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice
from speechbrain_ext.synthesis.grid import (
    FORMAT,
    START_METHOD,
    grid_cells,
    render_grid,
    usable_cores,
)
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import claim_folder, digest, replacing

logger = get_logger(__name__)

PROCESSES = multiprocessing.get_context(START_METHOD)

COLUMNS = ["ID", "wav", "duration", "speaker", "word", "text"]

# The default grid, of interventional.yaml and of hparams/evaluate.yaml.
GRID_SEED = 1986
GRID_VOICES = {"train": 64, "valid": 8, "test": 16}
GRID_SENTENCES = {"train": 64, "valid": 128, "test": 64}

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
RATES = (110, 220)  # words a minute
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
    """A voice with a rate, whose speech is played ``warp`` times as fast."""

    rate: int = 175
    warp: float = 1.0


class WarpedSynthesizer(EspeakSynthesizer):
    """espeak-ng that knows warped voices."""

    def timbres(self):
        """Variant and gender of all, not only of the measured voices."""
        known = {voice.variant: voice.gender for voice in self.voices()}
        files = sorted(Path(self.data_path, "voices/!v").iterdir())
        return {file.name: known.get(file.name, "") for file in files}

    def synthesize(self, text, voice):
        """As of the base class, with the rate that warps the speech."""
        samples, rate = self.at_rate(voice.rate).synthesize(text, voice)
        # Whole hundreds, or resampling would need a very long filter.
        return samples, 100 * round(rate * voice.warp / 100)


def prepare_mini(
    data_folder,
    n_speakers=640,
    n_sentences=8,
    n_words=32,
    n_vocabulary=1024,
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
    rng = random.Random(seed)
    voices = draw_speakers(
        synthesizer.voices(), synthesizer.timbres(), n_speakers, rng
    )
    vocabulary = make_words(n_vocabulary, rng)
    if n_words > len(vocabulary):
        raise InputError(
            f"n_words is {n_words}, but n_vocabulary only {n_vocabulary}"
        )
    sentences = new_sentences(max(n_sentences, 2 * n_speakers), seed)
    said = [
        _choose(sentences, n_sentences, rng) | _choose(vocabulary, n_words, rng)
        for _ in voices
    ]
    settings = {
        "format": FORMAT,
        **synthesizer.settings,
        "voices_and_texts": digest([[v.as_dict() for v in voices], said]),
    }
    claim_folder(data_folder, settings, began="wav", option="data_folder")
    if (data_folder / "manifest.csv").is_file():
        logger.info(f"Speech found in {data_folder}: nothing to do")
        return
    speak = functools.partial(
        _speak, synthesizer=synthesizer, folder=data_folder / "wav"
    )
    with ProcessPoolExecutor(usable_cores(), PROCESSES) as executor:
        parts = tqdm(
            executor.map(speak, voices, said),
            desc="speakers",
            total=len(voices),
            dynamic_ncols=True,
        )
        rows = [row for part in parts for row in part]
    with replacing(data_folder / "manifest.csv") as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    hours = sum(row["duration"] for row in rows) / 3600
    logger.info(f"{data_folder}: {len(rows)} clips, {hours:.1f} hours")


def _choose(texts, count, rng):
    """Some of the texts."""
    return dict(rng.sample(sorted(texts.items()), count))


def _speak(voice, texts, synthesizer, folder):
    """Rows of the clips of a speaker; words are said in their language."""
    by_accent = {}
    for key, text in texts.items():
        language = key.rpartition("-")[0]
        by_accent.setdefault(language or voice.accent, {})[key] = text
    rows = []
    for accent, part in by_accent.items():
        speaker = dataclasses.replace(voice, accent=accent)
        rows += _render(synthesizer, [speaker], part, folder)
    return [_row(row) for row in rows]


def _render(synthesizer, voices, texts, folder):
    """Rows of a small grid; none where espeak-ng crashes, as on a few words.

    Rendered in a process of its own, which a crash does not take along.
    """
    render = functools.partial(render_grid, num_workers=1, progress=False)
    arguments = (synthesizer, voices, texts, folder)
    paths = [folder / wav for _, _, wav in grid_cells(voices, texts)]
    if not all(path.is_file() for path in paths):
        process = PROCESSES.Process(target=render, args=arguments)
        process.start()
        process.join()
        if process.exitcode < 0:
            said = ", ".join(texts.values())
            logger.warning(f"espeak-ng crashed: {voices[0]}: {said}")
            return []
    return render(*arguments)


def _row(row):
    """A row of the manifest from one of a rendered grid."""
    content = row.pop("content")
    word = content if "-" in content else ""
    return {**row, "wav": f"wav/{row['wav']}", "word": word}


def allowed_timbres(voices, timbres):
    """Timbres that the default grid does not judge by.

    Arguments
    ---------
    voices : list of Voice
        All voices that a grid may have.
    timbres : dict
        All variants of the synthesiser -> gender.

    Returns
    -------
    list of tuple
        (variant, gender), without those of the grid's validation and test
        splits and, among variants that are no voice, without their numbered
        siblings (``Mike`` and ``mike2``).
    """
    splits = split_voices(voices, GRID_VOICES, GRID_SEED)
    held_out = {v.variant for split in ("valid", "test") for v in splits[split]}
    siblings = {_family(variant) for variant in held_out}
    in_grids = {voice.variant for voice in voices}
    return [
        (variant, gender)
        for variant, gender in sorted(timbres.items())
        if variant not in held_out
        and (variant in in_grids or _family(variant) not in siblings)
    ]


def _family(variant):
    return variant.lower().rstrip("0123456789")


def draw_speakers(voices, timbres, count, rng):
    """Pseudo-speakers, each with a timbre of :func:`allowed_timbres`.

    Arguments
    ---------
    voices : list of Voice
        All voices that a grid may have.
    timbres : dict
        All variants of the synthesiser -> gender.
    count : int
        How many are wanted.
    rng : random.Random
        Draws them.

    Returns
    -------
    list of WarpedVoice
    """
    allowed = allowed_timbres(voices, timbres)
    speakers = []
    for number in range(count):
        variant, gender = allowed[number % len(allowed)]
        voice = make_voice(
            variant,
            rng.choice(ACCENTS),
            rng.randint(20, 80),
            rng.randint(30, 90),
            gender,
        )
        fields = {**voice.as_dict(), "ID": f"p{number:03}"}
        speakers.append(
            WarpedVoice(
                **fields, rate=rng.randint(*RATES), warp=rng.choice(WARPS)
            )
        )
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
