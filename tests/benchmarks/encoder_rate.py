"""CPU time of encoders for an hour of audio.

    python tests/benchmarks/encoder_rate.py [SECONDS [ROUNDS]]

Noise in clips of so many seconds (5), as many as a CPU encodes at a time, in
memory: ``log_mel``, ``mini`` and wav2vec 2.0 base with random weights, by turns
(5 rounds), which has the size and the architecture of WavLM base but for the
relative positions. A row tells seconds on one thread for an hour of audio.
"""

import tempfile

import clock
import torch
from group_norm import random_encoder

from speechbrain_ext.lobes.encoders import CPU_SECONDS, load_encoder


def measure(seconds=5, rounds=5):
    """A row for each encoder."""
    encoders = {name: load_encoder(name) for name in ("log_mel", "mini")}
    with tempfile.TemporaryDirectory() as folder:
        encoders["base, random"] = random_encoder(folder, "wav2vec2", "base")
    count = max(int(CPU_SECONDS // seconds), 1)
    clips = torch.randn(count, 16000 * seconds) / 10
    measured = {
        name: lambda encoder=encoder: encoder(clips)
        for name, encoder in encoders.items()
    }
    for run in measured.values():  # warms up
        run()
    times = clock.by_turns(measured, rounds)
    hours = count * seconds / 3600
    return {
        name: {
            "CPU s per hour of audio": clock.spread(taken / hours),
            "of mini": clock.spread(taken / times["mini"]),
        }
        for name, taken in times.items()
    }


if __name__ == "__main__":
    clock.main(measure)
