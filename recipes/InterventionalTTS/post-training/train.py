#!/usr/bin/env python3
"""Interventional post-training of a frozen speech encoder.

A frozen encoder gives one vector per utterance. On a grid in which every
speaker says every sentence, two heads are fitted that map this vector to one
subspace per factor: a network, trained by a multi-part contrastive loss (Cox
and Barker, Interspeech 2026, arXiv 2606.17967), and a closed form that has also
heard random channels. The grid is synthesised (hparams/interventional.yaml) or
comes as a manifest with factor columns (hparams/recorded_grid.yaml).

To run this recipe:
> python train.py hparams/interventional.yaml
> python train.py hparams/recorded_grid.yaml --data_folder FOLDER

The second form reads FOLDER/manifest.csv, or what --manifest gives.
"""

import functools
import os
import sys

import torch

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.feature_cache import (
    audio_digests,
    extract_conditions,
)
from speechbrain_ext.dataio.grid import (
    BlockSampler,
    GridFeatures,
    grid_features,
)
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    load_manifest,
    split_manifest,
)
from speechbrain_ext.evaluation import plots, report, results, systems, tasks
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.inference.model_card import model_card
from speechbrain_ext.lobes.encoders import choose_layers
from speechbrain_ext.lobes.subspaces import BaselineHead
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import claim_folder, digest
from speechbrain_ext.utils.hparams import describe, load_hparams, run_label
from speechbrain_ext.utils.options import check_options, one_of, some_of, whole

# Beside data, encoder, heads and loss: what makes a run another one.
SETTINGS = (
    *("seed", "layers", "augmented_takes", "network_takes", "channel_seed"),
    *("factors", "train_block", "valid_block", "number_of_epochs"),
)
RUN_OPTIONS = ("max_grad_norm", "grad_accumulation_factor", "precision")
OTHER_HEADS = ("baseline", "baseline_standardised", "recommended", "grid_lda")
OTHER_HEADS += ("pca", "random_projection")
# What results.json says of a run, beside grid and encoder.
ABOUT = ("layers", "seed", "factors", "augmented_takes", "network_takes")


class InterventionalBrain(sb.Brain):
    """Trains the network on blocks of pooled features."""

    def compute_forward(self, batch, stage):
        """Features of a block, [B, layers, dim] -> subspaces, [B, D] each."""
        features, _ = batch
        return self.modules.network(features.to(self.device))

    def compute_objectives(self, predictions, batch, stage):
        """Contrastive loss of each factor in its subspace + orthogonality."""
        codes = {f: code.to(self.device) for f, code in batch[1].items()}
        loss, parts = self.hparams.loss(predictions, codes)
        for name, value in parts.items():
            self.parts.setdefault(name, []).append(value)
        return loss

    def init_optimizers(self):
        """The optimiser, and the learning rate's schedule over all steps."""
        super().init_optimizers()
        self.scheduler = self.hparams.lr_scheduler(
            self.optimizer, total_steps=self.total_steps
        )
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("scheduler", self.scheduler)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The learning rate follows its schedule step by step."""
        if should_step and self.scheduler.last_epoch + 1 < self.total_steps:
            self.scheduler.step()

    def on_stage_start(self, stage, epoch=None):
        """Start the means of a stage."""
        self.parts = {}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, keep the last and the best checkpoint."""
        stats = {"loss": stage_loss} | {
            name: torch.stack(values).mean().item()
            for name, values in self.parts.items()
        }
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]},
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.checkpointer.save_and_keep_only(
            meta={"excess": stats["excess"], "epoch": epoch},
            min_keys=["excess"],
        )

    def fit_grids(self, train, valid):
        """Train on blocks of one grid, validate on blocks of another.

        Arguments
        ---------
        train, valid : GridFeatures
            Features with their factors.
        """
        # Two blocks per process: of a single one SpeechBrain's distributed
        # wrapper hands over the utterances in place of the block.
        world_size = int(os.environ.get("WORLD_SIZE", 1))
        blocks = BlockSampler(
            train.grid,
            self.hparams.train_block,
            seed=self.hparams.seed,
            multiple_of=1 if world_size == 1 else 2 * world_size,
        )
        # SpeechBrain drops what an epoch accumulates without a step.
        steps = len(blocks) // world_size // self.grad_accumulation_factor
        if not steps:
            raise InputError(
                f"grad_accumulation_factor is {self.grad_accumulation_factor}, "
                f"but an epoch has {len(blocks) // world_size} blocks: give at "
                "most as many"
            )
        self.total_steps = steps * self.hparams.number_of_epochs
        # Tells the sampler the epoch; under DDP the wrapper takes this place.
        self.train_sampler = blocks
        valid_blocks = BlockSampler(
            valid.grid,
            self.hparams.valid_block,
            seed=self.hparams.seed,  # of the takes
            shuffle=False,
        )
        options = {"collate_fn": GridFeatures.collate}
        self.fit(
            self.hparams.epoch_counter,
            train,
            valid,
            train_loader_kwargs=options | {"batch_sampler": blocks},
            valid_loader_kwargs=options | {"batch_sampler": valid_blocks},
        )


def check(hparams):
    """Refuse options that would only fail, or be ignored, later on."""
    factors = hparams["grid_factors"]
    heads = [hparams["system_name"]]
    heads += ["recommended"] if hparams["recommended"] else []
    rules = {
        "factors": some_of(*factors),
        "verification_factor": one_of(*factors),
        "content_factor": one_of(*factors),
        "exported": one_of(*heads),
        "checkpoint": one_of("last", "best"),
        "number_of_epochs": whole(0),
        "network_takes": whole(0),
    }
    if hparams["recommended"]:
        rules["augmented_takes"] = whole(hparams["network_takes"])
    check_options(hparams, rules)
    split = {"held_out": None} | hparams["split"]
    held_out = one_of(None, *factors)
    rules = {"by": one_of(*factors), "held_out": held_out}
    check_options(split, rules, "split: ")
    if hparams["number_of_epochs"] and hparams["system_name"] in OTHER_HEADS:
        raise InputError(
            f"system_name is '{hparams['system_name']}', which is another "
            "head's: choose a name for the network, such as published"
        )


def dataio_prep(hparams):
    """The manifest as a dataset, and its splits; files are checked."""
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


def claim(hparams, brain, dataset, splits):
    """A folder holds one run: its checkpoints must not be taken for another."""
    settings = {key: hparams[key] for key in SETTINGS}
    settings |= {key: getattr(brain, key) for key in RUN_OPTIONS}
    settings["encoder"] = hparams["encoder_model"].identity
    settings["network"] = hparams["network"].config
    settings["loss"] = hparams["loss"].config
    for key in ("channel", "opt_class", "lr_scheduler", "recommended"):
        settings[key] = describe(hparams[key])
    memo = f"{hparams['cache_folder']}/digests.json"
    settings["audio"] = digest(audio_digests(dataset, memo))
    for split, ids in splits.items():
        labels = factor_labels(dataset, ids, hparams["grid_factors"])
        settings[f"{split}_data"] = digest([ids, labels])
    claim_folder(hparams["save_folder"], settings)


def fit_network(hparams, brain, grids):
    """Contrastive training of the network, from the statistics of its input."""
    network = hparams["network"]
    network.fit_statistics(grids["train"].features)
    brain.fit_grids(grids["train"], grids["valid"])
    best = {"min_key": "excess"} if hparams["checkpoint"] == "best" else {}
    if brain.checkpointer.recover_if_possible(**best) is None:
        raise InputError(
            f"No checkpoint in {hparams['save_folder']}: an untrained network "
            "is not evaluated"
        )
    return network


def fit_heads(hparams, brain, dataset, splits, features):
    """All heads, by name, and the validation grid."""
    takes = [one for name, one in features.items() if name != "channels"]
    grids = {
        split: grid_features(
            dataset,
            splits[split],
            takes[: 1 + hparams["network_takes"]],
            hparams["grid_factors"],
            hparams["layers"],
            f"{split} grid",
        )
        for split in ("train", "valid")
    }
    ids, train = splits["train"], grids["train"]
    heads = systems.baseline_heads(takes[0].select(ids, hparams["layers"]))
    # The network, on blocks of speakers x contents
    if hparams["number_of_epochs"] > 0:
        heads[hparams["system_name"]] = fit_network(hparams, brain, grids)
    if not if_main_process():
        return heads, grids["valid"]
    # The closed form that has also heard what channels do to an utterance
    if hparams["recommended"]:
        heads["recommended"] = hparams["recommended"](
            torch.stack([one.select(ids, hparams["layers"]) for one in takes]),
            factor_labels(dataset, ids, hparams["factors"]),
        )
    # Closed forms to compare with
    heads |= systems.closed_form_heads(
        train.features,
        {factor: train.grid.labels(factor) for factor in hparams["factors"]},
        hparams["subspace_widths"],
        hparams["seed"],
    )
    return heads, grids["valid"]


def evaluate(hparams, heads, dataset, splits, features):
    """Verification and content retrieval on the test utterances."""
    speaker = hparams["verification_factor"]
    content = hparams["content_factor"]
    labels = factor_labels(dataset, splits["test"], hparams["grid_factors"])
    trials = generate_trials(
        labels[speaker],
        labels[content],
        max_targets=systems.MAX_TRIALS,
        max_nontargets=systems.MAX_TRIALS,
    )
    verification = tasks.Verification(speaker, trials)
    retrieval = tasks.ContentRetrieval(
        content, labels[content], labels[speaker]
    )
    label, layers = hparams["encoder_label"], hparams["layers"]
    named = systems.name_systems(heads, label, layers, hparams["seed"])
    data, rows = run_label(hparams["data_folder"]), []
    for condition in ("recorded", "channels"):
        pooled = features[condition].select(splits["test"], layers)
        vectors = {"test": systems.embed_systems(named, pooled)}
        embedded = tasks.Embedded(condition, vectors)
        rows += tasks.run_tasks([verification, retrieval], embedded, data=data)
    train = factor_labels(dataset, splits["train"], hparams["grid_factors"])
    about = {key: hparams[key] for key in ABOUT} | {
        "encoder": label,
        "encoder_identity": hparams["encoder_model"].identity,
        "grid": systems.count_values(train),
        "test_grid": systems.count_values(labels),
        "recommended": getattr(hparams["recommended"], "keywords", None),
    }
    folder = hparams["output_folder"]
    results.write_results(folder, rows, about)
    report.write_report(folder, rows, [f"encoder: {label}"])
    plots.plot_scores(verification, folder, label)
    return rows, about


def export(hparams, heads, valid, rows, about):
    """A folder per head, with thresholds of the validation grid and a card."""
    grid = valid.grid
    labels = {factor: grid.labels(factor) for factor in grid.factors}
    for name, head in heads.items():
        if isinstance(head, BaselineHead):
            continue
        own = name == hparams["exported"]
        export_subspaces(
            f"{hparams['output_folder']}/export{'' if own else f'_{name}'}",
            hparams["encoder_model"],
            head,
            hparams["layers"],
            name=name,
            encoder_label=hparams["encoder_label"],
            seed=hparams["seed"],
            thresholds=systems.equal_error_thresholds(
                head, valid.features, labels
            ),
            card=model_card(rows, about, name, head.subspaces),
        )


def main(arguments):
    """The whole job: prepare, encode, fit the heads, evaluate, export."""
    # Options
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    encoder = hparams["encoder_model"]
    hparams["layers"] = choose_layers(encoder, hparams["layers"])
    check(hparams)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    # Grid: synthesised, or as recorded
    if "prepare" in hparams:
        run_on_main(hparams["prepare"])
    dataset, splits = dataio_prep(hparams)
    brain = InterventionalBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    run_on_main(claim, args=[hparams, brain, dataset, splits])
    # Pooled features: as recorded, in takes through channels, across channels
    takes = hparams["network_takes"]
    if hparams["recommended"]:
        takes = hparams["augmented_takes"]
    extract = functools.partial(
        extract_conditions,
        dataset,
        splits,
        encoder,
        hparams["channel"],
        takes,
        hparams["network_takes"],
        hparams["channel_seed"],
        label=hparams["encoder_label"],
        cache_folder=hparams["cache_folder"],
        device=brain.device,
        progress=not brain.noprogressbar,
        **hparams["extraction"],
    )
    run_on_main(extract)
    features = extract()  # what the main process wrote
    # Heads, results, exports
    heads, valid = fit_heads(hparams, brain, dataset, splits, features)
    if if_main_process():
        rows, about = evaluate(hparams, heads, dataset, splits, features)
        export(hparams, heads, valid, rows, about)
        folder = hparams["output_folder"]
        print(
            f"\n{folder}/report.txt, results.csv and scores_*.png: the results"
            f"\n{folder}/export: {hparams['exported']}, where it was fitted; "
            "export_*: the other heads"
            f"\n{hparams['cache_folder']}: features, which may be deleted"
        )


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
