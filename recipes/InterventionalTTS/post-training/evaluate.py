#!/usr/bin/env python3
"""Evaluation of exports of a post-training on any recordings, and of supervised
speaker encoders on the same trials.

To run this recipe:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder FOLDER [--trials LIST] [--domain_statistics target] \
>     [--speaker_encoders='[ecapa]' --trust=True]
On corpora as they are unpacked, [by the published protocol]:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder VOXCELEB1_TEST --voxceleb1=True --tasks='[verification]' \
>     [--protocol=published]

Writes report.html, report.txt, results.csv, results.json and plots into the
output folder.
The pooled features of the exports' encoders, raw and standardised, are the
baselines.
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from keywords_prepare import speech_commands_rows
from option_table import EVALUATE
from voxceleb1_trials_prepare import voxceleb_rows

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_ext.dataio.audio import check_audio
from speechbrain_ext.dataio.digests import audio_digests
from speechbrain_ext.dataio.manifest import factor_labels, load_manifest, subset
from speechbrain_ext.dataio.splits import check_disjoint, first_values, in_split
from speechbrain_ext.evaluation import plots, report, results, systems, tasks
from speechbrain_ext.evaluation.embedding import (
    Use,
    check_names,
    embed_all,
    export_sources,
    speaker_source,
)
from speechbrain_ext.evaluation.leakage import Leakage
from speechbrain_ext.evaluation.page import write_most_wrong, write_page
from speechbrain_ext.evaluation.published import NOTE, load_protocol
from speechbrain_ext.evaluation.score_files import (
    check_ids,
    write_predictions,
    write_scores,
)
from speechbrain_ext.inference.subspaces import load_exports
from speechbrain_ext.metrics.trials import (
    check_labels,
    generate_trials,
    read_trials,
    trial_groups,
    write_trials,
)
from speechbrain_ext.nnet.distributed import start_group
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import locked_folder, write_csv
from speechbrain_ext.utils.hparams import (
    load_hparams,
    parse_arguments,
    run_label,
    save_hparams,
)
from speechbrain_ext.utils.options import as_list, check_run_options

logger = get_logger(__name__)

SMOKE_SPEAKERS = 6  # that are evaluated with --debug


def check(hparams):
    """Refuse what no task could use, and folders of other scripts."""
    hparams["tasks"] = as_list(hparams["tasks"])
    if hparams["conditions"]:
        hparams["conditions"] = as_list(hparams["conditions"])
    if hparams["trials"]:
        hparams["trials"] = as_list(hparams["trials"])
    stems = [Path(path).stem for path in hparams["trials"] or ()]
    if len(set(stems)) < len(stems):
        raise InputError(
            f"Two of the trials {hparams['trials']} have one name, by which "
            "results tell them apart: rename one"
        )
    for name in ("trials", "score_files", "cohort_data"):
        if hparams[name] and "verification" not in hparams["tasks"]:
            raise InputError(
                f"{name} is {hparams[name]}, but no task reads it: add "
                f"verification to --tasks, or leave --{name} out"
            )
    for mark in ("save/settings.json", "export*", "summary.md"):
        for found in Path(hparams["output_folder"]).glob(mark):
            raise InputError(
                f"{found} is of a training or of experiments, whose results "
                "would be overwritten: give another --output_folder"
            )
    for task in hparams["tasks"]:
        check_contents(task, hparams)


def check_contents(task, hparams):
    """Refuse a task that needs contents where there are none."""
    given = task == "leakage" and hparams["leakage_factors"] is not None
    if not (task == "verification" or given or hparams["content_factor"]):
        raise InputError(
            f"Task '{task}' needs a content factor: give --content_factor "
            "COLUMN, or leave it out of --tasks"
        )


def find_sources(hparams, device):
    """What is evaluated: exports, speaker encoders, or both."""
    exports = []
    if hparams["export_folder"] or not hparams["speaker_encoders"]:
        exports = load_exports(
            hparams["export_folder"],
            hparams["export_names"],
            device,
            hparams["trust"],
        )
    sources = export_sources(exports)
    for encoder in hparams["speaker_encoders"]:
        sources.append(speaker_source(encoder, device, hparams["trust"]))
    target = hparams["domain_statistics"] == "target"
    check_names(sources, hparams["reference"], target)
    return exports, sources


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
            folder,
            hparams["trials"],
            hparams["voxceleb1_meta"],
            protocol["voxceleb1_tests"],
        )
        hparams["trials"] = list(map(str, trials))
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
    run_on_main(write_csv, args=[hparams["manifest"], rows])


def dataio_prep(hparams):
    """The recordings as a dataset, with the columns that are used."""
    names = ("verification_factor", "content_factor", "gender_factor")
    used = [hparams[name] for name in names]
    used += hparams["leakage_factors"] or ()
    # A folder of speakers tells no contents, and verification needs none.
    if not Path(hparams["manifest"]).is_file():
        used.remove(hparams["content_factor"])
    dataset = load_manifest(
        hparams["manifest"],
        hparams["data_folder"],
        list(dict.fromkeys(filter(None, used))),
        hparams["columns"],
    )
    if hparams["content_factor"] not in next(iter(dataset.data.values())):
        hparams["content_factor"] = None
    return dataset


def choose_ids(hparams, dataset, debug):
    """The utterances that are evaluated, with --debug of some speakers."""
    ids = in_split(dataset, hparams["evaluated_split"])
    if not debug:
        return ids
    factors = [hparams["verification_factor"]]
    return first_values(dataset, ids, factors, SMOKE_SPEAKERS)


def labels_of(hparams, use):
    """Speakers, contents and genders of utterances; None if not given."""
    names = ("verification", "content", "gender")
    columns = [hparams[f"{name}_factor"] for name in names]
    labels = factor_labels(*use, filter(None, columns))
    return [labels.get(column) for column in columns]


def make_trials(hparams, path, ids, speakers, contents, genders):
    """Trials as given or of our own, and the kinds of them that get rows."""
    if path:
        trials = read_trials(path, ids)
        check_labels(trials, speakers, path)
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
    several = len(hparams["trials"] or ()) > 1
    name = f"trials_{Path(path).stem}" if several else "trials"
    own = f"{hparams['output_folder']}/{name}.txt"
    run_on_main(write_trials, args=[own, trials, ids])
    groups = [trial_groups(genders, trials)] if genders else []
    if contents and (path or not hparams["different_content"]):
        said = np.asarray(contents)
        same = said[trials.enrol] == said[trials.test]
        groups.append(np.where(same, "same content", "different content"))
    return trials, groups


def find_cohort(hparams, dataset):
    """Other speakers: of a split of the manifest, or of another corpus."""
    if hparams["cohort_data"]:
        dataset = load_manifest(
            hparams["cohort_data"],
            factors=[hparams["verification_factor"]],
            columns=hparams["cohort_columns"],
        )
    return Use(dataset, in_split(dataset, hparams["cohort_split"]))


def recordings_of(uses, memo):
    """Recordings of some uses, a list each; of the same audio the first path.

    However paths are written, and wherever copies lie.
    """
    first, found = {}, []
    for use in uses:
        paths = factor_labels(*use, ["wav"])["wav"]
        digests = audio_digests(subset(*use), memo)
        pairs = zip(digests, paths, strict=True)
        found.append([first.setdefault(*pair) for pair in pairs])
    return found


def choose_uses(hparams, dataset, ids, needs_cohort):
    """Which utterances are used for what beside the test."""
    test, others = Use(dataset, ids), {}
    if "keywords" in hparams["tasks"]:
        training = in_split(dataset, hparams["keyword_split"])
        others["training"] = Use(dataset, training)
    if needs_cohort:
        others["cohort"] = find_cohort(hparams, dataset)
    for name, use in others.items():
        if use.dataset is dataset:
            column = hparams["verification_factor"]
            values = [
                factor_labels(*one, [column])[column] for one in (test, use)
            ]
        else:  # two corpora may share names of speakers, but no recordings
            memo = f"{hparams['cache_folder']}/digests.tsv"
            column, values = "wav", recordings_of((test, use), memo)
        parts = ["evaluated"] * len(ids) + [name] * len(use.ids)
        check_disjoint([*values[0], *values[1]], parts, column)
    return {"test": test, **others}


def verifications(hparams, protocol, uses, exports, options):
    """The task of verification on each list of trials."""
    ids, factor = uses["test"].ids, hparams["verification_factor"]
    speakers, *others = labels_of(hparams, uses["test"])
    cohort, decisions = None, {}
    if "cohort" in uses:
        cohort = factor_labels(*uses["cohort"], [factor])[factor]
    if hparams["scoring"] == "cosine":  # as that of an export
        decisions["thresholds"] = systems.export_thresholds(exports)
        if hparams["domain_statistics"] == "grid":
            decisions["calibration"] = systems.export_calibration(exports)
    asked = []
    for path in hparams["trials"] or [None]:
        trials, groups = make_trials(hparams, path, ids, speakers, *others)
        asked.append(
            tasks.Verification(
                factor,
                trials,
                speakers,
                groups,
                protocol["scoring"],
                hparams["scoring"],
                cohort,
                path or "",
                ratios=protocol["ratios"],
                **decisions,
                **options,
            )
        )
    return asked


def make_task(name, hparams, protocol, uses, exports):
    """A task, or several, with the labels of its utterances."""
    check_contents(name, hparams)
    options = {"seed": hparams["seed"], "resamples": hparams["resamples"]}
    options["reference"] = hparams["reference"]
    if name == "verification":
        return verifications(hparams, protocol, uses, exports, options)
    speakers, contents, _ = labels_of(hparams, uses["test"])
    content = hparams["content_factor"]
    if name == "content":
        return [tasks.ContentRetrieval(content, contents, speakers, **options)]
    if name == "keywords":
        training = labels_of(hparams, uses["training"])[1]
        labels = content, training, contents, speakers
        classifier = protocol["keyword_classifier"], protocol["backend"]
        return [tasks.Keywords(*labels, *classifier, **options)]
    names = hparams["leakage_factors"]
    names = names or [hparams["verification_factor"], content]
    factors = factor_labels(*uses["test"], names)
    return [Leakage(factors, speakers, hparams["probe_folds"], **options)]


def make_tasks(hparams, *arguments):
    """The tasks that these recordings can answer, and why not the others."""
    asked, left_out = [], []
    for name in hparams["tasks"]:
        try:
            asked += make_task(name, hparams, *arguments)
        except InputError as error:
            # A list of trials that is wrong is to be mended.
            if hparams["trials"] and name == "verification":
                raise
            left_out.append(f"{name} is left out: {error}")
            logger.warning(left_out[-1])
    if not asked:
        raise InputError(f"No task can be done: {'; '.join(left_out)}")
    return asked, left_out


def write_files(hparams, test, asked, shown, rows, about, header):
    """Results and reports, then figures, and what was said of each trial."""
    folder, (dataset, ids) = hparams["output_folder"], test
    results.write_results(folder, rows, about)
    report.write_report(folder, rows, header)
    several = len(hparams["trials"] or ()) > 1
    for task in asked:
        if task.name == "verification":
            name = task.stem if several else ""
            plots.plot_scores(task, folder, name, det=True, name=name)
            write_scores(folder, task, ids, hparams["score_files"] or ())
        if task.name == "keywords":
            write_predictions(folder, task, ids)
    speakers = labels_of(hparams, test)[0]
    for embedded in shown:
        plots.plot_condition(embedded, rows, speakers, folder)
    write_most_wrong(folder, asked, dataset, ids)
    write_page(folder)
    print(f"\n{folder}/report.html, report.txt, results.csv: the results")


def main(arguments):
    """Load the exports, in a folder that no other evaluation is using."""
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    check_run_options(run_opts, trains=False)
    run_opts = start_group(run_opts)
    debug = "." if run_opts.debug_persistently else "debug"
    hparams = load_hparams(
        hparams_file, overrides, EVALUATE, debug if run_opts.debug else None
    )
    check(hparams)
    protocol = load_protocol(hparams)
    exports, sources = find_sources(hparams, run_opts.device)
    given = hparams, protocol, exports, sources, run_opts
    if hparams["shard"]:  # several calls at a time
        run(*given)
        return
    folder = hparams["output_folder"]
    with locked_folder(folder) if if_main_process() else nullcontext():
        sb.create_experiment_directory(folder)
        run_on_main(save_hparams, args=[folder, hparams_file, overrides])
        run(*given)


def measure(hparams, protocol, sources, uses, asked, progress):
    """Rows of all conditions, and vectors to be drawn; a shard only encodes."""
    data, rows, shown = run_label(hparams["data_folder"]), [], []
    for condition in protocol["conditions"]:
        channel = None
        if condition == "channels":
            channel = partial(hparams["channel"], seed=hparams["channel_seed"])
        embedded = embed_all(
            sources,
            uses,
            condition,
            hparams["cache_folder"],
            channel,
            hparams["shard"],
            progress=progress,
            **hparams["extraction"],
        )
        if embedded is not None:
            rows += tasks.run_tasks(asked, embedded, data=data)
            test = {"test": embedded.vectors["test"]}
            shown.append(tasks.Embedded(condition, test))
    return rows, shown


def run(hparams, protocol, exports, sources, run_opts):
    """Measure and report."""
    # Recordings, and the tasks that they can answer
    make_manifest(hparams, protocol)
    dataset = dataio_prep(hparams)
    ids = choose_ids(hparams, dataset, run_opts.debug)
    if hparams["score_files"]:
        check_ids(ids)
    uses = choose_uses(hparams, dataset, ids, protocol["needs_cohort"])
    asked, left_out = make_tasks(hparams, protocol, uses, exports)
    # Statistics of the target domain
    only_trials = None
    if hparams["tasks"] == ["verification"]:
        only_trials = [task.trials for task in asked]
    statistics, description = systems.statistics_utterances(
        hparams["domain_statistics"], list(dataset.data), ids, only_trials
    )
    if statistics:
        uses["statistics"] = Use(dataset, statistics)
    for rate in {source.encoder.sample_rate for source in sources}:
        for one in {id(u.dataset): u.dataset for u in uses.values()}.values():
            check_audio(one, rate, hparams["resample"])
    shard, progress = hparams["shard"], not run_opts.noprogressbar
    rows, shown = measure(hparams, protocol, sources, uses, asked, progress)
    if shard:
        print(f"Shard {shard} is encoded. When all are, call without --shard")
        return
    # The main process writes, and all end together.
    speakers = labels_of(hparams, uses["test"])[0]
    named = ("data_folder", "protocol", "trials", "scoring", "tasks")
    named = (*named, "reference", "cohort_data")
    about = {key: hparams[key] for key in named} | {
        "exports": [model.hparams.name for model in exports],
        "speaker_encoders": hparams["speaker_encoders"],
        "utterances": len(ids),
        "speakers": len(set(speakers)),
        "domain_statistics": description,
        "left_out": left_out,
        "smoke_run": hparams["smoke_run"] if run_opts.debug else None,
    }
    header = [report.SMOKE] * run_opts.debug
    header += [f"statistics: {description}", *left_out]
    header += [f"trials: {path}" for path in hparams["trials"] or ()]
    header += [NOTE] if hparams["protocol"] else []
    made = [hparams, uses["test"], asked, shown, rows, about, header]
    run_on_main(write_files, args=made)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
