"""Speed of extracting features, beside that of the bare encoder.

    python tests/benchmarks/extraction_speed.py SOURCE [ENCODER [FILES \
        [ROUNDS [WORKERS]]]]

For so many (256) recordings of a folder or manifest, evenly chosen, and an
encoder (``mini``), by turns (9 rounds):

* ``extract_features`` of the files, with so many (0) processes that read, whose
  time is not counted but told apart;
* the bare encoder on waveforms in memory of the same seconds: in order of
  length, 32 of equal length in each batch;
* for ``mini``, the usual loop: files in the order given, 16 in a batch, padded,
  through SpeechBrain's wrapper, and the mean over the frames of each.
"""

import pathlib
import tempfile

import clock
import numpy as np
import torch

from speechbrain.dataio.batch import PaddedBatch
from speechbrain.nnet.pooling import StatisticsPooling
from speechbrain_ext.dataio.audio import AudioDataset, check_audio
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import find_recordings, subset
from speechbrain_ext.lobes.encoders import load_encoder


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


def measure(source, name="mini", files=256, rounds=9, workers=0):
    """The row of a source and an encoder."""
    encoder, dataset = load_encoder(name), find_recordings(source)
    ids = list(dataset.data)
    chosen = np.linspace(0, len(ids) - 1, min(files, len(ids)))
    dataset = subset(dataset, [ids[place] for place in chosen.astype(int)])
    check_audio(dataset, encoder.sample_rate)
    durations = np.array([row["duration"] for row in dataset.data.values()])
    order = np.sort(durations)
    batches = [
        torch.randn(len(part), round(16000 * part.mean())) / 10
        for part in np.split(order, range(32, len(order), 32))
    ]
    measured = {
        "ours": lambda: extract(dataset, encoder, workers),
        "bare encoder": lambda: [encoder(batch) for batch in batches],
    }
    if name == "mini":
        measured["usual loop"] = lambda: usual_loop(dataset, encoder.network)
    times = clock.by_turns(measured, rounds, clock.all_clocks)
    ours, readers, _ = times.pop("ours").T
    row = {"seconds": clock.spread(durations)}
    for other, found in times.items():
        row[f"of the {other}"] = clock.spread(ours / found[:, 0])
    row["CPU s per hour of audio"] = 3600 * np.median(ours) / durations.sum()
    row["readers, the same"] = 3600 * np.median(readers) / durations.sum()
    source = pathlib.Path(source).name
    return {f"{name}, {len(durations)} of {source}": row}


if __name__ == "__main__":
    clock.main(measure)
