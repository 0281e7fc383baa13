#!/usr/bin/env python3
"""Interventional post-training of a frozen speech encoder.

A frozen encoder gives one vector per utterance. On a grid in which every
speaker says every sentence, heads are fitted that map this vector to one
subspace per factor: a network, trained by one contrastive loss per factor and
an orthogonality loss (Cox and Barker, Interspeech 2026, arXiv 2606.17967), and
a closed form, channel LDA ("recommended"). The grid is synthesised
(hparams/interventional.yaml) or comes as a manifest with factor columns
(hparams/recorded_grid.yaml).

To run this recipe:
> python train.py hparams/interventional.yaml
> python train.py hparams/recorded_grid.yaml --data_folder FOLDER
Several calls can render and encode, before one that does the rest:
> python train.py hparams/interventional.yaml --shard='[0, 4]'

The second form reads FOLDER/manifest.csv, or what --manifest gives.
"""

import dataclasses
import inspect
import logging
import math
import sys
from contextlib import nullcontext
from functools import partial

import torch
from option_table import TRAIN, check_choice, check_positions
from tqdm import tqdm

import speechbrain as sb
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_broadcast,
    if_main_process,
    run_on_main,
)
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.feature_plans import (
    describe_hours,
    encode_planned,
    plan_conditions,
)
from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.dataio.manifest import (
    factor_labels,
    find_recordings,
    load_manifest,
    recordings_name,
    subset,
)
from speechbrain_ext.dataio.mixed import (
    MixedFeatures,
    stack_views,
    training_blocks,
)
from speechbrain_ext.dataio.splits import first_values, split_manifest
from speechbrain_ext.evaluation import plots, report, results, systems, tasks
from speechbrain_ext.evaluation.page import write_most_wrong, write_page
from speechbrain_ext.evaluation.score_files import check_ids, write_scores
from speechbrain_ext.inference.export import export_subspaces, remove_exports
from speechbrain_ext.inference.model_card import model_card
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.lobes.encoders import choose_layers, load_speaker_encoder
from speechbrain_ext.lobes.subspaces import BaselineHead
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.nnet.distributed import (
    deal,
    gather_rows,
    own_rows,
    processes,
    start_group,
)
from speechbrain_ext.nnet.schedulers import Schedule
from speechbrain_ext.processing.adaptation import MIN_RECORDINGS
from speechbrain_ext.processing.choice import layer_runs
from speechbrain_ext.processing.closed_form import each
from speechbrain_ext.processing.plda import plda_scoring
from speechbrain_ext.processing.rivals import rival_heads
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import claim_folder, digest, locked_folder
from speechbrain_ext.utils.hparams import (
    describe,
    load_hparams,
    parse_arguments,
    run_label,
    save_hparams,
)
from speechbrain_ext.utils.options import as_list, check_run_options
from speechbrain_ext.utils.shards import share_of_process

# What makes a run another one, beside the data.
SETTINGS = (
    *("seed", "layers", "augmented_takes", "network_takes", "network_views"),
    *("channel_seed", "factors", "train_block", "valid_block", "block_order"),
    *("number_of_epochs", "patience"),
    *("encoder_model", "network", "loss", "channel", "recommended", "choice"),
    *("opt_class", "lr_scheduler", "lr_interval"),
)
RUN_OPTIONS = ("max_grad_norm", "grad_accumulation_factor", "precision")
RUN_OPTIONS += ("optimizer_step_limit",)
# What results.json says of a run, beside grid and encoder.
ABOUT = ("layers", "seed", "factors", "augmented_takes", "network_takes")
ABOUT += ("network_views", "number_of_epochs", "data_folder", "unlabelled")
SMOKE_VALUES = 6  # of each factor in a split, with --debug
CHOICE_TRIALS = 100_000  # of each kind, for each candidate


class InterventionalBrain(sb.Brain):
    """Trains the network on blocks of pooled features."""

    def compute_forward(self, batch, stage):
        """Features of a block, [B, layers, dim] -> subspaces, [B, D] each.

        Several processes that share it compute some of its rows each.
        """
        features, _ = batch
        if not self.shares_blocks:
            return self.modules.network(features.to(self.device))
        rows = self.modules.network(own_rows(features).to(self.device))
        return {name: gather_rows(z, len(features)) for name, z in rows.items()}

    def compute_objectives(self, predictions, batch, stage):
        """Contrastive loss of each factor in its subspace + orthogonality."""
        codes = {f: code.to(self.device) for f, code in batch[1].items()}
        # Validated by the weights that ramps end with: epochs compare.
        epoch = self.epoch if stage == sb.Stage.TRAIN else None
        loss, parts = self.hparams.loss(predictions, codes, epoch)
        for name, value in {"loss": loss.detach(), **parts}.items():
            self.parts.setdefault(name, []).append(value)
        # DDP divides gradients by the processes, each of which has a part.
        return loss * processes() if self.shares_blocks else loss

    @property
    def shares_blocks(self):
        """Whether processes share each block; else each has its own."""
        return self.hparams.ddp_blocks == "shared"

    def init_optimizers(self):
        """The optimiser, and the schedule of the learning rate."""
        super().init_optimizers()
        self.schedule = Schedule(
            self.hparams.lr_scheduler,
            self.optimizer,
            self.hparams.lr_interval,
            self.total_steps,
            self.hparams.epoch_counter.limit,
        )
        if self.checkpointer is not None:
            scheduler = self.schedule.scheduler
            self.checkpointer.add_recoverable("scheduler", scheduler)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The learning rate may follow its schedule step by step."""
        if should_step:
            self.schedule.after_step()
        self.bar.update(self.optimizer_step - self.bar.n)

    def on_stage_start(self, stage, epoch=None):
        """Start the means of a stage."""
        self.parts, self.epoch = {}, epoch

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log; after validation, keep the last and the best checkpoints.

        Best is the lowest loss: contrastive and orthogonality, with weights.
        """
        stats = {
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
        loss = ddp_broadcast(stats["loss"])  # all processes stop together
        self.schedule.after_validation(loss)
        self.hparams.epoch_counter.update_metric(loss)
        self.checkpointer.save_and_keep_only(
            meta={"loss": loss, "epoch": epoch},
            min_keys=["loss"],
            num_to_keep=2,  # the one before, should the newest be damaged
            verbosity=logging.DEBUG,
        )

    def fit_grids(self, train, valid):
        """Train on blocks of one grid, validate on blocks of another.

        Arguments
        ---------
        train, valid : GridFeatures
            Features with their factors. MixedFeatures are trained on with
            their recordings.
        """
        blocks, steps = training_blocks(
            train.grid,
            self.hparams.train_block,
            self.hparams.seed,
            self.grad_accumulation_factor,
            train.rows,
            self.hparams.block_order,
            block_owners(self.hparams.ddp_blocks),
        )
        # The last epoch is the one in which the limit is met.
        counter, limit = self.hparams.epoch_counter, self.optimizer_step_limit
        if limit is not None:
            counter.limit = min(counter.limit, math.ceil(limit / steps))
        self.total_steps = min(steps * counter.limit, limit or math.inf)
        # Tells the sampler the epoch. Where each process has blocks of its own,
        # SpeechBrain's sampler takes this place.
        self.train_sampler = blocks
        valid_blocks = BlockSampler(
            valid.grid,
            self.hparams.valid_block,
            seed=self.hparams.seed,  # of the takes
            order="fixed",
        )
        options = {"collate_fn": GridFeatures.collate}
        train_options = options | {"batch_sampler": blocks}
        if self.shares_blocks:  # which SpeechBrain would deal out
            train = make_dataloader(train, **train_options)
            if self.checkpointer is not None:
                self.checkpointer.add_recoverable("dataloader-TRAIN", train)
        # One bar for all epochs
        self.bar = tqdm(
            desc="training",
            total=self.total_steps,
            disable=self.noprogressbar or not if_main_process(),
            dynamic_ncols=True,
        )
        with self.bar:
            self.fit(
                counter,
                train,
                valid,
                progressbar=False,
                train_loader_kwargs=train_options,
                valid_loader_kwargs=options | {"batch_sampler": valid_blocks},
            )


def block_owners(ddp_blocks):
    """How many processes have blocks of their own; those that share do not."""
    return 1 if ddp_blocks == "shared" else processes()


def dataio_prep(hparams, run_opts):
    """The manifest as a dataset, its splits, and grids to train on."""
    factors = hparams["grid_factors"]
    dataset = load_manifest(
        hparams["manifest"],
        hparams["data_folder"],
        factors,
        hparams["columns"],
    )
    splits = split_manifest(dataset, **hparams["split"])
    if run_opts.debug:
        splits = {
            split: first_values(dataset, ids, factors, SMOKE_VALUES)
            for split, ids in splits.items()
        }
    # Takes (an utterance through a random channel) are further utterances of
    # its cell, in the order in which fit_heads puts their features together.
    takes = 1 + hparams["network_takes"]
    grids = {
        split: Grid(
            factor_labels(dataset, splits[split], factors),
            f"{split} grid",
            takes,
        )
        for split in ("train", "valid")
    }
    # What does not fit is refused now.
    training_blocks(
        grids["train"],
        hparams["train_block"],
        hparams["seed"],
        run_opts.grad_accumulation_factor,
        processes=block_owners(hparams["ddp_blocks"]),
    )
    BlockSampler(grids["valid"], hparams["valid_block"])
    return dataset, splits, grids


def find_unlabelled(hparams, debug):
    """Recordings that the recommended head is adapted to, by their names."""
    found = {}
    if hparams["unlabelled"] is None:
        return found
    for source in as_list(hparams["unlabelled"]):
        recordings = find_recordings(source)
        if debug:
            recordings = subset(recordings, [*recordings.data][:MIN_RECORDINGS])
        rate = hparams["encoder_model"].sample_rate
        check_audio(recordings, rate, hparams["resample"])
        hparams["adaptation"].check(recordings, hparams["factors"])
        found[recordings_name(source)] = recordings
    known = hparams["adaptation"].known(hparams["factors"])
    untold = set(hparams["factors"]).difference(known)
    if hparams["network_views"] and untold:
        raise InputError(
            f"network_views is True, but no intervention tells of "
            f"{', '.join(sorted(untold))}: name one in adaptation, or leave "
            "out the factor"
        )
    return found


def make_tasks(hparams, dataset, splits, grids):
    """What the test utterances are asked, and pairs for the thresholds."""
    speaker = hparams["verification_factor"]
    content = hparams["content_factor"]
    exported = f"{hparams['exported']} {speaker}"
    labels = factor_labels(dataset, splits["test"], hparams["grid_factors"])
    trials = generate_trials(
        labels[speaker],
        labels[content],
        max_targets=systems.MAX_TRIALS,
        max_nontargets=systems.MAX_TRIALS,
    )
    asked = [
        tasks.Verification(speaker, trials, reference=exported),
        tasks.ContentRetrieval(content, labels[content], labels[speaker]),
    ]
    valid = grids["valid"]
    labels = {factor: valid.labels(factor) for factor in valid.factors}
    return asked, systems.threshold_trials(labels, hparams["factors"])


def claim(hparams, brain, dataset, splits, unlabelled):
    """A folder holds one run: its checkpoints must not be taken for another."""
    settings = {key: describe(hparams[key]) for key in SETTINGS}
    settings |= {key: getattr(brain, key) for key in RUN_OPTIONS}
    settings["processes"] = block_owners(hparams["ddp_blocks"])
    for key in ("dtype", "precision"):
        settings[f"extraction_{key}"] = hparams["extraction"][key]
    memo = f"{hparams['cache_folder']}/digests.tsv"
    # Recordings choose what the network takes, or it is trained on them.
    if hparams["layers"] == "auto" or hparams["network_views"]:
        settings["unlabelled"] = digest(
            [[list(r.data), audio_digests(r, memo)] for r in unlabelled]
        )
        if unlabelled:
            changes = hparams["adaptation"].interventions.items()
            settings["adaptation"] = vars(hparams["adaptation"]) | {
                "interventions": {f: describe(change) for f, change in changes}
            }
    for split, ids in splits.items():
        labels = factor_labels(dataset, ids, hparams["grid_factors"])
        settings[f"{split}_data"] = digest([ids, labels])
    settings["audio"] = digest(audio_digests(dataset, memo))
    began = ("CKPT*", "../results.json", "../export*")
    if brain.debug and not brain.debug_persistently:
        began = "CKPT*"  # a smoke run may take the place of another
    claim_folder(hparams["save_folder"], settings, began)


def prepare_grid(hparams):
    """Render the grid, each process its share; whether all of it is there."""
    prepare, shard, there = hparams["prepare"], hparams["shard"], False
    if "shard" in inspect.signature(prepare).parameters:
        there = prepare(shard=share_of_process(shard))
        if shard:
            return there
        ddp_barrier()
    run_on_main(lambda: there or prepare())  # the manifest, of all shares
    return True


def plan_features(hparams, run_opts, dataset, splits, unlabelled):
    """Pooled features that are needed, as calls that are not yet made.

    Returns
    -------
    planned : dict
        Of the grid: as recorded, in takes through channels, across channels;
        and speaker vectors of rival_encoder.
    views : dict
        Name of unlabelled recordings -> features as they are and after
        interventions.
    """
    options = hparams["extraction"] | {
        "cache_folder": hparams["cache_folder"],
        "device": run_opts.device,
        "progress": not run_opts.noprogressbar,
    }
    encoder, takes = hparams["encoder_model"], hparams["network_takes"]
    if hparams["recommended"]:
        takes = hparams["augmented_takes"]
    planned = plan_conditions(
        dataset,
        splits,
        encoder,
        hparams["channel"],
        takes,
        max(hparams["network_takes"], min(takes, 1)),
        hparams["channel_seed"],
        label=hparams["encoder_label"],
        **options,
    )
    rival = hparams["rival_encoder"]
    if rival:
        planned["speakers"] = partial(
            extract_features,
            subset(dataset, splits["train"]),
            rival,
            name=f"{rival.identity['name']}-recorded",
            **options,
        )
    views = {
        name: hparams["adaptation"].plan(
            recordings, encoder, hparams["factors"], name, **options
        )
        for name, recordings in unlabelled.items()
    }
    return planned, views


def print_plan(hparams, brain, splits, asked, planned, views):
    """What is to be done, and what of it is there."""
    sizes = [f"{len(ids)} {split}" for split, ids in splits.items()]
    brain.checkpointer.set_damaged_aside()
    saved = brain.checkpointer.find_checkpoint()
    epoch = saved and saved.meta.get("epoch", "that was not finished")
    after = f", going on after epoch {epoch}" if saved else ""
    limit = brain.optimizer_step_limit
    limit = f" and {limit} steps" if limit else ""
    epochs = f"up to {hparams['number_of_epochs']} epochs{limit}{after}"
    print(
        f"Utterances: {', '.join(sizes)}"
        f"\nTo encode: {describe_hours(planned)}, by {hparams['encoder_label']}"
        f"\nTo choose: layers among {len(every_layer(hparams))}"
        f"\nTo fit: {hparams['system_name']} in {epochs}, closed forms"
        f"\nTo evaluate: {len(asked[0].trials)} trials, as recorded and across "
        "channels"
    )
    for name, extracts in views.items():
        print(f"To adapt to: {name}, to encode: {describe_hours(extracts)}")
    print(f"Into: {hparams['output_folder']}\n")


def takes_of(features):
    """Features of the training grid as recorded, then through channels."""
    others = ("channels", "speakers")
    return [one for name, one in features.items() if name not in others]


def choose(hparams, dataset, splits, features, views):
    """Layers of each factor, and how its closed form is fitted to them.

    By the validation grid, through random channels where there are takes of
    it; layers also by unlabelled recordings, where there are views of some.
    """
    takes = takes_of(features)
    through = features.get("take1", features["recorded"])
    labels = factor_labels(dataset, splits["train"], hparams["factors"])
    valid = factor_labels(dataset, splits["valid"], hparams["grid_factors"])
    trials = systems.threshold_trials(
        valid, hparams["factors"], most=CHOICE_TRIALS
    )

    def select(layers):
        """Takes of the training grid, and the validation grid."""
        train = [take.select(splits["train"], layers) for take in takes]
        return torch.stack(train), through.select(splits["valid"], layers)

    # What the head of the option file has is not chosen.
    choice, every = hparams["choice"], every_layer(hparams)
    given = head_options(hparams)
    runs = layer_runs(every, choice.most_layers)
    candidates = dict.fromkeys(hparams["factors"], runs)
    for factor, positions in (given.get("layers") or {}).items():
        candidates[factor] = [[every[position] for position in positions]]
    if "shrinkage" in given:
        choice = dataclasses.replace(choice, shrinkages=[given["shrinkage"]])
    if "dims" in given:
        dims = choice.dims | each(given["dims"], labels)
        choice = dataclasses.replace(choice, dims=dims)
    recordings = views and run_on_main(
        hparams["adaptation"].layer_errors,
        args=[
            partial(takes[0].select, splits["train"]),
            *(labels, views, candidates),
        ],
    )
    weight = given.get("channel_weight", 1.0)
    return choice.on_grid(
        select, labels, trials, candidates, weight, recordings
    )


def take_choice(hparams, chosen):
    """Options that say what was chosen: layers, and arguments of the head."""
    every = every_layer(hparams)
    if hparams["layers"] == "auto":
        every = sorted({n for one in chosen.values() for n in one["layers"]})
    hparams["layers"] = every
    if hparams["recommended"] and chosen:
        hparams["recommended"] = partial(
            hparams["recommended"],
            layers={
                factor: [every.index(layer) for layer in one["layers"]]
                for factor, one in chosen.items()
            },
            shrinkage={f: one["shrinkage"] for f, one in chosen.items()},
            dims={f: one["dims"] for f, one in chosen.items()},
        )


def every_layer(hparams):
    """Layers that may be chosen."""
    encoder, layers = hparams["encoder_model"], hparams["layers"]
    if layers == "auto":
        layers = list(range(encoder.n_layers))
    return choose_layers(encoder, layers)


def head_options(hparams):
    """Arguments that the recommended head is given, if there is one."""
    return getattr(hparams["recommended"], "keywords", {})


def fit_network(hparams, brain, grids, views=None):
    """Contrastive training of the network, from the statistics of its input.

    Views, of stack_views, are trained on too. The statistics and the validation
    are those of the grids alone.
    """
    # Drawn as it would be right after the seed was set.
    torch.manual_seed(hparams["seed"])
    shape = [len(hparams["layers"]), hparams["encoder_model"].dim]
    network = hparams["network"](input_shape=shape).to(brain.device)
    brain.modules["network"] = network
    brain.checkpointer.add_recoverable("network", network)
    network.fit_statistics(grids["train"].features)
    train = grids["train"]
    if views is not None:
        train = MixedFeatures(train, *views)
    brain.fit_grids(train.on(brain.device), grids["valid"].on(brain.device))
    best = {"min_key": "loss"} if hparams["checkpoint"] == "best" else {}
    if brain.checkpointer.recover_if_possible(**best) is None:
        raise InputError(
            f"No checkpoint in {hparams['save_folder']}: an untrained network "
            "is not evaluated"
        )
    return network


def fit_heads(hparams, brain, dataset, splits, grids, features, recordings):
    """All heads, by name, and the validation grid with its features."""
    layers, ids = hparams["layers"], splits["train"]
    takes = takes_of(features)
    grids = {
        split: GridFeatures(
            torch.cat(
                [
                    take.select(splits[split], layers)
                    for take in takes[: 1 + hparams["network_takes"]]
                ]
            ),
            grid,
        )
        for split, grid in grids.items()
    }
    train, valid = grids.values()
    heads = systems.baseline_heads(takes[0].select(ids, layers))
    # The network, on blocks of speakers x contents
    if hparams["number_of_epochs"] > 0:
        views = None
        if hparams["network_views"]:
            views = stack_views([*recordings.values()], layers)
        network = fit_network(hparams, brain, grids, views)
        heads[hparams["system_name"]] = network
    labels, fits = {f: train.grid.labels(f) for f in train.grid.factors}, {}
    # The closed form that has also heard what channels do to an utterance
    if hparams["recommended"]:
        fits["recommended"] = lambda: {
            "recommended": hparams["recommended"](
                torch.stack([take.select(ids, layers) for take in takes]),
                factor_labels(dataset, ids, hparams["factors"]),
            )
        }
    # Closed forms to compare with
    fits["controls"] = lambda: systems.closed_form_heads(
        train.features,
        {factor: labels[factor] for factor in hparams["factors"]},
        hparams["subspace_widths"],
        hparams["seed"],
    )
    fits["rivals"] = lambda: rival_heads(
        hparams["rivals"],
        train.features,
        labels,
        hparams["verification_factor"],
        hparams["content_factor"],
        head_options(hparams).get("layers"),
        speaker_vectors(features, ids, 1 + hparams["network_takes"]),
    )
    for fitted in deal(lambda name: fits[name](), fits).values():
        heads |= fitted
    return heads, valid


def speaker_vectors(features, ids, takes):
    """Those of rival_encoder, the same for all takes of an utterance."""
    if "speakers" not in features:
        return None
    return features["speakers"].select(ids, [0])[:, 0].repeat(takes, 1)


def evaluate(hparams, heads, dataset, splits, features, asked, chosen, debug):
    """Verification and content retrieval on the test utterances.

    All processes measure, the main one reports.
    """
    label, layers = hparams["encoder_label"], hparams["layers"]
    named = systems.name_systems(heads, label, layers, hparams["seed"])
    rows = measure(hparams, named, layers, splits, features, asked)
    test, folder = splits["test"], hparams["output_folder"]
    if if_main_process():
        plots.plot_scores(asked[0], folder, label, det=True)  # cosines, all
        draw_speakers(hparams, named, dataset, test, features["recorded"])
    if "plda" in hparams["rivals"]:
        rows += evaluate_plda(hparams, dataset, splits, features, asked)
    if not if_main_process():
        return None, None
    grids = (
        factor_labels(dataset, splits[split], hparams["grid_factors"])
        for split in ("train", "test")
    )
    train_size, test_size = map(systems.count_values, grids)
    about = {key: hparams[key] for key in ABOUT} | {
        "encoder": label,
        "encoder_identity": hparams["encoder_model"].identity,
        "grid": train_size,
        "test_grid": test_size,
        "recommended": head_options(hparams),
        "chosen": chosen,
        "smoke_run": hparams["smoke_run"] if debug else None,
    }
    results.write_results(folder, rows, about)
    header = [report.SMOKE] * debug + [f"encoder: {label}"]
    header += [report.choice_line(*one) for one in chosen.items()]
    report.write_report(folder, rows, header)
    write_scores(folder, asked[0], test, hparams["score_files"] or ())
    write_most_wrong(folder, asked, dataset, test)
    return rows, about


def draw_speakers(hparams, named, dataset, ids, features):
    """t-SNE maps of the pooled features and of the exported head."""
    speaker, shown = hparams["verification_factor"], {}
    for origin, head in named.items():
        if origin.system in ("baseline", hparams["exported"]):
            shown[origin] = head
    pooled = features.select(ids, hparams["layers"])
    plots.plot_speakers(
        plots.first_seeds(systems.embed_systems(shown, pooled)),
        factor_labels(dataset, ids, [speaker])[speaker],
        f"{hparams['output_folder']}/speakers_recorded.png",
        max_utterances=300,
    )


def measure(hparams, named, layers, splits, features, asked, **further):
    """Rows of systems on some layers; further vectors are for the tasks."""
    data, rows = run_label(hparams["data_folder"]), []
    for condition in ("recorded", "channels"):
        pooled = features[condition].select(splits["test"], layers)
        vectors = {"test": systems.embed_systems(named, pooled), **further}
        embedded = tasks.Embedded(condition, vectors)
        rows += tasks.run_tasks(asked, embedded, data=data)
    return rows


def evaluate_plda(hparams, dataset, splits, features, asked):
    """PLDA of the standardised features that the verified factor is read from.

    Fitted to the training grid as recorded: a back-end, with no vectors of its
    own to be exported.
    """
    speaker, layers = hparams["verification_factor"], hparams["layers"]
    read = head_options(hparams).get("layers") or {}
    if speaker in read:
        layers = [layers[position] for position in read[speaker]]
    train = features["recorded"].select(splits["train"], layers)
    head = systems.baseline_heads(train)["baseline_standardised"]
    labels = factor_labels(dataset, splits["train"], [speaker])
    task = tasks.Verification(
        speaker,
        asked[0].trials,
        scoring=plda_scoring,
        backend="plda",
        cohort=labels[speaker],
        ratios=True,
    )
    named = systems.name_systems(
        {"plda": head}, hparams["encoder_label"], layers, None
    )
    cohort = systems.embed_systems(named, train)
    rest = splits, features, [task]
    rows = measure(hparams, named, layers, *rest, cohort=cohort)
    for condition, scores in task.scores.items():
        asked[0].scores[condition] |= scores  # for the files
    return rows


def export(hparams, heads, valid, pairs, rows, about):
    """A folder per head, with thresholds of the validation grid and a card."""
    # An adapted head, which comes last, is the one to use.
    adapted = hparams["unlabelled"] is not None
    first = None if adapted else hparams["exported"]
    folders = {
        name: "export" if name == first else f"export_{name}"
        for name, head in heads.items()
        if not isinstance(head, BaselineHead)
    }
    remove_exports(hparams["output_folder"], keep=["export", *folders.values()])
    shared, adaptation = None, hparams["adaptation"]
    if adaptation and hparams["recommended"]:
        layers = head_options(hparams).get("layers")
        adaptation = dataclasses.replace(adaptation, layers=layers)
    for name, folder in folders.items():
        head, folder = heads[name], f"{hparams['output_folder']}/{folder}"
        export_subspaces(
            folder,
            hparams["encoder_model"],
            head,
            hparams["layers"],
            name=name,
            encoder_label=hparams["encoder_label"],
            seed=hparams["seed"],
            thresholds=systems.equal_error_thresholds(
                head, valid.features, pairs
            ),
            adaptation=adaptation,
            card=model_card(rows, about, name, head.subspaces),
            shared=shared,
        )
        shared = folder  # its copy of a local encoder serves all


def adapt(hparams, brain, unlabelled):
    """The recommended export, adapted to unlabelled recordings in turn."""
    folder = hparams["output_folder"]
    model = load_export(
        f"{folder}/export_recommended", brain.device, trust=True
    )
    for name, recordings in unlabelled.items():
        model = model.adapt(
            recordings,
            name=name,
            cache_folder=hparams["cache_folder"],
            progress=not brain.noprogressbar,
            **hparams["extraction"],
        )
    model.save(f"{folder}/export")


def run(hparams, run_opts, save_options):
    """Prepare, encode, fit the heads, evaluate, export."""
    encoder, debug = hparams["encoder_model"], run_opts.debug
    unlabelled = find_unlabelled(hparams, debug)
    # Grid: synthesised, or as recorded
    shard = hparams["shard"]
    if "prepare" in hparams and not prepare_grid(hparams):
        print(f"Shard {shard} is rendered. When all are, encode by this call")
        return
    dataset, splits, grids = dataio_prep(hparams, run_opts)
    if hparams["score_files"]:
        check_ids(splits["test"])
    asked, pairs = make_tasks(hparams, dataset, splits, grids)
    # Durations are those of the files, whatever the manifest says.
    dataset = subset(dataset, [key for ids in splits.values() for key in ids])
    check_audio(dataset, encoder.sample_rate, hparams["resample"])
    planned, views = plan_features(
        hparams, run_opts, dataset, splits, unlabelled
    )
    if shard:
        for one in (planned, *views.values()):
            encode_planned(one, shard)
        print(f"Shard {shard} is encoded. When all are, call without --shard")
        return
    brain = InterventionalBrain(
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    # In a smoke run each process would have a folder of its own.
    folder = ddp_broadcast(brain.checkpointer.checkpoints_dir)
    brain.checkpointer.checkpoints_dir = folder
    recordings = [*unlabelled.values()]
    run_on_main(claim, args=[hparams, brain, dataset, splits, recordings])
    run_on_main(save_options)
    shown = [hparams, brain, splits, asked, planned, views]
    run_on_main(print_plan, args=shown)
    features = encode_planned(planned)
    seen = {name: encode_planned(one) for name, one in views.items()}
    # What is read from which layers: of several recordings the last ones say it
    chosen, wanted = {}, hparams["layers"] == "auto" or hparams["recommended"]
    if hparams["choice"] and wanted:
        last = [*seen.values()][-1] if seen else {}
        chosen = choose(hparams, dataset, splits, features, last)
    take_choice(hparams, chosen)
    # Checkpoints of as many other layers would fit, too.
    taken = {"folder": hparams["save_folder"], "name": "layers.json"}
    taken["settings"] = {"layers": hparams["layers"]}
    run_on_main(claim_folder, kwargs=taken)
    # Heads, results, exports
    heads, valid = fit_heads(
        hparams, brain, dataset, splits, grids, features, seen
    )
    found = evaluate(
        hparams, heads, dataset, splits, features, asked, chosen, debug
    )
    made = [hparams, brain, heads, valid, pairs, *found, unlabelled]
    run_on_main(finish, args=made)  # so that all processes end together


def finish(hparams, brain, heads, valid, pairs, rows, about, unlabelled):
    """Exports and the page; where what was made lies."""
    export(hparams, heads, valid, pairs, rows, about)
    if unlabelled:
        adapt(hparams, brain, unlabelled)
    write_page(hparams["output_folder"])
    folder = hparams["output_folder"]
    to = f", adapted to {', '.join(unlabelled)}" if unlabelled else ""
    print(
        f"\n{folder}/report.html, report.txt, results.csv: the results"
        f"\n{folder}/export: {hparams['exported']}{to}, where it was fitted; "
        "export_*: the other heads"
        f"\n{hparams['cache_folder']}: features, which may be deleted"
    )


def main(arguments):
    """The whole job, in a folder that no other run is using."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts)
    run_opts = start_group(run_opts)
    debug = "." if run_opts.debug_persistently else "debug"
    hparams = load_hparams(
        hparams_file, overrides, TRAIN, debug if run_opts.debug else None
    )
    check_choice(hparams["choice"], hparams["recommended"])
    check_positions(every_layer(hparams), hparams["recommended"])
    if hparams["rival_encoder"]:
        rival = load_speaker_encoder(hparams["rival_encoder"])
        hparams["rival_encoder"] = rival
    if hparams["shard"]:  # several calls at a time, and nothing in the folder
        run(hparams, run_opts, None)
        return
    folder = hparams["output_folder"]
    with locked_folder(folder) if if_main_process() else nullcontext():
        # The options are saved when the folder is known to be this run's.
        sb.create_experiment_directory(folder)
        save_options = partial(save_hparams, folder, hparams_file, overrides)
        run(hparams, run_opts, save_options)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
