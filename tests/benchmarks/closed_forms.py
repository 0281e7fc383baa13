"""Closed forms on many utterances: time against Gram products, and memory.

    python tests/benchmarks/closed_forms.py [UTTERANCES [DIM [NAMES...]]]

For 100,000 utterances of dimension 768, in float32 and in memory; speakers x
sentences, 200 utterances of each speaker; for ``channel_lda`` also in two takes
through channels, for ``recordings_source`` in two interventions. Each closed
form has a process of its own, in which it is measured by turns with products
``X.T @ X`` of as many takes (of leakage: of its vectors), on one thread. A line
tells the median CPU seconds and ratio to products in float32 and in float64,
and how much more memory (resident set) the form takes than what was there
before: its input, which is the unit, and all imports.
"""

import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from speechbrain_ext.evaluation.leakage import Leakage
from speechbrain_ext.evaluation.results import Subspace
from speechbrain_ext.evaluation.tasks import Embedded
from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.processing.closed_form import (
    channel_lda,
    grid_lda,
    pca_subspaces,
    random_subspaces,
)
from speechbrain_ext.processing.discriminants import recordings_source
from speechbrain_ext.processing.plda import Plda
from speechbrain_ext.processing.rivals import RIVALS, rival_heads

BOTH = ("speaker", "content")
DIMS = dict.fromkeys(BOTH, 384)
REPEATS = 3


def rival(name):
    """A rival alone."""
    return lambda x, labels: rival_heads([name], x[0], labels, *BOTH)


def leakage(x, labels):
    """Two subspaces of one system, with controls of their dimensions."""
    features, half = x[0], x.shape[-1] // 2
    vectors = dict(zip(BOTH, features[:, 0].split(half, dim=1)))
    Leakage(labels)(
        Embedded(
            "recorded",
            {
                "test": {
                    Subspace("a", f, "e", "0"): v for f, v in vectors.items()
                }
            },
            {("e", "0"): features},
        )
    )


# Name -> the closed form of takes and labels, and how many takes it is given
FORMS = {
    "statistics": (lambda x, _: FeatureStandardiser(x.shape[2:]).fit(x[0]), 1),
    "channel_lda": (channel_lda, 3),
    "grid_lda": (lambda x, labels: grid_lda(x[0], labels), 1),
    "pca": (lambda x, _: pca_subspaces(x[0], DIMS), 1),
    "random": (lambda x, _: random_subspaces(x[0], DIMS), 1),
    **{name: (rival(name), 1) for name in RIVALS if name != "plda"},
    "all rivals": (
        lambda x, labels: rival_heads(RIVALS, x[0], labels, *BOTH),
        1,
    ),
    "plda": (lambda x, labels: Plda().fit(x[0, :, 0], labels["speaker"]), 1),
    "recordings_source": (
        lambda x, _: recordings_source(
            x[0].numpy(),
            {"content": [x[1].numpy()], "channel": [x[2].numpy()]},
            "speaker",
            [0],
        ),
        3,
    ),
    "leakage": (leakage, 1),
}


def simulate(n_takes, count, dim):
    """Takes [n_takes, count, 1, dim] and labels."""
    random = torch.Generator().manual_seed(0)
    codes = np.divmod(np.arange(count), 200)
    labels = dict(zip(BOTH, codes))
    parts = [
        torch.randn(int(code.max()) + 1, dim, generator=random)
        for code in codes
    ]
    takes = torch.empty(n_takes, count, 1, dim).normal_(generator=random)
    for start in range(0, count, 1000):
        rows = slice(start, start + 1000)
        for part, code in zip(parts, codes):
            takes[0, rows, 0] += part[code[rows]]
        takes[1:, rows] += takes[:1, rows]
    return takes, labels


def gram(takes, dtype):
    """Sums of products of the features, of each take."""
    for take in takes[:, :, 0].numpy():
        take = take.astype(dtype, copy=False)
        take.T @ take


def seconds(function, *given):
    """CPU time."""
    begin = time.process_time()
    function(*given)
    return time.process_time() - begin


def peak():
    """The most memory so far, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name, count, dim):
    """Print the line of one closed form."""
    form, n_takes = FORMS[name]
    takes, labels = simulate(n_takes, count, dim)
    before, found, peaks = peak(), [], []
    for _ in range(REPEATS):
        spent = seconds(form, takes, labels)
        peaks.append(peak() - before)  # the first, without the products
        products = [
            seconds(gram, takes, kind) for kind in (np.float32, np.float64)
        ]
        found.append([spent, *(spent / one for one in products)])
    spent, single, double = np.median(found, axis=0)
    more = peaks[0] / takes.numpy().nbytes
    print(
        f"| {name} | {spent:.1f} | {single:.2f} | {double:.2f} | {more:.2f} |",
        flush=True,
    )


def main(count=100000, dim=768, *names):
    """A process for each closed form."""
    torch.set_num_threads(1)
    if len(names) == 1:
        measure(*names, int(count), int(dim))
        return
    print(
        "| closed form | seconds | float32 | float64 | memory |\n|" + "---|" * 5
    )
    sys.stdout.flush()
    for name in names or FORMS:
        # A process begins with the most memory of its parent.
        command = [sys.executable, __file__, str(count), str(dim), name]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
