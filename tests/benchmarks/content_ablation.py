#!/usr/bin/env python3
"""Which closed form keeps the words and loses the speakers, on recordings.

Content subspaces of the layers that are chosen: directions of a labelled grid,
of interventions on unlabelled recordings, of both, and what is left when the
speaker is erased (LEACE, least-squares concept erasure, arXiv 2306.03819). Of
each, what linear probes read on recordings: words on other speakers, speakers
on other words. Arguments as of choice_in_hindsight.py, with --unlabelled:

> python content_ablation.py OPTION_FILE --unlabelled=FOLDER ... -- NAME=FOLDER
"""

import dataclasses
import sys

import numpy as np
from choice_in_hindsight import prepare
from scipy.linalg import eigh
from tabulate import tabulate

from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.processing.discriminants import (
    grid_source,
    source_directions,
)
from speechbrain_ext.processing.rivals import erasure

DIMS = (40, 63, 100, 150)
SHRINKAGE = 0.3


def subspaces(select, labels, adaptation, views, layers):
    """Name and directions [d, D] of each row, for standardised recordings."""
    adaptation = dataclasses.replace(adaptation, layers=None)
    rows = np.arange(len(views["recorded"].ids))

    def recordings(*factors):
        """What interventions on some factors tell of the content."""
        some = {name: adaptation.interventions[name] for name in factors}
        some = dataclasses.replace(adaptation, interventions=some)
        return some._source(views, layers, ["content", "speaker"], rows)

    own = recordings("content", "speaker", "channel")
    grid = grid_source(select(layers)[0], labels)
    total = own.between["speaker"]
    with_others = dataclasses.replace(
        own, within={"content": own.within["content"] + total}
    )
    for name, sources in {
        "grid: its contents": [grid],
        "recordings: crop, less channel": [recordings("content", "channel")],
        "recordings: crop, less voice and channel": [own],
        "recordings: crop, less voice, channel and others": [with_others],
        "grid and recordings": [grid, own],
    }.items():
        # The last one gives the units, and here nothing else.
        sources = [*sources, dataclasses.replace(own, between={})]
        found = source_directions(
            sources, [1.0] * len(sources), "content", None, None, SHRINKAGE
        )
        for dims in DIMS:
            if dims <= len(found):
                yield name, found[:dims]
    # Erasure: the offset of a voice is what stays when the content changes.
    units = np.outer(own.std.ravel(), own.std.ravel())
    stays = total - own.between["content"] / 2
    for name, every, between in (
        ("erased: speakers of the grid", total, grid.between["speaker"]),
        ("erased: recordings, as their crops tell", total, stays),
    ):
        left = erasure(every / units, _positive(between) / units)
        yield name, np.concatenate(left)


def _positive(covariance):
    """The same without negative directions, which an estimate may have."""
    values, axes = eigh(covariance)
    return axes * np.where(values > 1e-3 * values[-1], values, 0.0) @ axes.T


def main(arguments):
    """Print a table for each set of recordings."""
    hparams, select, labels, views, judged, chosen = prepare(arguments)
    layers = chosen["content"]["layers"]
    named = [
        ("pooled features of these layers", None),
        *subspaces(select, labels, hparams["adaptation"], views, layers),
    ]
    for one in judged:
        table = []
        for name, directions in named:
            row = [name]
            for condition, features in one.features.items():
                own = features.select(one.statistics, layers)
                vectors = (features.select(one.ids, layers) - own.mean(0)) / (
                    own.std(0) + 1e-9
                )
                vectors = vectors.flatten(1).numpy()
                if directions is not None:
                    vectors = vectors @ directions.T
                words, speakers = one.labels["content"], one.labels["speaker"]
                row += [100 * linear_probe(vectors, words, speakers).mean()]
                if condition == "recorded":
                    told = linear_probe(vectors, speakers, words).mean()
                    row[1:1] = [vectors.shape[1], 100 * told]
            table.append(row)
        print(f"\n{hparams['encoder_label']}, layers {layers}, {one.name}\n")
        headings = "subspace|dims|speaker %|words %|across channels".split("|")
        print(tabulate(table, headings, "github", floatfmt=".1f"))


if __name__ == "__main__":
    main(sys.argv[1:])
