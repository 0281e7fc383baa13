"""Time and differences of exports in onnxruntime and in torch.

    OMP_NUM_THREADS=1 python tests/benchmarks/onnx_speed.py [rounds]

CPU time of one clip and of a batch of mixed lengths, by turns, with as many
threads as torch has: the median of the rounds (default 9), and that of their
ratios with the lowest and the highest. The difference is the largest, in parts
of the largest number. The base model is wav2vec 2.0 base with random weights
and a head on its last layer; torch pads the mixed batch for mini alone.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.onnx_export import export_onnx
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.subspaces import SubspaceNetwork

# Seconds of the clips of a batch.
BATCHES = {"1 clip of 4 s": [4], "8 clips of 1 to 8 s": range(1, 9)}


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
    base = folder / "base"
    config = transformers.Wav2Vec2Config()
    transformers.Wav2Vec2Model(config).save_pretrained(base)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(base)
    yield "wav2vec2_base", make(folder, load_encoder("wav2vec2_base", base))


def clock(function):
    """CPU time of all threads in seconds, and the result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def compare(model, session, seconds, rounds):
    """Times of both [rounds, 2], and their largest difference."""
    seconds = torch.tensor(list(seconds))
    wavs = 0.1 * torch.randn(len(seconds), 16000 * seconds.max())
    lens = seconds / seconds.max()
    given = {"wavs": wavs.numpy(), "wav_lens": lens.numpy()}
    module, names = model.mods.embedding_model, model.subspaces
    times = []
    for _ in range(rounds + 1):
        torch_time, wanted = clock(lambda: module.embed(wavs, lens))
        onnx_time, found = clock(lambda: session.run(names, given))
        times.append([torch_time, onnx_time])
    parts = [
        np.abs(vectors - wanted.numpy()).max() / wanted.abs().max().item()
        for vectors, wanted in zip(found, wanted.values())
    ]
    return np.array(times[1:]), max(parts)  # the first one warms up


def main(rounds):
    """Run all and print a table."""
    torch.manual_seed(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    print("| export | batch | torch | onnxruntime | ratio | difference | MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name, model in models(Path(folder)):
            export_onnx(model, path)
            size = path.stat().st_size / 1e6
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            for batch, seconds in BATCHES.items():
                times, part = compare(model, session, seconds, rounds)
                ratios = times[:, 1] / times[:, 0]
                ours, theirs = 1000 * np.median(times, axis=0)
                print(
                    f"| {name} | {batch} | {ours:.0f} ms | {theirs:.0f} ms | "
                    f"{np.median(ratios):.2f} ({ratios.min():.2f} to "
                    f"{ratios.max():.2f}) | {part:.0e} | {size:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
