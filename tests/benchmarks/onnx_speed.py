"""Time and differences of exports in onnxruntime and in torch.

    python tests/benchmarks/onnx_speed.py [ROUNDS]

One clip, as many as a CPU encodes at a time, and mixed lengths, by turns (9
rounds), on one thread. The difference of a vector is the largest, in parts of
its largest number. The base model is wav2vec 2.0 base with random weights and a
head on its last layer; torch pads the mixed batch for mini alone.
"""

import tempfile
from pathlib import Path

import clock
import numpy as np
import onnxruntime
import torch
from group_norm import random_encoder

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.onnx_export import export_onnx
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork

# Seconds of the clips of a batch.
BATCHES = {
    "1 clip of 5 s": [5],
    "3 clips of 5 s": [5] * 3,
    "8 clips of 1 to 8 s": range(1, 9),
}


def make(folder, encoder):
    """An export with the published network on the last layer."""
    factors = {"speaker": 384, "content": 384}
    head = SubspaceNetwork([1, encoder.dim], list(factors), factors)
    export_subspaces(folder / "export", encoder, head, layers=[-1])
    return SubspaceEncoder.from_hparams(folder / "export")


def models(folder):
    """Name -> an export."""
    yield "log_mel", make(folder, load_encoder("log_mel"))
    yield "mini", SubspaceEncoder.from_packaged()
    base = random_encoder(folder / "base", "wav2vec2", "base")
    yield "wav2vec 2.0 base, random", make(folder, base)


def compare(model, session, seconds, rounds):
    """The row of a batch."""
    seconds = torch.tensor(list(seconds))
    wavs = 0.1 * torch.randn(len(seconds), 16000 * seconds.max())
    lens = seconds / seconds.max()
    given = {"wavs": wavs.numpy(), "wav_lens": lens.numpy()}
    measured = {
        "torch": lambda: model.mods.embedding_model.embed(wavs, lens),
        "onnxruntime": lambda: session.run(model.subspaces, given),
    }
    wanted, found = (run() for run in measured.values())  # and warms up
    parts = [
        np.abs(vectors - one.numpy()).max() / one.abs().max().item()
        for vectors, one in zip(found, wanted.values())
    ]
    times = clock.by_turns(measured, rounds)
    row = {f"{name}, ms": 1000 * np.median(t) for name, t in times.items()}
    hours = seconds.sum().item() / 3600
    row["torch, s per hour of audio"] = np.median(times["torch"]) / hours
    row["ratio"] = clock.spread(times["onnxruntime"] / times["torch"])
    return row | {"difference": float(max(parts))}


def measure(rounds=9):
    """A row for each export and batch."""
    torch.manual_seed(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name, model in models(Path(folder)):
            export_onnx(model, path)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            for batch, seconds in BATCHES.items():
                row = compare(model, session, seconds, rounds)
                found[f"{name}, {batch}"] = row
    return found


if __name__ == "__main__":
    clock.main(measure)
