"""Chooses the espeak-ng voices of this recipe by measurement.

A development tool: it made speechbrain_ext/synthesis/data/espeak_voices.csv,
and is not needed to use the recipe. Every variant of espeak-ng, with some
accents, pitches and ranges, is a candidate. Those that a speech recogniser
does not understand are left out; of the others the one farthest from all
those chosen before, to a speaker encoder, is taken next.

Both tools ship their weights in the package:
    pip install moonshine-voice==0.0.73 resemblyzer==0.1.4 torch librosa
    python select_voices.py espeak_voices.csv
"""

import re
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
from moonshine_voice.utils import get_model_path
from resemblyzer import VoiceEncoder
from scipy.signal import resample_poly
from tqdm import tqdm

from speechbrain.utils.edit_distance import accumulatable_wer_stats
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice
from speechbrain_ext.utils.files import write_csv

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
# Pitch and range; 50 is the variant's own.
INTONATIONS = ((50, 50), (25, 50), (75, 50), (50, 90))
# Plain sentences: a recogniser should fail for the voice alone.
SENTENCES = (
    "The children played in the garden after school.",
    "She bought a loaf of bread and some fresh milk.",
    "My brother drives an old red car to work.",
    "We waited for the train on a cold morning.",
    "Please close the window before you leave the house.",
    "The doctor told him to drink more water.",
    "They are going to build a new bridge over the river.",
    "He found his keys under the kitchen table.",
    "It was raining when the ship came into the harbor.",
    "The young teacher read a funny story to the class.",
)
EMBEDDED = 4  # sentences that the speaker encoder hears
MAX_WER = 0.25
# The voices end with the first that is nearer to one chosen before.
MAX_COSINE = 0.92
# Of one variant; it is given up when so many are not understood.
MAX_PER_VARIANT = 3
MAX_REFUSED = 4
SAMPLE_RATE = 16000


def main(table):
    """Measures all voices and writes the table of those chosen."""
    synthesizer = EspeakSynthesizer()
    recognizer = Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY)
    encoder = VoiceEncoder("cpu", verbose=False)

    variants = sorted(Path(synthesizer.data_path, "voices/!v").iterdir())
    clear = []
    for path in tqdm(variants, desc="variants"):
        voice = make_voice(path.name, "en-us")
        rate = word_error_rate(recognizer, synthesizer, voice)
        print(f"variant {path.name}: WER {rate:.3f}", flush=True)
        if rate <= MAX_WER:
            clear.append(path)
    candidates = [
        make_voice(path.name, accent, *intonation, gender_of(path))
        for path, accent, intonation in product(clear, ACCENTS, INTONATIONS)
    ]
    print(f"{len(clear)} of {len(variants)} variants, {len(candidates)} voices")
    embeddings = np.stack(
        [
            embed(encoder, synthesizer, voice)
            for voice in tqdm(candidates, desc="voices")
        ]
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    rows = choose(candidates, embeddings, recognizer, synthesizer)
    write_csv(table, rows, list(rows[0])[1:])  # the ID is made of the others


def choose(candidates, embeddings, recognizer, synthesizer):
    """A table of clear voices, each farthest from those above it."""
    rows, taken, refused = [], Counter(), Counter()
    nearest = np.full(len(candidates), -1.0)
    # The first voice is the one least like the others.
    nearest[(embeddings @ embeddings.T).mean(0).argmin()] = -2.0
    while nearest.min() < MAX_COSINE:
        index = int(nearest.argmin())
        voice, cosine = candidates[index], max(nearest[index], -1.0)
        nearest[index] = np.inf
        if (
            taken[voice.variant] == MAX_PER_VARIANT
            or refused[voice.variant] == MAX_REFUSED
        ):
            continue
        rate = word_error_rate(recognizer, synthesizer, voice)
        if rate > MAX_WER:
            refused[voice.variant] += 1
            continue
        taken[voice.variant] += 1
        np.maximum(nearest, embeddings @ embeddings[index], out=nearest)
        measures = {"wer": f"{rate:.3f}", "nearest_cosine": f"{cosine:.3f}"}
        rows.append(voice.as_dict() | measures)
        print(f"{len(rows)}: {voice.ID}", flush=True)
    return rows


def gender_of(path):
    """What the file of a variant says; the basic voices are male."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^\s*gender\s+(female|male)\b", text, re.M | re.I)
    return found.group(1).lower() if found else "male"


def render(synthesizer, voice, text, level):
    """Samples at 16 kHz with the given root mean square."""
    samples, rate = synthesizer.synthesize(text, voice)
    samples = resample_poly(samples, SAMPLE_RATE, rate)
    samples = samples * (level / np.sqrt(np.mean(samples**2)))
    return np.clip(samples, -1, 1).astype(np.float32)


def embed(encoder, synthesizer, voice):
    """Sum of the embeddings of two halves of the sentences, [dim]."""
    clips = [
        render(synthesizer, voice, text, 0.05) for text in SENTENCES[:EMBEDDED]
    ]
    middle = EMBEDDED // 2
    return sum(
        encoder.embed_utterance(np.concatenate(half))
        for half in (clips[:middle], clips[middle:])
    )


def word_error_rate(recognizer, synthesizer, voice):
    """Word errors over words, of all sentences."""
    heard = []
    for text in SENTENCES:
        # A little silence around, louder than in the grid: both help it.
        samples = np.pad(render(synthesizer, voice, text, 0.15), 1600)
        transcript = recognizer.transcribe_without_streaming(
            samples.tolist(), SAMPLE_RATE
        )
        heard.append(" ".join(line.text for line in transcript.lines))
    words = [list(map(split_words, texts)) for texts in (SENTENCES, heard)]
    return accumulatable_wer_stats(*words)["WER"] / 100


def split_words(text):
    """The words of a text in lower case."""
    return re.findall(r"[a-z']+", text.lower().replace("harbour", "harbor"))


if __name__ == "__main__":
    main(sys.argv[1])
