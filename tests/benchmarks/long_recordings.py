"""How near the mean over windows is to a long recording encoded as a whole.

    OMP_NUM_THREADS=1 python tests/benchmarks/long_recordings.py MANIFEST \
        [SECONDS ...] [--exports EXPORT ...] [--speakers N]

The recordings of a speaker in a row, again and again until they last SECONDS
(60, 300), for some speakers (3) of a manifest with the column speaker. Printed
are the cosine of both vectors in each subspace, the mean and the lowest over
speakers; the CPU time of windows and of the whole; and for scale the cosines of
the first half minute to both, and of the whole to that of the next speaker.
"""

import argparse
import math
import time

import torch

from speechbrain_ext.dataio.audio import AudioDataset, check_audio
from speechbrain_ext.dataio.manifest import load_manifest, subset
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.utils import windows

RATE = 16000


def speech(dataset, speaker, seconds):
    """Recordings of a speaker in a row, [time]."""
    own = [k for k, row in dataset.data.items() if row["speaker"] == speaker]
    parts = [item["sig"] for item in AudioDataset(subset(dataset, own), RATE)]
    wav, samples = torch.cat(parts), round(seconds * RATE)
    return wav.repeat(-(-samples // len(wav)))[:samples]


def embed(model, wav, whole):
    """Vectors, and the CPU time."""
    kept, begin = windows.WHOLE, time.process_time()
    windows.WHOLE = math.inf if whole else kept
    try:
        vectors = model.mods.embedding_model.embed(wav[None])
    finally:
        windows.WHOLE = kept
    return vectors, time.process_time() - begin


def cosines(ones, others, subspace):
    """Cosine of each pair of vectors of a subspace, [N]."""
    sides = ([made[subspace][0] for made in side] for side in (ones, others))
    return torch.cosine_similarity(*map(torch.stack, sides))


def compare(model, recordings, name):
    """A line per subspace."""
    made = [
        [embed(model, wav, whole) for whole in (False, True)]
        for wav in recordings
    ]
    starts = [embed(model, wav[: 30 * RATE], True)[0] for wav in recordings]
    parts, wholes = ([pair[n][0] for pair in made] for n in (0, 1))
    times = [sum(pair[n][1] for pair in made) / len(made) for n in (0, 1)]
    for subspace in model.subspaces:
        near = cosines(parts, wholes, subspace)
        scale = [
            cosines(one, other, subspace).mean().item()
            for one, other in (
                (starts, parts),
                (starts, wholes),
                (wholes, [*wholes[1:], wholes[0]]),
            )
        ]
        print(
            f"{name}, {len(recordings[0]) / RATE:.0f} s, {subspace}: "
            f"{near.mean():.3f} (lowest {near.min():.3f}); first 30 s to "
            f"windows {scale[0]:.3f}, to the whole {scale[1]:.3f}; another "
            f"speaker {scale[2]:.3f}; CPU time {times[0]:.1f} s, whole "
            f"{times[1]:.1f} s",
            flush=True,
        )


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("seconds", nargs="*", type=float, default=[60, 300])
    parser.add_argument("--exports", nargs="+", default=["packaged"])
    parser.add_argument("--speakers", type=int, default=3)
    given = parser.parse_args()
    dataset = load_manifest(given.manifest, factors=["speaker"])
    check_audio(dataset, RATE)
    speakers = sorted({row["speaker"] for row in dataset.data.values()})
    for export in given.exports:
        model = load_export(export, "cpu")
        for seconds in given.seconds:
            recordings = [
                speech(dataset, speaker, seconds)
                for speaker in speakers[: given.speakers]
            ]
            compare(model, recordings, export)


if __name__ == "__main__":
    main()
