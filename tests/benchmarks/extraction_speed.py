"""Speed of extracting and embedding, beside that of the bare encoder.

    python tests/benchmarks/extraction_speed.py SOURCE [ENCODER [FILES \
        [ROUNDS [WORKERS]]]]

For so many (256) recordings of a folder or manifest, evenly chosen, and an
encoder (``mini``), by turns (9 rounds):

* ``extract_features`` of the files, with so many (0) processes that read, whose
  time is not counted but told apart;
* the bare encoder on waveforms in memory of the same seconds: in order of
  length, 32 of equal length in each batch;
* for ``mini``, ``embed_recordings`` with the packaged export, which has as many
  processes that read as the cores allow;
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
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.recordings import embed_recordings
from speechbrain_ext.lobes.encoders import load_encoder


def extract(dataset, encoder, workers):
    """Features of files, into a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"num_workers": workers, "progress": False}
        extract_features(dataset, encoder, folder, **options)


def embed(dataset, model):
    """What the command embed does, without a cache that is there."""
    with tempfile.TemporaryDirectory() as folder:
        embed_recordings(model, dataset, cache_folder=folder, progress=False)


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
        "extraction": lambda: extract(dataset, encoder, workers),
        "bare encoder": lambda: [encoder(batch) for batch in batches],
    }
    if name == "mini":
        model = SubspaceEncoder.from_packaged(run_opts={"device": "cpu"})
        measured["embed"] = lambda: embed(dataset, model)
        measured["usual loop"] = lambda: usual_loop(dataset, encoder.network)
    times = clock.by_turns(measured, rounds, clock.all_clocks)
    own, readers, wall = (
        {key: found[:, of] for key, found in times.items()} for of in range(3)
    )
    row = {"seconds": clock.spread(durations)}
    for ours, other, of, clocks in (
        ("extraction", "bare encoder", "CPU", own),
        ("extraction", "usual loop", "CPU", own),
        ("embed", "bare encoder", "CPU", own),
        ("embed", "bare encoder", "wall", wall),
    ):
        if {ours, other} <= set(measured):
            ratio = clocks[ours] / clocks[other]
            row[f"{ours} / {other}, {of}"] = clock.spread(ratio)
    hours = durations.sum() / 3600
    for key, found in (("extraction", own), ("its readers", readers)):
        spent = np.median(found["extraction"])
        row[f"{key}, CPU s per hour of audio"] = spent / hours
    return {f"{name}, {len(durations)} of {pathlib.Path(source).name}": row}


if __name__ == "__main__":
    clock.main(measure)
