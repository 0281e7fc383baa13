"""Speed of embedding a folder, beside that of its bare encoder.

    python tests/benchmarks/embed_speed.py SOURCE [FILES [ROUNDS]]

``embed_recordings`` with the packaged export, for the first recordings of a
folder or manifest (1,000), and its encoder alone on as many waveforms in
memory, all of their mean length, in batches of 32; by turns. The speed is a
share of the bare encoder's, in CPU time and in wall time.
"""

import pathlib
import tempfile

import clock
import numpy as np
import torch

from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.manifest import find_recordings, subset
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.recordings import embed_recordings


def embed(model, dataset):
    """What the command embed does, without a cache that is there."""
    with tempfile.TemporaryDirectory() as folder:
        embed_recordings(model, dataset, cache_folder=folder, progress=False)


def measure(source, files=1000, rounds=3):
    """The row of a source."""
    model = SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})
    encoder = model.mods.embedding_model.encoder
    dataset = find_recordings(source)
    dataset = subset(dataset, list(dataset.data)[:files])
    check_audio(dataset, encoder.sample_rate)
    durations = [row["duration"] for row in dataset.data.values()]
    count, samples = len(durations), round(np.mean(durations) * 16000)
    noise = torch.randn(32, samples)

    def bare():
        for first in range(0, count, 32):
            encoder(noise[: count - first])

    measured = {"embed": lambda: embed(model, dataset), "bare": bare}
    times = clock.by_turns(measured, rounds, clock.all_clocks)
    ours, bare = (times[name][:, [0, 2]] for name in measured)
    cpu, wall = (bare / ours).T
    row = {
        "seconds": clock.spread(durations),
        "speed, CPU time": clock.spread(cpu),
        "wall time": clock.spread(wall),
        "files per CPU second": count / np.median(ours[:, 0]),
    }
    return {f"{count} of {pathlib.Path(source).name}": row}


if __name__ == "__main__":
    clock.main(measure)
