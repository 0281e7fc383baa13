"""Speed of embedding a folder, beside that of its bare encoder.

    python tests/benchmarks/embed_speed.py SOURCE [FILES [ROUNDS]]

CPU time and wall time of ``embed_recordings`` with the packaged export, for the
first recordings of a folder or manifest (2,000), and of its encoder alone on as
many waveforms in memory, all of their mean length, in batches of 32; by turns.
Printed are seconds, and the speed as a share of the bare encoder's: the median
of the rounds (default 3), the lowest and the highest.
"""

import sys
import tempfile
import time

import numpy as np
import torch

from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.manifest import find_recordings, subset
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.recordings import embed_recordings


def clock(function):
    """CPU time of all threads and wall time, in seconds."""
    begin = time.process_time(), time.monotonic()
    function()
    return time.process_time() - begin[0], time.monotonic() - begin[1]


def embed(model, dataset):
    """What the command embed does, without a cache that is there."""
    with tempfile.TemporaryDirectory() as folder:
        embed_recordings(model, dataset, cache_folder=folder, progress=False)


def main(source, files=2000, rounds=3):
    """Measure and print."""
    model = SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})
    encoder = model.mods.embedding_model.encoder
    dataset = find_recordings(source)
    dataset = subset(dataset, list(dataset.data)[: int(files)])
    check_audio(dataset, encoder.sample_rate)
    durations = [row["duration"] for row in dataset.data.values()]
    count, samples = len(durations), round(np.mean(durations) * 16000)
    noise = torch.randn(32, samples)

    def bare():
        for first in range(0, count, 32):
            encoder(noise[: count - first])

    times = np.array(
        [
            [clock(lambda: embed(model, dataset)), clock(bare)]
            for _ in range(int(rounds))
        ]
    )
    print(f"{count} files, {min(durations):.1f} to {max(durations):.1f} s")
    for kind, (ours, theirs) in zip(("CPU", "wall"), times.T):
        share = np.sort(theirs / ours)
        print(
            f"{kind}: {np.median(ours):.1f} s, bare {np.median(theirs):.1f} s; "
            f"speed {np.median(share):.2f} ({share[0]:.2f} to {share[-1]:.2f})"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
