"""Closed forms on many utterances: time against Gram products, and memory.

    python tests/benchmarks/closed_forms.py [UTTERANCES [DIM [NAMES...]]]

For 100,000 utterances of dimension 768, in float32 and in memory; speakers x
sentences, 200 utterances of each speaker; for ``channel_lda`` also in two takes
through channels, for ``recordings_source`` in two interventions; ``leakage`` in
256 dimensions, unless a dimension is given. Each closed form has a process of
its own, in which it is measured by turns (3 rounds) with products ``X.T @ X``
of as many takes (of leakage: of its vectors), in float32 and in float64. Memory
(resident set) is what the form takes beside its input, in units of it.
"""

import clock
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


def of_form(name, count, dim):
    """The row of one closed form, in a fresh process."""
    form, n_takes = FORMS[name]
    takes, labels = simulate(n_takes, count, dim)
    taken = clock.peak(lambda: form(takes, labels))
    measured = {
        "form": lambda: form(takes, labels),
        "float32": lambda: gram(takes, np.float32),
        "float64": lambda: gram(takes, np.float64),
    }
    times = clock.by_turns(measured, REPEATS)
    spent = times.pop("form")
    return {
        "float32 products": clock.spread(spent / times["float32"]),
        "memory": taken / takes.numpy().nbytes,
        "float64 products": clock.spread(spent / times["float64"]),
        "CPU s": np.median(spent),
    }


def measure(count=100_000, dim=None, *names):
    """A row for each closed form."""
    found = {}
    for name in names or FORMS:
        own = dim or (256 if name == "leakage" else 768)
        row = clock.fresh(of_form, name, count, own)
        found[f"{name}, {count:,} x {own}"] = row
    return found


if __name__ == "__main__":
    clock.main(measure)
