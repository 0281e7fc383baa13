#!/usr/bin/env python3
"""What every layer of some encoders knows of keywords and speakers.

Measured on real recordings, of the standardised pooled features and after
post-training with the recommended head on the default synthetic grid.

To run this recipe:
> python evaluate.py hparams/evaluate.yaml \
      --keywords='{arabic: FOLDER}' --speakers='{ocean: FOLDER}' \
      --encoders='{mini: {name: mini}, log_mel: {name: log_mel}}'

Writes results.csv, results.json and report.txt into the output folder.
"""

import dataclasses
import sys
import time
from collections import Counter

import numpy as np
import torch

import speechbrain as sb
from speechbrain.dataio.batch import PaddedBatch
from speechbrain_ext.dataio import manifest, splits
from speechbrain_ext.dataio.audio import AudioDataset, check_audio
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.evaluation import report, results, systems, tasks
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.processing.choice import RULES as CHOICE
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import write_text
from speechbrain_ext.utils.hparams import load_hparams, parse_arguments
from speechbrain_ext.utils.options import (
    check_run_options,
    folder,
    list_of,
    mapping,
    number,
    text,
    whole,
)

FACTORS = ["speaker", "content"]
INDEX = ["data", "encoder", "layers", "system"]
# Condition -> what is added to the seed of the random channels.
CONDITIONS = {"recorded": None, "channels": 0}
# Task -> measures that are shown.
TABLES = {
    "verification": ("eer",),
    "leakage": ("accuracy", "balanced_accuracy"),
    "": ("parameters", "megabytes", "times_real_time"),
}

ENCODER = {"name", "source", "revision", "pooling", "overrides"}
RULES = {
    "output_folder": folder(),
    "seed": whole(0),
    "min_clips": whole(1),
    "probe_folds": whole(2),
    "max_trials": whole(1),
    "augmented_takes": whole(0),
    "unheard_splits": list_of(text(), 0),
    "encoders": (
        lambda given: all(
            {"name"} <= {*one} <= ENCODER
            for one in given.values()
            if one is not None
        ),
        "{label: null, or name and perhaps source, revision, pooling, "
        "overrides}",
    ),
    "head": (
        lambda given: set(given) == {"dims", "channel_weight"},
        "dims and channel_weight; the shrinkage is chosen",
    ),
    "head.dims": mapping(FACTORS, whole(1)),
    "head.channel_weight": number(0),
    "choice": mapping(["shrinkages"], CHOICE["shrinkages"]),
}


class KeywordProbe(tasks.Task):
    """Does a linear probe tell words, on speakers that it has not seen?

    Arguments
    ---------
    dataset : DynamicItemDataset
        Recordings with speaker and content.
    folds : int
        Of the cross-validation over the speakers.
    unheard_splits : list of str
        Splits whose accuracy is given by itself too, as that of a group.
    """

    name, measure = "leakage", "accuracy"

    def __init__(self, dataset, folds, unheard_splits):
        super().__init__("content", None)
        self.columns["backend"] = "linear probe"
        rows = dataset.data.values()
        self.words = np.array([row["content"] for row in rows])
        self.speakers = [row["speaker"] for row in rows]
        splits = [row.get("split", "") for row in rows]
        self.unheard = np.isin(splits, unheard_splits)
        self.folds = folds

    def __call__(self, embedded):
        """Rows of all subspaces."""
        rows = []
        for origin, vectors in embedded.vectors["test"].items():
            correct = linear_probe(
                vectors, self.words, self.speakers, self.folds
            )
            words = [self.words == word for word in np.unique(self.words)]
            for measure, group, values in (
                ("accuracy", "", correct),
                ("balanced_accuracy", "", [correct[w].mean() for w in words]),
                ("accuracy", "unheard", correct[self.unheard]),
            ):
                if len(values):
                    value, count = float(np.mean(values)), len(values)
                    columns = {"group": group, "n": count}
                    rows += self.rows(measure, {origin: value}, **columns)
        return rows


def load_recordings(folder, factors, split=None):
    """Recordings whose audio was checked, as a dataset."""
    dataset = manifest.load_manifest(f"{folder}/manifest.csv", folder, factors)
    dataset = manifest.subset(dataset, splits.in_split(dataset, split))
    check_audio(dataset)
    return dataset


def load_keywords(hparams, folder):
    """Recordings of words of which there are enough clips, and their task."""
    dataset, least = load_recordings(folder, FACTORS), hparams["min_clips"]
    words = {key: row["content"] for key, row in dataset.data.items()}
    clips = Counter(words.values())
    frequent = [key for key, word in words.items() if clips[word] >= least]
    if not frequent:
        raise InputError(f"{folder}: no word has {least} clips (min_clips)")
    dataset = manifest.subset(dataset, frequent)
    return dataset, KeywordProbe(
        dataset, hparams["probe_folds"], hparams["unheard_splits"]
    )


def load_speakers(hparams, folder):
    """Recordings of speakers, and their task: pairs of different content."""
    dataset = load_recordings(folder, ["speaker"])
    rows = dataset.data.items()
    trials = generate_trials(
        [row["speaker"] for _, row in rows],
        # What is said, where it is known: of sentences often as text.
        [row.get("content", row.get("text", key)) for key, row in rows],
        max_targets=hparams["max_trials"],
        max_nontargets=hparams["max_trials"],
        seed=hparams["seed"],
    )
    return dataset, tasks.Verification("speaker", trials)


def pool(hparams, encoder, dataset, name, take):
    """Features [N, layers, dim], as recorded or through channels of a take."""
    channel = None
    if take is not None:
        channel = hparams["channel"](
            seed=hparams["channel_seed"] + take, sample_rate=encoder.sample_rate
        )
    options = {"name": name, "channel": channel} | hparams["extraction"]
    cache = hparams["cache_folder"]
    features = extract_features(dataset, encoder, cache, **options)
    return features.select(list(dataset.data))


def fit_heads(hparams, label, encoder, grid, valid):
    """The recommended head on each layer, and what was chosen for it.

    Fitted to the training grid, and shrunk as is best on the validation
    voices, through random channels.
    """
    takes = torch.stack(
        [
            pool(hparams, encoder, grid, f"{label}-grid-{take}", take or None)
            for take in range(1 + hparams["augmented_takes"])
        ]
    )
    heard = pool(hparams, encoder, valid, f"{label}-valid", 1)
    labels, known = (
        manifest.factor_labels(part, list(part.data), FACTORS)
        for part in (grid, valid)
    )
    most = hparams["max_trials"]
    trials = systems.threshold_trials(known, FACTORS, most=most)
    head, heads, chosen = hparams["head"], [], []
    dims, weight = head.keywords["dims"], head.keywords["channel_weight"]
    choice = dataclasses.replace(hparams["choice"], dims=dims)
    for layer in range(encoder.n_layers):
        best = choice.on_grid(
            lambda layers: (takes[:, :, layers], heard[:, layers]),
            labels,
            trials,
            dict.fromkeys(FACTORS, [[layer]]),
            weight,
        )
        shrinkage = {factor: one["shrinkage"] for factor, one in best.items()}
        heads.append(head(takes[:, :, [layer]], labels, shrinkage=shrinkage))
        chosen.append(best)
    return heads, chosen


def measure(hparams, label, encoder, heads, name, dataset, task):
    """Rows of all layers of an encoder on one set of recordings."""
    rows = []
    for condition, take in CONDITIONS.items():
        cache = f"{label}-{name}-{condition}"
        features = pool(hparams, encoder, dataset, cache, take)
        for layer, head in enumerate(heads):
            pooled, origin = features[:, [layer]], (label, str(layer))
            # All statistics are those of the recordings themselves.
            baseline = systems.baseline_heads(pooled)["baseline_standardised"]
            plain = systems.embed(baseline, pooled)["pooled"]
            moved = systems.adapted(head, pooled)
            known = systems.embed(moved, pooled)[task.factor]
            vectors = {
                results.Subspace("baseline_standardised", "", *origin): plain,
                results.Subspace("recommended", task.factor, *origin): known,
            }
            embedded = tasks.Embedded(condition, {"test": vectors})
            rows += tasks.run_tasks([task], embedded, data=name)
    return rows


def measure_size(label, encoder, name, dataset):
    """Rows of parameters, their bytes in half precision, and speed."""
    audio = AudioDataset(dataset, encoder.sample_rate)
    wavs = [audio[number]["sig"] for number in range(min(48, len(audio)))]
    items = [{"sig": wav} for wav in sorted(wavs, key=len)]
    loader = torch.utils.data.DataLoader(items, 16, collate_fn=PaddedBatch)
    batches = [batch.sig for batch in loader]
    encoder(*batches[0])  # the first call is slower
    began = time.perf_counter()
    for batch in batches:
        encoder(*batch)
    taken = time.perf_counter() - began
    count = sum(parameter.numel() for parameter in encoder.parameters())
    seconds = sum(map(len, wavs)) / encoder.sample_rate
    values = (count, 2 * count / 1e6, seconds / taken)
    return [
        results.make_row(encoder=label, data=name, measure=size, value=value)
        for size, value in zip(TABLES[""], values)
    ]


def heading(row):
    """Title of a column of the tables."""
    return f"{row['group']} {report.heading(row)}".strip()


def main(arguments):
    """Load the recordings, measure the encoders, report."""
    # Options
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts, trains=False)
    hparams = load_hparams(hparams_file, overrides, RULES)
    folder = hparams["output_folder"]
    sb.create_experiment_directory(folder, hparams_file, overrides)

    # Recordings
    sets = [
        (name, *load(hparams, where))
        for load, folders in (
            (load_speakers, hparams["speakers"]),
            (load_keywords, hparams["keywords"]),
        )
        for name, where in folders.items()
    ]
    if not sets:
        raise InputError("No recordings: give --keywords or --speakers")

    # Grid
    hparams["prepare"]()
    grid, valid = (
        load_recordings(hparams["data_folder"], FACTORS, split)
        for split in ("train", "valid")
    )

    # Encoders
    rows, lines, about = [], [], {"threads": torch.get_num_threads()}
    used = {k: v for k, v in hparams["encoders"].items() if v is not None}
    for label, options in used.items():
        encoder = load_encoder(**options)
        rows += measure_size(label, encoder, *sets[0][:2])
        heads, chosen = fit_heads(hparams, label, encoder, grid, valid)
        about[label] = {"encoder": encoder.identity, "chosen": chosen}
        about[label]["head"] = hparams["head"].keywords
        lines += [
            f"{label}, {report.choice_line(*one)}"
            for best in chosen
            for one in best.items()
        ]
        for one in sets:
            rows += measure(hparams, label, encoder, heads, *one)

    # Results
    results.write_results(folder, rows, about)
    tables = [
        results.pivot(results.select(rows, task=task), INDEX, heading, measures)
        for task, measures in TABLES.items()
    ]
    text = "\n\n".join(filter(None, [*tables, "\n".join(lines)]))
    write_text(f"{folder}/report.txt", text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
