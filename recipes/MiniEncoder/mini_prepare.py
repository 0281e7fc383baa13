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

import dataclasses
import functools
import itertools
import random
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from interventional_prepare import split_sentences, split_voices

from speechbrain.utils.logger import get_logger
from speechbrain.utils.parallel import parallel_map
from speechbrain_ext.dataio.manifest import write_manifest
from speechbrain_ext.synthesis.base import Voice
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import (
    FORMAT,
    START_METHOD,
    grid_cells,
    render_cells,
)
from speechbrain_ext.synthesis.sentences import generate_sentences
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import claim_folder, digest

logger = get_logger(__name__)

COLUMNS = ["ID", "wav", "duration", "speaker", "word", "text"]

# The default grid, of interventional.yaml and of hparams/evaluate.yaml.
GRID_SEED = 1986
GRID_VOICES = {"train": 64, "valid": 8, "test": 16}
GRID_SENTENCES = {"train": 64, "valid": 128, "test": 64}

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
RATES = (110, 220)  # words per minute
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
LANGUAGES = dict.fromkeys(["en-us", "de", "es", "fi", "pl", "tr"], "latin")
LANGUAGES |= {"ru": "cyrillic", "ar": "arabic"}


@dataclasses.dataclass(frozen=True)
class WarpedVoice(Voice):
    """A voice with a rate, whose speech is played ``warp`` times as fast."""

    rate: int = 175
    warp: float = 1.0


class WarpedSynthesizer(EspeakSynthesizer):
    """espeak-ng that knows warped voices."""

    def synthesize(self, text, voice):
        """As of the base class, with the rate that warps the speech."""
        samples, rate = self.at_rate(voice.rate).synthesize(text, voice)
        # Whole hundreds, or resampling would need a very long filter.
        return samples, 100 * round(rate * voice.warp / 100)


def prepare_mini(
    data_folder, n_speakers, n_sentences, n_words, n_vocabulary, seed
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
    voices = draw_speakers(synthesizer, n_speakers, rng)
    vocabulary = make_words(n_vocabulary, rng)
    if n_words > len(vocabulary):
        raise InputError(
            f"n_words is {n_words}, but n_vocabulary only {n_vocabulary}"
        )
    sentences = new_sentences(max(n_sentences, 2 * n_speakers), seed)
    said = [
        _draw(sentences, n_sentences, rng) | _draw(vocabulary, n_words, rng)
        for _ in voices
    ]
    settings = {"format": FORMAT} | synthesizer.settings
    spoken = [[dataclasses.asdict(voice) for voice in voices], said]
    settings["voices_and_texts"] = digest(spoken)
    claim_folder(data_folder, settings, began="wav", option="data_folder")
    if (data_folder / "manifest.csv").is_file():
        logger.info(f"Speech found in {data_folder}: nothing to do")
        return
    parts = itertools.chain.from_iterable(map(_by_accent, voices, said))
    render = functools.partial(_render, synthesizer, data_folder)
    rows = list(itertools.chain(*parallel_map(render, list(parts))))
    write_manifest(data_folder / "manifest.csv", rows, COLUMNS)


def _draw(texts, count, rng):
    """Some of the texts."""
    return dict(rng.sample(sorted(texts.items()), count))


def _by_accent(voice, texts):
    """A voice with what it says, by accent: words are in their language."""
    by_accent = {}
    for key, text in texts.items():
        accent = key.rpartition("-")[0] or voice.accent
        said = dataclasses.replace(voice, accent=accent)
        by_accent.setdefault(said, {})[key] = text
    return by_accent.items()


def _render(synthesizer, folder, part):
    """Rows of what a voice says; none where espeak-ng crashes, on a few words.

    Rendered in a process of its own, which a crash does not take along.
    """
    voice, texts = part
    cells = grid_cells([voice], texts)
    for row, _ in cells:
        row["wav"] = f"wav/{row['wav']}"
        row["word"] = row["content"] if "-" in row["content"] else ""
    render = functools.partial(
        render_cells, synthesizer, cells, folder, num_workers=1, progress=False
    )
    try:
        with ProcessPoolExecutor(1, get_context(START_METHOD)) as executor:
            return executor.submit(render).result()
    except BrokenProcessPool:
        said = ", ".join(texts.values())
        logger.warning(f"espeak-ng crashed: {voice}: {said}")
        return []


def allowed_timbres(synthesizer):
    """Timbres that the default grid does not judge by.

    Arguments
    ---------
    synthesizer : EspeakSynthesizer
        Has voices, and timbres that are not among them.

    Returns
    -------
    list of tuple
        (variant, gender), without those of the grid's validation and test
        splits and, among variants that are not voices, without their numbered
        siblings (``Mike`` and ``mike2``).
    """
    voices = synthesizer.voices()
    splits = split_voices(voices, GRID_VOICES, GRID_SEED)
    held_out = {v.variant for split in ("valid", "test") for v in splits[split]}
    siblings = {_family(variant) for variant in held_out}
    genders = {voice.variant: voice.gender for voice in voices}
    files = Path(synthesizer.data_path, "voices/!v").iterdir()
    return [
        (variant, genders.get(variant, ""))
        for variant in sorted(file.name for file in files)
        if variant not in held_out
        and (variant in genders or _family(variant) not in siblings)
    ]


def _family(variant):
    return variant.lower().rstrip("0123456789")


def draw_speakers(synthesizer, count, rng):
    """Pseudo-speakers, each with a timbre of :func:`allowed_timbres`.

    Arguments
    ---------
    synthesizer : EspeakSynthesizer
        Whose timbres they have.
    count : int
        How many are wanted.
    rng : random.Random
        Draws them.

    Returns
    -------
    list of WarpedVoice
    """
    allowed = itertools.cycle(allowed_timbres(synthesizer))
    return [
        WarpedVoice(
            ID=f"p{number:03}",
            variant=variant,
            accent=rng.choice(ACCENTS),
            pitch=rng.randint(20, 80),
            range=rng.randint(30, 90),
            gender=gender,
            rate=rng.randint(*RATES),
            warp=rng.choice(WARPS),
        )
        for number, (variant, gender) in zip(range(count), allowed)
    ]


def new_sentences(count, seed):
    """Sentences that the grid does not have: ID -> text."""
    splits = split_sentences(GRID_SENTENCES, GRID_SEED).values()
    grid = {text for split in splits for text in split.values()}
    texts = [t for t in generate_sentences(count, seed) if t not in grid]
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
