"""Speed of extracting features, beside that of the bare encoder.

    python tests/benchmarks/extraction_speed.py SOURCE [ENCODER [FILES \
        [ROUNDS [WORKERS]]]]

CPU time on one thread, by turns, for so many (256) recordings of a folder or
manifest, evenly chosen, and an encoder (``mini``):

* ``extract_features`` of the files, with so many (0) processes that read;
* the bare encoder on waveforms in memory of the same seconds: in order of
  length, 32 of equal length in each batch;
* for ``mini``, the usual loop: files in the order given, 16 in a batch, padded,
  through SpeechBrain's wrapper, and the mean over the frames of each.

Printed are seconds, and the ratios to the first: the median of the rounds (9),
the lowest and the highest. What the processes that read take is printed apart.
"""

import os
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.nnet.pooling import StatisticsPooling
from speechbrain_ext.dataio.audio import AudioDataset, check_audio
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import find_recordings, subset
from speechbrain_ext.lobes.encoders import load_encoder


def clock(function):
    """CPU time of this process and of those that it started and that ended."""
    begin = os.times()
    function()
    end = os.times()
    own = end.user + end.system - begin.user - begin.system
    others = end.children_user + end.children_system
    return own, others - begin.children_user - begin.children_system


def extract(dataset, encoder, workers):
    """Features of files, into a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_workers": workers, "progress": False}
        extract_features(dataset, encoder, folder, **options)


def usual_loop(dataset, network):
    """What a script does that knows nothing of lengths."""
    loader = torch.utils.data.DataLoader(
        AudioDataset(dataset), batch_size=16, collate_fn=PaddedBatch
    )
    pool = StatisticsPooling(return_std=False)
    for batch in loader:
        wavs, lens = batch.sig
        with torch.no_grad():
            for layer in network(wavs, lens):
                pool(layer, lens)


def main(source, name="mini", files=256, rounds=9, workers=0):
    """Measure and print."""
    torch.set_num_threads(1)
    encoder, dataset = load_encoder(name), find_recordings(source)
    ids = list(dataset.data)
    chosen = np.linspace(0, len(ids) - 1, min(int(files), len(ids)))
    dataset = subset(dataset, [ids[place] for place in chosen.astype(int)])
    check_audio(dataset, encoder.sample_rate)
    durations = np.array([row["duration"] for row in dataset.data.values()])
    order = np.sort(durations)
    batches = [
        torch.randn(len(part), round(16000 * part.mean())) / 10
        for part in np.split(order, range(32, len(order), 32))
    ]
    measured = {
        "extraction": lambda: extract(dataset, encoder, int(workers)),
        "bare encoder": lambda: [encoder(batch) for batch in batches],
    }
    if name == "mini":
        measured["usual loop"] = lambda: usual_loop(dataset, encoder.network)
    times = np.array(
        [
            [clock(function) for function in measured.values()]
            for _ in range(int(rounds))
        ]
    )
    print(
        f"{name}: {len(durations)} files of {durations.min():.1f} to "
        f"{durations.max():.1f} s, {durations.sum():.0f} s"
    )
    ours = times[:, 0, 0]
    for what, (own, others) in zip(measured, times.transpose(1, 2, 0)):
        share = np.sort(ours / own)
        print(
            f"{what}: {np.median(own):.2f} s (readers {np.median(others):.2f} "
            f"s); extraction takes {np.median(share):.2f} of it "
            f"({share[0]:.2f} to {share[-1]:.2f})"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
