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

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_ext.core import InterventionalBrain
from speechbrain_ext.dataio.feature_cache import (
    extract_conditions,
    grid_features,
    takes_of,
)
from speechbrain_ext.dataio.grid import BlockSampler
from speechbrain_ext.dataio.manifest import (
    check_audio,
    factor_labels,
    load_manifest,
    split_manifest,
)
from speechbrain_ext.evaluation.systems import (
    baseline_systems,
    closed_form_systems,
    evaluate_systems,
    grid_summary,
    write_report,
)
from speechbrain_ext.inference.export import export_systems
from speechbrain_ext.lobes.encoders import choose_layers, suit_head
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import claim_folder, digest
from speechbrain_ext.utils.hparams import load_hparams

# Beside data, encoder, heads and loss: what makes a run another one.
SETTINGS = (
    *("seed", "layers", "augmented_takes", "network_takes", "channel_seed"),
    *("factors", "train_block", "valid_block", "number_of_epochs"),
    "max_grad_norm",
)


def claim(hparams, dataset, splits):
    """A folder holds one run: its checkpoints must not be taken for another."""
    settings = {key: hparams[key] for key in SETTINGS}
    settings["encoder"] = hparams["encoder_model"].identity
    settings["network"] = hparams["network"].config
    settings["loss"] = hparams["loss"].config
    for key in ("channel", "opt_class", "lr_scheduler", "recommended"):
        settings[key] = getattr(hparams[key], "keywords", {})
    for split, ids in splits.items():
        labels = factor_labels(dataset, ids, hparams["grid_factors"])
        settings[f"{split}_data"] = digest([ids, labels])
    claim_folder(hparams["save_folder"], settings)


def check_options(hparams):
    """Refuse options that would only fail, or be ignored, later on."""
    judged = [hparams["verification_factor"], hparams["content_factor"]]
    for factor in hparams["factors"] + judged:
        if factor not in hparams["grid_factors"]:
            raise InputError(
                f"Factor '{factor}' is not one of grid_factors "
                f"({', '.join(hparams['grid_factors'])}): add it there"
            )
    if hparams["network_takes"] > hparams["augmented_takes"]:
        raise InputError(
            f"network_takes is {hparams['network_takes']}, and augmented_takes "
            f"{hparams['augmented_takes']}: give at most as many"
        )
    names = [hparams["system_name"]]
    names += ["recommended"] if hparams["recommended"] else []
    if hparams["exported"] not in names:
        raise InputError(
            f"exported is '{hparams['exported']}': expected "
            f"{' or '.join(names)}"
        )


def load_data(hparams):
    """The manifest as a dataset whose audio was checked, and its splits."""
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
    """Pooled features as recorded, in augmented takes, and across channels."""
    needed = "augmented_takes" if hparams["recommended"] else "network_takes"

    def run():
        return extract_conditions(
            dataset,
            splits,
            hparams["encoder_model"],
            hparams["channel"],
            hparams[needed],
            hparams["network_takes"],
            hparams["channel_seed"],
            label=hparams["encoder_label"],
            cache_folder=hparams["cache_folder"],
            device=device,
            progress=progress,
            **hparams["extraction"],
        )

    run_on_main(run)  # the other processes then read what it wrote
    return run()


def make_grids(hparams, dataset, splits, features):
    """Training and validation grid of the network, with its takes."""
    return {
        split: grid_features(
            dataset,
            splits[split],
            takes_of(features)[: 1 + hparams["network_takes"]],
            hparams["grid_factors"],
            hparams["layers"],
            f"{split} grid",
        )
        for split in ("train", "valid")
    }


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


def make_systems(hparams, network, grid, takes):
    """The baselines, the network, the recommended head, other closed forms.

    The recommended head is fitted to takes [takes, utterances, layers, dim],
    the training utterances as recorded and through channels; the other closed
    forms are fitted to what the network was trained on.
    """
    labels = {f: grid.grid.labels(f) for f in hparams["factors"]}
    systems = baseline_systems(network.subspaces, takes[0])
    if hparams["number_of_epochs"] > 0:
        systems[hparams["system_name"]] = network
    if hparams["recommended"]:
        recorded = {f: values[: takes.shape[1]] for f, values in labels.items()}
        systems["recommended"] = hparams["recommended"](takes, recorded)
    return systems | closed_form_systems(
        grid.features, labels, hparams["subspace_widths"], hparams["seed"]
    )


def evaluate(hparams, systems, dataset, splits, features):
    """All systems on the test utterances: table, JSON, plots; the results."""
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
    takes = ("augmented_takes", "network_takes")
    results = {
        "encoder": hparams["encoder_label"],
        "encoder_identity": hparams["encoder_model"].identity,
        "layers": hparams["layers"],
        "seed": hparams["seed"],
        "grid": grid | {key: hparams[key] for key in takes},
        "test_grid": grid_summary(labels),
        "recommended": getattr(hparams["recommended"], "keywords", None),
        "systems": evaluated,
    }
    write_report(hparams["output_folder"], results, scored)
    return results


def main(arguments):
    """The whole job: prepare, extract, train, evaluate, export."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    encoder, head = hparams["encoder_model"], hparams["recommended"]
    hparams["layers"] = choose_layers(encoder, hparams["layers"])
    hparams["recommended"] = suit_head(encoder, head)
    check_options(hparams)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    if "prepare" in hparams:
        run_on_main(hparams["prepare"])
    dataset, splits = load_data(hparams)
    run_on_main(claim, args=[hparams, dataset, splits])

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
    if hparams["number_of_epochs"] > 0:  # else: baselines, closed forms only
        fit(brain, hparams, grids)
        brain.load_checkpoint(hparams["checkpoint"])
    if if_main_process():
        takes = torch.stack(
            [
                take.select(splits["train"], hparams["layers"])
                for take in takes_of(features)
            ]
        )
        systems = make_systems(
            hparams, brain.raw_network(), grids["train"], takes
        )
        results = evaluate(hparams, systems, dataset, splits, features)
        export_systems(
            hparams["output_folder"],
            systems,
            hparams["exported"],
            hparams["encoder_model"],
            hparams["layers"],
            hparams["seed"],
            grids["valid"],
            results,
        )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
