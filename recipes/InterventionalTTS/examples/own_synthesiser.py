#!/usr/bin/env python3
"""A synthesiser of your own: a class that speaks the grid of the main recipe.

A backend is any object with settings, voices() and synthesize(text, voice).
This one wraps espeak-ng and makes three speakers of each of its voices: what
it says is played slower or faster, as from a longer or shorter vocal tract.

> python own_synthesiser.py

Needs espeak-ng (pip install -e ".[demo]"). A neural network is wrapped in
speechbrain_ext/synthesis/kokoro.py, one that clones recordings in f5.py there.
The main recipe renders a grid with it, too, and is trained on that:
> cd ../post-training
> PYTHONPATH=../examples python train.py hparams/interventional.yaml \
    --backend='!new:own_synthesiser.ScaledEspeak' --data_folder data/Scaled \
    --output_folder results/Scaled
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from speechbrain_ext.dataio.manifest import write_manifest
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.synthesis.espeak import EspeakSynthesizer
from speechbrain_ext.synthesis.grid import grid_cells, render_cells
from speechbrain_ext.synthesis.sentences import generate_sentences

SCALES = [0.85, 1.0, 1.15]
RATE = 175  # words per minute, of all voices


class ScaledEspeak:
    """Voices of espeak-ng, each in three sizes."""

    def __init__(self):
        # What changes the sound: a folder holds audio of one synthesiser.
        self.backends = {x: EspeakSynthesizer(round(RATE / x)) for x in SCALES}
        known = [backend.settings for backend in self.backends.values()]
        self.settings = {"backend": "scaled espeak-ng", "espeak": known}
        # The variant stays: sizes of one voice are related, and are kept in
        # one part of the grid.
        self.scales = {
            replace(voice, ID=f"{voice.ID}_x{scale}"): scale
            for voice in self.backends[1.0].voices()
            for scale in SCALES
        }

    def voices(self):
        """Who can speak."""
        return list(self.scales)

    def synthesize(self, text, voice):
        """A text, said by a voice -> float32 samples in [-1, 1], rate in Hz."""
        # Spoken slower or faster first, so that all have the same tempo.
        scale = self.scales[voice]
        samples, rate = self.backends[scale].synthesize(text, voice)
        return samples, round(rate * scale)


def main(data):
    """Speak a small grid, and see whether its voices are told apart."""
    # 1. Every voice says every sentence; files that are there are kept
    synthesiser = ScaledEspeak()
    texts = dict(zip("abcd", generate_sentences(4)))
    cells = grid_cells(synthesiser.voices()[:12], texts)
    rows = render_cells(synthesiser, cells, data)
    write_manifest(data / "manifest.csv", rows)

    # 2. Each voice should be one speaker to an encoder that has never heard it
    model = SubspaceEncoder.from_packaged()
    vectors = [model.encode_file(data / row["wav"])[0, 0] for row in rows]
    trials = generate_trials(
        *([row[name] for row in rows] for name in ("speaker", "content"))
    )
    scores = trials.score(torch.stack(vectors))
    eer, _ = equal_error_rate(scores, trials.label)
    print(f"{len(rows)} clips, verification of voices: EER {100 * eer:.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default="data/scaled_voices")
    main(**vars(parser.parse_args()))
