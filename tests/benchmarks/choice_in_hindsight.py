#!/usr/bin/env python3
"""How far the choice of layers and shrinkage is from the best in hindsight.

Every candidate of a training (runs of layers x shrinkages, and with unlabelled
recordings x weights of the grid) is fitted and judged on labelled recordings,
which the choice has not seen:

> python choice_in_hindsight.py OPTION_FILE [options of train.py] -- \\
      NAME=FOLDER[:SPLIT[:COLUMN]] [NAME=...]

A FOLDER has a manifest.csv with the columns speaker and content; COLUMN is
another heading of the content. Heads of the grid alone are standardised with
the utterances that are not judged, or where there are fewer than 50 with the
judged ones, through the same channels; heads of recordings with these.
"""

import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from tabulate import tabulate

sys.path.insert(
    0,
    str(Path(__file__).parents[2] / "recipes/InterventionalTTS/post-training"),
)

from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.feature_plans import encode_planned
from speechbrain_ext.dataio.manifest import factor_labels, load_manifest
from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.verification import equal_error_rate
from speechbrain_ext.processing.choice import layer_runs
from speechbrain_ext.processing.discriminants import (
    grid_source,
    source_directions,
)
from speechbrain_ext.utils.hparams import load_hparams, parse_arguments
from speechbrain_ext.utils.options import as_list

CHANNELS = 7000  # seed of the channels that judge


class Judged:
    """Labelled recordings, and what heads of some layers do on them."""

    def __init__(self, given, encoder, channel, options):
        self.name, _, rest = given.partition("=")
        folder, split, column = (rest.split(":") + ["", ""])[:3]
        dataset = load_manifest(
            f"{folder}/manifest.csv",
            folder,
            ["speaker", "content"],
            {"content": column} if column else {},
        )
        ids = [
            key
            for key, row in dataset.data.items()
            if not split or row["split"] == split
        ]
        others = [key for key in dataset.data if key not in set(ids)]
        self.ids, self.statistics = ids, others if len(others) > 50 else ids
        self.labels = factor_labels(dataset, ids, ["speaker", "content"])
        self.trials = generate_trials(
            *self.labels.values(), max_targets=100_000, max_nontargets=200_000
        )
        seeds = {"recorded": None, "channels": channel(seed=CHANNELS)}
        self.features = {
            condition: extract_features(
                dataset,
                encoder,
                name=f"{self.name}-{condition}",
                channel=through,
                **options,
            )
            for condition, through in seeds.items()
        }
        # Words of one speaker each cannot be told on others.
        pairs = {*zip(*self.labels.values(), strict=True)}
        self.has_words = len(pairs) > 1.5 * len(set(self.labels["content"]))

    def __call__(self, factor, layers, directions, moments=None):
        """Error in % as recorded and across channels, lower is better."""
        for condition, features in self.features.items():
            if factor == "content" and not self.has_words:
                continue
            if moments is None:
                own = features.select(self.statistics, layers)
                mean, std = own.mean(dim=0).numpy(), own.std(dim=0).numpy()
            else:
                mean, std = moments
            vectors = features.select(self.ids, layers).numpy()
            vectors = ((vectors - mean) / std).reshape(len(vectors), -1)
            vectors = (vectors @ directions.T).astype(np.float32)
            if factor == "speaker":
                scores = self.trials.score(vectors)
                error = equal_error_rate(scores, self.trials.label)[0]
            else:
                words, speakers = self.labels["content"], self.labels["speaker"]
                error = 1 - linear_probe(vectors, words, speakers).mean()
            yield (f"{self.name}, {condition}", 100 * float(error))


def on_grid(hparams, factor, select, labels, judged, runs):
    """Errors of all candidates of the grid alone."""
    choice, weight = hparams["choice"], hparams["recommended"].keywords
    for layers in runs:
        source = grid_source(select(layers)[0], {factor: labels[factor]})
        for shrinkage in choice.shrinkages:
            directions = source_directions(
                [source],
                [1.0],
                factor,
                None,
                max(as_list(choice.dims[factor])),
                shrinkage,
                weight["channel_weight"],
            )
            found = (one(factor, layers, directions) for one in judged)
            yield (tuple(layers), shrinkage), dict(itertools.chain(*found))


def on_recordings(hparams, factor, select, labels, judged, runs, views):
    """Errors of all candidates of the grid with recordings."""
    adaptation = dataclasses.replace(hparams["adaptation"], layers=None)
    rows = np.arange(len(views["recorded"].ids))
    for layers in runs:
        grid = grid_source(select(layers)[0][:1], {factor: labels[factor]})
        own = adaptation._source(views, layers, [factor], rows)
        for weight, shrinkage, dims in itertools.product(
            adaptation.weights,
            adaptation.shrinkages,
            as_list(adaptation.dims[factor]),
        ):
            key = dict(weight=weight, shrinkage=shrinkage, dims=dims)
            directions = adaptation._directions([grid, own], factor, key)
            moments = own.mean, own.std
            found = (one(factor, layers, directions, moments) for one in judged)
            key = tuple(layers), shrinkage, weight, len(directions)
            yield key, dict(itertools.chain(*found))


def chosen_on_recordings(hparams, factor, select, labels, views, layers):
    """Candidate that the recordings choose, on layers that they chose."""
    adaptation = dataclasses.replace(hparams["adaptation"], layers=None)
    halves = adaptation._halves(len(views["recorded"].ids))
    grid = grid_source(select(layers)[0][:1], {factor: labels[factor]})
    halved = [
        [grid, adaptation._source(views, layers, [factor], half)]
        for half in halves
    ]
    held_out = adaptation._held_out(factor, halved, halves, views, layers)
    choice = adaptation._choose(factor, held_out, True)
    names = ("shrinkage", "weight", "dims")
    return tuple(layers), *(choice[name] for name in names)


def prepare(arguments):
    """What train.py would fit to, and the recordings that judge it.

    Returns
    -------
    hparams : dict
        Options of the training.
    select : callable
        Layers -> takes of the training grid, and nothing.
    labels : dict
        Factor -> its value for each utterance of the grid.
    views : dict
        Views of the unlabelled recordings, as of ``Adaptation.plan``.
    judged : list of Judged
        The recordings.
    chosen : dict
        Factor -> what train.py chooses.
    """
    import train
    from option_table import TRAIN

    cut = arguments.index("--")
    file, run_opts, overrides = parse_arguments(arguments[:cut])
    hparams = load_hparams(file, overrides, TRAIN, None)
    encoder = hparams["encoder_model"]
    if "prepare" in hparams:
        hparams["prepare"]()
    dataset, splits, _ = train.dataio_prep(hparams, run_opts)
    options = {
        "cache_folder": hparams["cache_folder"],
        "progress": False,
        **hparams["extraction"],
    }
    brain = SimpleNamespace(device=run_opts.device, noprogressbar=True)
    unlabelled = train.find_unlabelled(hparams, False)
    planned, views = train.plan_features(
        hparams, brain, dataset, splits, unlabelled
    )
    features = encode_planned(planned)
    # As in a training, the last ones choose.
    views = [{}, *map(encode_planned, views.values())][-1]
    channel = functools.partial(
        hparams["channel"], sample_rate=encoder.sample_rate
    )
    judged = [
        Judged(given, encoder, channel, options)
        for given in arguments[cut + 1 :]
    ]
    takes = train.takes_of(features)
    labels = factor_labels(dataset, splits["train"], hparams["factors"])

    def select(layers):
        train_takes = [take.select(splits["train"], layers) for take in takes]
        return torch.stack(train_takes), None

    chosen = train.choose(hparams, dataset, splits, features, views)
    return hparams, select, labels, views, judged, chosen


def main(arguments):
    """Print a table of chosen and best candidates."""
    hparams, select, labels, views, judged, chosen = prepare(arguments)
    layers = list(range(hparams["encoder_model"].n_layers))
    runs = layer_runs(layers, hparams["choice"].most_layers)
    table = []
    for factor, choice in chosen.items():
        given = hparams, factor, select, labels
        if views:
            errors = dict(on_recordings(*given, judged, runs, views))
            taken = chosen_on_recordings(*given, views, choice["layers"])
        else:
            errors = dict(on_grid(*given, judged, runs))
            taken = tuple(choice["layers"]), choice["shrinkage"]
        for test in errors[taken]:
            best = min(errors, key=lambda one: errors[one][test])
            mine, least = errors[taken][test], errors[best][test]
            more = f"{100 * (mine / least - 1):+.1f} %" if least else ""
            row = [factor, test, _name(taken), mine, _name(best), least, more]
            table.append(row)
    headings = "factor|judged on|chosen|error %|best|error %|more".split("|")
    print(f"\n{hparams['encoder_label']}, {len(errors)} candidates\n")
    print(tabulate(table, headings, "github", floatfmt=".2f"))


def _name(candidate):
    """Layers, shrinkage, weight and dimensions of a candidate."""
    layers, *others = candidate
    return " / ".join(["+".join(map(str, layers)), *map(str, others)])


if __name__ == "__main__":
    main(sys.argv[1:])
