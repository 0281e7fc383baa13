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

import argparse
import csv
import re
from collections import Counter
from math import gcd
from pathlib import Path

import numpy as np
from moonshine_voice.moonshine_api import ModelArch
from moonshine_voice.transcriber import Transcriber
from moonshine_voice.utils import get_model_path
from resemblyzer import VoiceEncoder
from scipy.signal import resample_poly
from tqdm import tqdm

from speechbrain_ext.synthesis.espeak import EspeakSynthesizer, make_voice

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
SAMPLE_RATE = 16000


def main():
    """Reads the options, measures, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, help="CSV file to write")
    parser.add_argument("--max_wer", type=float, default=0.25)
    parser.add_argument("--max_cosine", type=float, default=0.92)
    parser.add_argument("--max_per_variant", type=int, default=3)
    parser.add_argument("--max_refused", type=int, default=4)
    options = parser.parse_args()

    synthesizer = EspeakSynthesizer()
    recognizer = Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY)
    encoder = VoiceEncoder("cpu", verbose=False)

    variants = sorted(Path(synthesizer.data_path, "voices/!v").iterdir())
    clear = []
    for path in tqdm(variants, desc="variants"):
        voice = make_voice(path.name, "en-us")
        rate = word_error_rate(recognizer, synthesizer, voice)
        print(f"variant {path.name}: WER {rate:.3f}", flush=True)
        if rate <= options.max_wer:
            clear.append(path)
    candidates = [
        make_voice(path.name, accent, pitch, range, gender_of(path))
        for path in clear
        for accent in ACCENTS
        for pitch, range in INTONATIONS
    ]
    print(f"{len(clear)} of {len(variants)} variants, {len(candidates)} voices")
    halves = np.stack(
        [
            embed(encoder, synthesizer, voice)
            for voice in tqdm(candidates, desc="voices")
        ]
    )
    embeddings = halves.sum(1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = (halves[:, 0] * halves[:, 1]).sum(1)
    print(
        "cosine of two halves of a voice: "
        f"mean {same.mean():.3f}, 5th percentile {np.percentile(same, 5):.3f}"
    )

    choose(candidates, embeddings, recognizer, synthesizer, options)


def choose(candidates, embeddings, recognizer, synthesizer, options):
    """Writes a table of clear voices, each farthest from those above it."""
    taken, refused = Counter(), Counter()
    nearest = np.full(len(candidates), -1.0)
    # The first voice is the one least like the others.
    nearest[(embeddings @ embeddings.T).mean(0).argmin()] = -2.0
    with (
        open(options.table, "w", newline="", encoding="utf-8") as file,
        tqdm(desc="chosen") as progress,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            "variant accent pitch range gender wer nearest_cosine".split()
        )
        while nearest.min() < options.max_cosine:
            index = int(nearest.argmin())
            voice, cosine = candidates[index], max(nearest[index], -1.0)
            nearest[index] = np.inf
            if (
                taken[voice.variant] == options.max_per_variant
                or refused[voice.variant] == options.max_refused
            ):
                continue
            rate = word_error_rate(recognizer, synthesizer, voice)
            if rate > options.max_wer:
                refused[voice.variant] += 1
                continue
            taken[voice.variant] += 1
            np.maximum(nearest, embeddings @ embeddings[index], out=nearest)
            writer.writerow(
                (voice.variant, voice.accent, voice.pitch, voice.range)
                + (voice.gender, f"{rate:.3f}", f"{cosine:.3f}")
            )
            file.flush()
            progress.update()


def gender_of(path):
    """What the file of a variant says; the basic voices are male."""
    text = path.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^\s*gender\s+(female|male)\b", text, re.M | re.I)
    return found.group(1).lower() if found else "male"


def render(synthesizer, voice, text, level):
    """Samples at 16 kHz with the given root mean square."""
    samples, rate = synthesizer.synthesize(text, voice)
    common = gcd(rate, SAMPLE_RATE)
    samples = resample_poly(samples, SAMPLE_RATE // common, rate // common)
    samples = samples * (level / np.sqrt(np.mean(samples**2)))
    return np.clip(samples, -1, 1).astype(np.float32)


def embed(encoder, synthesizer, voice):
    """Embeddings of two halves of the sentences, [2, dim], unit length."""
    clips = [
        render(synthesizer, voice, text, 0.05) for text in SENTENCES[:EMBEDDED]
    ]
    middle = EMBEDDED // 2
    return np.stack(
        [
            encoder.embed_utterance(np.concatenate(half))
            for half in (clips[:middle], clips[middle:])
        ]
    )


def word_error_rate(recognizer, synthesizer, voice):
    """Word errors over words, of all sentences."""
    errors = words = 0
    for text in SENTENCES:
        # A little silence around, louder than in the grid: both help it.
        samples = np.pad(render(synthesizer, voice, text, 0.15), 1600)
        transcript = recognizer.transcribe_without_streaming(
            samples.tolist(), SAMPLE_RATE
        )
        heard = " ".join(line.text for line in transcript.lines)
        reference, hypothesis = split_words(text), split_words(heard)
        errors += edit_distance(reference, hypothesis)
        words += len(reference)
    return errors / words


def split_words(text):
    """The words of a text in lower case."""
    return re.findall(r"[a-z']+", text.lower().replace("harbour", "harbor"))


def edit_distance(reference, hypothesis):
    """Levenshtein distance of two lists.

    Example
    -------
    >>> edit_distance("a b c".split(), "a x c d".split())
    2
    """
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other)),
            )
    return row[-1]


if __name__ == "__main__":
    main()
