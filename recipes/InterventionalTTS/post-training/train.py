#!/usr/bin/env python3
"""Interventional post-training of a frozen speech encoder.

A frozen encoder gives one vector an utterance; a small network is trained on
a grid in which every speaker says every sentence, so that its output falls
into one subspace a factor (Cox and Barker, Interspeech 2026, arXiv
2606.17967). The grid is synthesised (hparams/interventional.yaml) or comes as
a manifest with factor columns (hparams/recorded_grid.yaml).

To run this recipe:
> python train.py hparams/interventional.yaml
> python train.py hparams/recorded_grid.yaml --data_folder FOLDER

The second form reads FOLDER/manifest.csv, or what --manifest gives.
"""

import sys
from functools import partial

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_ext.core import InterventionalBrain
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.dataio.manifest import (
    check_audio,
    factor_labels,
    load_manifest,
    split_manifest,
    subset,
)
from speechbrain_ext.evaluation.systems import (
    closed_form_systems,
    equal_error_thresholds,
    evaluate_systems,
    grid_summary,
    write_report,
)
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.subspaces import FeatureStandardiser, PooledFeatures
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import claim_folder
from speechbrain_ext.utils.hparams import load_hparams

# Beside encoder, network and loss: what makes a training another one.
SETTINGS = (
    *("seed", "manifest", "columns", "split", "grid_factors", "layers"),
    *("augmented_takes", "channel_seed", "factors", "train_block"),
    *("valid_block", "number_of_epochs", "max_lr"),
)


def claim(hparams):
    """A folder holds one run: its checkpoints must not be taken for another."""
    settings = {key: hparams[key] for key in SETTINGS}
    settings["encoder"] = hparams["encoder_model"].identity
    settings["network"] = hparams["network"].config
    settings["loss"] = hparams["loss"].config
    claim_folder(hparams["save_folder"], settings)


def load_data(hparams):
    """The manifest as a dataset whose audio was checked, and its splits."""
    judged = [hparams["verification_factor"], hparams["content_factor"]]
    for factor in hparams["factors"] + judged:
        if factor not in hparams["grid_factors"]:
            raise InputError(
                f"Factor '{factor}' is not one of grid_factors "
                f"({', '.join(hparams['grid_factors'])}): add it there"
            )
    dataset = load_manifest(
        hparams["manifest"],
        hparams["data_folder"],
        hparams["grid_factors"],
        hparams["columns"],
    )
    splits = split_manifest(dataset, **hparams["split"])
    check_audio(
        dataset, hparams["encoder_model"].sample_rate, hparams["resample"]
    )
    return dataset, splits


def extract(hparams, dataset, splits, device, progress):
    """Pooled features as recorded, in augmented takes, and across channels.

    Training and validation utterances get ``augmented_takes`` versions through
    random channels, the test utterances one that no training has seen.
    """
    seed, encoder = hparams["channel_seed"], hparams["encoder_model"]
    channel = partial(hparams["channel"], sample_rate=encoder.sample_rate)
    grid_ids = splits["train"] + splits["valid"]
    wanted = {"clean": (grid_ids + splits["test"], None)}
    for take in range(1, hparams["augmented_takes"] + 1):
        wanted[f"take{take}"] = (grid_ids, channel(seed=seed + take))
    wanted["shifted"] = (splits["test"], channel(seed=seed))

    def run():
        return {
            name: extract_features(
                subset(dataset, ids),
                encoder,
                hparams["cache_folder"],
                name=f"{hparams['encoder_label']}-{name}",
                channel=through,
                device=device,
                progress=progress,
                **hparams["extraction"],
            )
            for name, (ids, through) in wanted.items()
        }

    run_on_main(run)  # the other processes then read what it wrote
    return run()


def make_grids(hparams, dataset, splits, features):
    """Training and validation grid; each augmentation is a further take."""
    factors = hparams["grid_factors"]
    sources = [one for name, one in features.items() if name != "shifted"]
    grids = {}
    for split in ("train", "valid"):
        ids = splits[split]
        rows = [source.select(ids, hparams["layers"]) for source in sources]
        labels = factor_labels(dataset, ids * len(sources), factors)
        grids[split] = GridFeatures(
            torch.cat(rows), Grid(labels, f"{split} grid")
        )
    return grids


def fit(brain, hparams, grids):
    """Train the network on blocks of the training grid."""
    blocks = {
        split: BlockSampler(
            grids[split].grid,
            hparams[f"{split}_block"],
            seed=hparams["seed"],
            shuffle=split == "train",
            multiple_of=brain.blocks_multiple() if split == "train" else 1,
        )
        for split in grids
    }
    brain.raw_network().fit_statistics(grids["train"].features)
    brain.fit_grid(
        hparams["epoch_counter"],
        grids["train"],
        grids["valid"],
        blocks["train"],
        blocks["valid"],
    )


def make_systems(hparams, network, grids, training):
    """The baselines, the network, and closed forms on the same grid."""
    grid = grids["train"]
    labels = {f: grid.grid.labels(f) for f in hparams["factors"]}
    return {
        "baseline": PooledFeatures(network.subspaces),
        "baseline_standardised": PooledFeatures(
            network.subspaces,
            FeatureStandardiser(training.shape[1:]).fit(training),
        ),
        hparams["system_name"]: network,
    } | closed_form_systems(
        grid.features, labels, hparams["subspace_widths"], hparams["seed"]
    )


def evaluate(hparams, systems, dataset, splits, features):
    """All systems on the test utterances: table, JSON, plots."""
    factors, ids = hparams["grid_factors"], splits["test"]
    labels = factor_labels(dataset, ids, factors)
    evaluated, scored = evaluate_systems(
        systems,
        {
            condition: features[condition].select(ids, hparams["layers"])
            for condition in ("clean", "shifted")
        },
        labels[hparams["verification_factor"]],
        labels[hparams["content_factor"]],
    )
    grid = grid_summary(factor_labels(dataset, splits["train"], factors))
    results = {
        "encoder": hparams["encoder_label"],
        "encoder_identity": hparams["encoder_model"].identity,
        "layers": hparams["layers"],
        "seed": hparams["seed"],
        "grid": grid | {"augmented_takes": hparams["augmented_takes"]},
        "test_grid": grid_summary(labels),
        "systems": evaluated,
    }
    write_report(hparams["output_folder"], results, scored)


def export(hparams, systems, valid):
    """Network and closed forms as folders that inference loads."""
    labels = {f: valid.grid.labels(f) for f in valid.grid.factors}
    for name, system in systems.items():
        if not hasattr(system, "config"):  # the baselines need no head
            continue
        folder = (
            "export" if name == hparams["system_name"] else f"export_{name}"
        )
        export_subspaces(
            f"{hparams['output_folder']}/{folder}",
            hparams["encoder_model"],
            system,
            hparams["layers"],
            name=name,
            seed=hparams["seed"],
            thresholds=equal_error_thresholds(system, valid.features, labels),
        )


def main(arguments):
    """The whole job: prepare, extract, train, evaluate, export."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    run_on_main(claim, args=[hparams])
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    if "prepare" in hparams:
        run_on_main(hparams["prepare"])
    dataset, splits = load_data(hparams)

    brain = InterventionalBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    features = extract(
        hparams, dataset, splits, brain.device, not brain.noprogressbar
    )
    grids = make_grids(hparams, dataset, splits, features)
    fit(brain, hparams, grids)

    brain.load_checkpoint(hparams["checkpoint"])
    if if_main_process():
        training = features["clean"].select(splits["train"], hparams["layers"])
        systems = make_systems(hparams, brain.raw_network(), grids, training)
        evaluate(hparams, systems, dataset, splits, features)
        export(hparams, systems, grids["valid"])


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
