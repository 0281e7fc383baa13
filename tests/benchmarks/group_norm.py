"""Group-norm encoders in padded batches, beside groups of equal length.

    python tests/benchmarks/group_norm.py MANIFEST [KIND [SIZE [BATCHES \
        [ROUNDS [DEVICE]]]]]

Noise of the durations of a manifest's recordings is encoded in so many (3) of
the batches that ``extract_features`` makes of them, evenly chosen, by a model
with random weights: ``wav2vec2`` (the default), ``hubert`` or ``wavlm``, in the
``base`` architecture (95 M weights) or a ``small`` one (4 layers of 128). By
turns in groups of equal length and in padded batches, on one thread of the CPU
or another device. Printed are the batches; seconds of both (of the CPU, or wall
time where the device is another); their ratio, the median of the rounds (3),
the lowest and the highest; the process's peak memory after the first groups and
the first padded batches; and the largest difference of a vector in parts of its
norm.
"""

import os
import resource
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers

from speechbrain_ext.dataio.manifest import find_recordings
from speechbrain_ext.lobes.encoders import load_encoder, similar_rows

SMALL = {
    **dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4),
    **dict(intermediate_size=512, conv_dim=[128] * 7),
}
SIZES = {"base": {}, "small": SMALL}
KINDS = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}


def random_encoder(kind, size):
    """A model of random weights, loaded as its users' are."""
    config = getattr(transformers, f"{KINDS[kind]}Config")(**SIZES[size])
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = getattr(transformers, f"{KINDS[kind]}Model")(config)
        model.save_pretrained(folder)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
        return load_encoder("hf_encoder", folder)


def encode(encoder, batches, device, padded):
    """Vectors of the batches, seconds, and the peak memory in MB until now."""
    encoder.handles_padding = encoder.pads_on_cpu = padded
    clock = time.process_time if device == "cpu" else time.monotonic
    found, begin = [], clock()
    for wavs in batches:
        lens = torch.tensor([len(wav) for wav in wavs])
        wavs = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        found.append(encoder(wavs.to(device), lens / lens.max()).cpu())
    seconds = clock() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return torch.cat(found), seconds, peak


def main(source, kind="wav2vec2", size="base", count=3, rounds=3, device="cpu"):
    """Measure and print."""
    torch.set_num_threads(1)
    rows = find_recordings(source).data.values()
    durations = [row["duration"] for row in rows]
    rows = list(similar_rows(durations, 160.0, at_most=32))
    picked = np.linspace(0, len(rows) - 1, int(count) + 2)[1:-1]
    torch.manual_seed(0)
    batches = [
        [torch.randn(round(16000 * durations[row])) for row in rows[place]]
        for place in picked.round().astype(int)
    ]
    lengths = [[len(wav) for wav in wavs] for wavs in batches]
    samples, clips = sum(map(sum, lengths)), sum(map(len, lengths))
    padded = sum(max(some) * len(some) for some in lengths)
    print(
        f"{clips} clips, {samples / 16000:.0f} s: {len(batches)} batches with "
        f"{1 - samples / padded:.1%} of padding, or "
        f"{sum(len(set(some)) for some in lengths)} groups of equal length"
    )
    encoder = random_encoder(kind, size).to(device)
    made = [
        encode(encoder, batches, device, padded)
        for _ in range(int(rounds))
        for padded in (False, True)
    ]
    (alone, _, before), (found, _, after) = made[:2]
    old, new = np.reshape([seconds for _, seconds, _ in made], (-1, 2)).T
    ratio = np.sort(new / old)
    error = (found - alone).norm(dim=-1) / alone.norm(dim=-1)
    print(
        f"{kind} {size}: groups {np.median(old):.1f} s, padded "
        f"{np.median(new):.1f} s, ratio {np.median(ratio):.2f} "
        f"({ratio[0]:.2f} to {ratio[-1]:.2f}); peak {before:.0f} and "
        f"{after:.0f} MB; difference {error.max():.1e}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
