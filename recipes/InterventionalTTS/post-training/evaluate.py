#!/usr/bin/env python3
"""Evaluation of exports of a post-training on any recordings.

To run this recipe:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder FOLDER [--trials LIST] [--domain_statistics target]
On corpora as they are unpacked, [by the published protocol]:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder VOXCELEB1_TEST --voxceleb1=True --tasks='[verification]' \
>     [--protocol=published]

Writes results.csv, results.json, report.txt and plots into the output folder.
The pooled features of the exports' encoders, raw and standardised, are the
baselines.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from keywords_prepare import speech_commands_rows
from option_table import EVALUATE
from voxceleb1_trials_prepare import voxceleb_rows

import speechbrain as sb
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    check_disjoint,
    factor_labels,
    in_split,
    load_manifest,
    subset,
)
from speechbrain_ext.evaluation import plots, report, results, systems, tasks
from speechbrain_ext.evaluation.published import NOTE, load_protocol
from speechbrain_ext.inference.subspaces import load_exports
from speechbrain_ext.metrics.trials import (
    check_labels,
    generate_trials,
    read_trials,
    trial_groups,
    write_trials,
)
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import locked_folder, write_csv
from speechbrain_ext.utils.hparams import (
    load_hparams,
    parse_arguments,
    run_label,
)
from speechbrain_ext.utils.options import check_run_options

logger = get_logger(__name__)


def check(hparams):
    """Refuse what no task could use, and folders of other scripts."""
    if isinstance(hparams["tasks"], str):
        hparams["tasks"] = [hparams["tasks"]]
    if isinstance(hparams["conditions"], str):
        hparams["conditions"] = [hparams["conditions"]]
    if hparams["trials"] and "verification" not in hparams["tasks"]:
        raise InputError(
            f"No task reads the trials {hparams['trials']}: add verification "
            "to --tasks, or leave --trials out"
        )
    for mark in ("save/settings.json", "export*", "summary.md"):
        for found in Path(hparams["output_folder"]).glob(mark):
            raise InputError(
                f"{found} is of a training or of experiments, whose results "
                "would be overwritten: give another --output_folder"
            )
    for task in hparams["tasks"]:
        given = task == "leakage" and hparams["leakage_factors"] is not None
        if task == "verification" or given or hparams["content_factor"]:
            continue
        raise InputError(
            f"Task '{task}' needs a content factor: give --content_factor "
            "COLUMN, or leave it out of --tasks"
        )


def group_exports(exports):
    """Exports that take the same features, with the name of their baselines."""
    groups = systems.group_exports(exports)
    for number, group in enumerate(groups, 1):
        suffix = f"_{number}" if len(groups) > 1 else ""
        yield group, group[0].mods.embedding_model, suffix


def check_reference(hparams, exports):
    """Refuse a reference that no table will have, before audio is read."""
    known = []
    for group, module, suffix in group_exports(exports):
        features = torch.randn(3, len(module.layers), module.encoder.dim)
        target = hparams["domain_statistics"] == "target"
        named = systems.export_systems(
            group, features if target else None, suffix
        )
        known += systems.embed_systems(named, features)
    results.find_reference(known, hparams["reference"])


def make_manifest(hparams, protocol):
    """Manifest and options of a corpus that is given as its folder."""
    if hparams["speech_commands"] and hparams["voxceleb1"]:
        raise InputError("speech_commands and voxceleb1: choose one of them")
    if not (hparams["speech_commands"] or hparams["voxceleb1"]):
        return
    task = "verification" if hparams["voxceleb1"] else "keywords"
    if hparams["tasks"] != [task]:
        raise InputError(
            f"This corpus makes the task {task} alone: add --tasks='[{task}]'"
        )
    folder = hparams["data_folder"]
    if hparams["voxceleb1"]:
        rows, trials = voxceleb_rows(
            folder, hparams["trials"], hparams["voxceleb1_meta"]
        )
        hparams["trials"] = str(trials)
        hparams["content_factor"] = None
        hparams["gender_factor"] = "gender" if "gender" in rows[0] else None
        if hparams["gender_factor"] is None:
            logger.warning("No vox1_meta.csv: no rows of gender pairs")
    else:
        rows = speech_commands_rows(
            folder, hparams["seed"], silence_counts=protocol.get("silence")
        )
        hparams["evaluated_split"] = hparams["evaluated_split"] or "test"
    hparams["manifest"] = f"{hparams['output_folder']}/manifest.csv"
    write_csv(hparams["manifest"], rows)


def dataio_prep(hparams):
    """The recordings as a dataset, with the columns that are used."""
    names = ("verification_factor", "content_factor", "gender_factor")
    used = [hparams[name] for name in names]
    used += hparams["leakage_factors"] or ()
    return load_manifest(
        hparams["manifest"],
        hparams["data_folder"],
        list(dict.fromkeys(filter(None, used))),
        hparams["columns"],
    )


def labels_of(hparams, dataset, ids):
    """Speakers, contents and genders of utterances; None if not given."""
    names = ("verification", "content", "gender")
    columns = [hparams[f"{name}_factor"] for name in names]
    labels = factor_labels(dataset, ids, filter(None, columns))
    return [labels.get(column) for column in columns]


def make_trials(hparams, ids, speakers, contents, genders):
    """Trials as given or of our own, and the kinds of them that get rows."""
    if hparams["trials"]:
        trials = read_trials(hparams["trials"], ids)
        check_labels(trials, speakers, hparams["trials"])
    else:
        trials = generate_trials(
            speakers,
            contents,
            genders,
            different_content=hparams["different_content"],
            same_gender=hparams["same_gender"],
            max_targets=hparams["max_targets"],
            max_nontargets=hparams["max_nontargets"],
            seed=hparams["seed"],
        )
    write_trials(f"{hparams['output_folder']}/trials.txt", trials, ids)
    groups = [trial_groups(genders, trials)] if genders else []
    if contents and (hparams["trials"] or not hparams["different_content"]):
        said = np.asarray(contents)
        same = said[trials.enrol] == said[trials.test]
        groups.append(np.where(same, "same content", "different content"))
    return trials, groups


def choose_uses(hparams, dataset, ids, speakers, needs_cohort):
    """Which utterances are used for what beside the test."""
    uses = {"test": ids}
    if "keywords" in hparams["tasks"]:
        uses["training"] = in_split(dataset, hparams["keyword_split"])
    if needs_cohort:
        uses["cohort"] = in_split(dataset, hparams["cohort_split"])
    for use in ("training", "cohort"):
        others = labels_of(hparams, dataset, uses.get(use, []))[0]
        check_disjoint(
            [*speakers, *others],
            ["evaluated"] * len(speakers) + [use] * len(others),
        )
    return uses


def make_task(name, hparams, protocol, dataset, uses, exports):
    """A task, with the labels of its utterances."""
    speakers, contents, genders = labels_of(hparams, dataset, uses["test"])
    speaker = hparams["verification_factor"]
    content = hparams["content_factor"]
    options = {"seed": hparams["seed"], "resamples": hparams["resamples"]}
    options["reference"] = hparams["reference"]
    if name == "verification":
        cohort = labels_of(hparams, dataset, uses.get("cohort", []))[0]
        trials, groups = make_trials(
            hparams, uses["test"], speakers, contents, genders
        )
        return tasks.Verification(
            speaker,
            trials,
            speakers,
            groups,
            protocol["scoring"],
            hparams["scoring"],
            cohort or None,
            hparams["trials"] or "",
            # Those of an export are cosines.
            systems.export_thresholds(exports)
            if hparams["scoring"] == "cosine"
            else None,
            **options,
        )
    if name == "content":
        return tasks.ContentRetrieval(content, contents, speakers, **options)
    if name == "keywords":
        training = labels_of(hparams, dataset, uses["training"])[1]
        classifier = protocol["keyword_classifier"], protocol["backend"]
        return tasks.Keywords(
            content, training, contents, speakers, *classifier, **options
        )
    names = hparams["leakage_factors"] or [speaker, content]
    factors = factor_labels(dataset, uses["test"], names)
    return tasks.Leakage(factors, speakers, hparams["probe_folds"], **options)


def make_tasks(hparams, *arguments):
    """The tasks that these recordings can answer, and why not the others."""
    asked, left_out = [], []
    for name in hparams["tasks"]:
        try:
            asked.append(make_task(name, hparams, *arguments))
        except InputError as error:
            # A list of trials that is wrong is to be mended.
            if hparams["trials"] and name == "verification":
                raise
            left_out.append(f"{name} is left out: {error}")
            logger.warning(left_out[-1])
    if not asked:
        raise InputError(f"No task can be done: {'; '.join(left_out)}")
    return asked, left_out


def embed_all(hparams, dataset, exports, uses, condition, run_opts):
    """Vectors of every system for each use of utterances, in one condition."""
    channel = None
    if condition == "channels":
        channel = partial(hparams["channel"], seed=hparams["channel_seed"])
    vectors = {use: {} for use in uses if use != "statistics"}
    controls = {}
    every = list(dict.fromkeys(key for ids in uses.values() for key in ids))
    for group, module, suffix in group_exports(exports):
        rate = module.encoder.sample_rate
        pooled = extract_features(
            subset(dataset, every),
            module.encoder,
            hparams["cache_folder"],
            channel=channel and channel(sample_rate=rate),
            device=group[0].device,
            progress=not run_opts.noprogressbar,
            **hparams["extraction"],
        )
        features = {u: pooled.select(i, module.layers) for u, i in uses.items()}
        named = systems.export_systems(
            group,
            features.get("statistics"),
            suffix,
        )
        for use, known in vectors.items():
            known |= systems.embed_systems(named, features[use])
        controls[next(iter(named))[2:4]] = features["test"]
    return tasks.Embedded(condition, vectors, controls)


def draw(folder, embedded, rows, speakers):
    """Maps of one condition; of several seeds one is drawn."""
    condition = embedded.condition
    title = report.CONDITIONS[condition]
    vectors = plots.first_seeds(embedded.vectors["test"])
    path = f"{folder}/speakers_{condition}.png"
    plots.plot_speakers(vectors, speakers, path, title)
    leakage = results.select(rows, task="leakage", condition=condition)
    if results.select(leakage, measure=("accuracy", "eer")):
        path = f"{folder}/leakage_{condition}.png"
        plots.plot_leakage(leakage, path, title)


def write_predictions(folder, ids, task):
    """For each utterance and subspace the keyword that it was taken for."""
    for condition, predicted in task.predicted.items():
        names = {o: f"{o.label} {o.seed}".strip() for o in predicted}
        rows = [
            {"ID": key, task.factor: value}
            | {name: predicted[origin][n] for origin, name in names.items()}
            for n, (key, value) in enumerate(zip(ids, task.values))
        ]
        write_csv(f"{folder}/keywords_{condition}.csv", rows)


def main(arguments):
    """Load the exports, in a folder that no other evaluation is using."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts, trains=False)
    hparams = load_hparams(hparams_file, overrides, EVALUATE)
    check(hparams)
    protocol = load_protocol(hparams)
    exports = load_exports(
        hparams["export_folder"],
        hparams["export_names"],
        run_opts.device,
        hparams["trust"],
    )
    check_reference(hparams, exports)
    folder = hparams["output_folder"]
    with locked_folder(folder):
        sb.create_experiment_directory(
            experiment_directory=folder,
            hyperparams_to_save=hparams_file,
            overrides=overrides,
        )
        run(hparams, protocol, exports, run_opts)


def run(hparams, protocol, exports, run_opts):
    """Measure and report."""
    # Recordings, and the tasks that they can answer
    folder = hparams["output_folder"]
    make_manifest(hparams, protocol)
    dataset = dataio_prep(hparams)
    ids = in_split(dataset, hparams["evaluated_split"])
    speakers = labels_of(hparams, dataset, ids)[0]
    uses = choose_uses(
        hparams, dataset, ids, speakers, protocol["needs_cohort"]
    )
    asked, left_out = make_tasks(hparams, protocol, dataset, uses, exports)
    # Statistics of the target domain
    only_trials = (
        asked[0].trials if hparams["tasks"] == ["verification"] else None
    )
    statistics, description = systems.statistics_utterances(
        hparams["domain_statistics"], list(dataset.data), ids, only_trials
    )
    if statistics:
        uses = {"test": ids, "statistics": statistics} | uses
    encoders = (model.mods.embedding_model.encoder for model in exports)
    for rate in {encoder.sample_rate for encoder in encoders}:
        check_audio(dataset, rate, hparams["resample"])
    # Vectors of all systems, and what the tasks say of them
    data, rows, shown = run_label(hparams["data_folder"]), [], []
    for condition in protocol["conditions"]:
        embedded = embed_all(
            hparams, dataset, exports, uses, condition, run_opts
        )
        rows += tasks.run_tasks(asked, embedded, data=data)
        test = {"test": embedded.vectors["test"]}
        shown.append(tasks.Embedded(condition, test))
    # Results, then figures
    named = ("protocol", "trials", "scoring", "tasks", "reference")
    about = {key: hparams[key] for key in named} | {
        "exports": [model.hparams.name for model in exports],
        "utterances": len(ids),
        "speakers": len(set(speakers)),
        "domain_statistics": description,
        "left_out": left_out,
    }
    results.write_results(folder, rows, about)
    header = [f"statistics: {description}", *left_out]
    header += [f"trials: {hparams['trials']}"] if hparams["trials"] else []
    header += [NOTE] if hparams["protocol"] else []
    report.write_report(folder, rows, header)
    for task in asked:
        if task.name == "verification":
            plots.plot_scores(task, folder, det=True)
        if task.name == "keywords":
            write_predictions(folder, ids, task)
    for embedded in shown:
        draw(folder, embedded, rows, speakers)
    print(f"\n{folder}/report.txt, results.csv and *.png: the results")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
