"""Group-norm encoders in padded batches, beside groups of equal length.

    python tests/benchmarks/group_norm.py MANIFEST [KIND [SIZE [BATCHES \
        [ROUNDS [DEVICE]]]]]

Noise of the durations of a manifest's recordings is encoded in so many (3) of
the batches that ``extract_features`` makes of them, evenly chosen, by a model
with random weights: ``wav2vec2`` (the default), ``hubert`` or ``wavlm``, in the
``base`` architecture (95 M weights) or a ``small`` one (4 layers of 128). By
turns (3 rounds) in groups of equal length and in padded batches, on one thread
of the CPU or another device, where the seconds are wall time. The difference is
the largest of a vector, in parts of its norm.
"""

import tempfile
import time
from pathlib import Path

import clock
import numpy as np
import torch
import transformers

from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.pooled_encoder import similar_rows

SMALL = {
    **dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4),
    **dict(intermediate_size=512, conv_dim=[128] * 7),
}
SIZES = {"base": {}, "small": SMALL}
KINDS = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}


def random_encoder(folder, kind, size):
    """A model of random weights, loaded from a folder as its users' are."""
    config = getattr(transformers, f"{KINDS[kind]}Config")(**SIZES[size])
    torch.manual_seed(0)
    model = getattr(transformers, f"{KINDS[kind]}Model")(config)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return load_encoder("hf_encoder", folder)


def encode(encoder, batches, device, padded):
    """Vectors of the batches."""
    encoder.handles_padding = encoder.pads_on_cpu = padded
    found = []
    for wavs in batches:
        lens = torch.tensor([len(wav) for wav in wavs])
        wavs = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        found.append(encoder(wavs.to(device), lens / lens.max()).cpu())
    return torch.cat(found)


def measure(
    source, kind="wav2vec2", size="base", count=3, rounds=3, device="cpu"
):
    """The row of a model."""
    rows = find_recordings(source).data.values()
    durations = [row["duration"] for row in rows]
    rows = list(similar_rows(durations, 160.0, at_most=32))
    picked = np.linspace(0, len(rows) - 1, count + 2)[1:-1]
    torch.manual_seed(0)
    batches = [
        [torch.randn(round(16000 * durations[row])) for row in rows[place]]
        for place in picked.round().astype(int)
    ]
    lengths = [[len(wav) for wav in wavs] for wavs in batches]
    padded = sum(max(some) * len(some) for some in lengths)
    with tempfile.TemporaryDirectory() as folder:
        encoder = random_encoder(folder, kind, size).to(device)
    vectors = {}

    def run(padded):
        vectors[padded] = encode(encoder, batches, device, padded)

    measured = {False: lambda: run(False), True: lambda: run(True)}
    of = time.process_time if device == "cpu" else time.monotonic
    times = clock.by_turns(measured, rounds, of)
    error = (vectors[True] - vectors[False]).norm(dim=-1)
    row = {
        "clips": sum(map(len, lengths)),
        "groups": sum(len(set(some)) for some in lengths),
        "padding": 1 - sum(map(sum, lengths)) / padded,
        "groups, s": np.median(times[False]),
        "padded, s": np.median(times[True]),
        "ratio": clock.spread(times[True] / times[False]),
        "difference": float((error / vectors[False].norm(dim=-1)).max()),
    }
    return {f"{kind} {size}, {Path(source).name}": row}


if __name__ == "__main__":
    clock.main(measure)
