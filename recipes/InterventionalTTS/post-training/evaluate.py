#!/usr/bin/env python3
"""Evaluation of exports of a post-training on any recordings.

To run this recipe:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder FOLDER [--trials LIST] [--domain_statistics target]
On corpora as they are unpacked, [by the published protocol]:
> python evaluate.py hparams/evaluate.yaml --export_folder EXPORT \
>     --data_folder VOXCELEB1_TEST --voxceleb1=True --tasks='[verification]' \
>     [--protocol=published]

Writes results.json, report.txt and plots into the output folder. The pooled
features of the exports' encoders, raw and standardised, are the baselines.
"""

import sys
from functools import partial

import numpy as np
import speechbrain as sb
from speechbrain.utils.logger import get_logger

from speechbrain_ext.dataio.feature_cache import extract_features
from speechbrain_ext.dataio.manifest import (
    check_audio,
    factor_labels,
    in_split,
    load_manifest,
    subset,
)
from speechbrain_ext.evaluation.categories import pair_categories
from speechbrain_ext.evaluation.exports import (
    by_encoder,
    first_seeds,
    statistics_utterances,
    systems_of,
)
from speechbrain_ext.evaluation.keywords import (
    check_disjoint,
    speech_commands_rows,
    write_rows,
)
from speechbrain_ext.evaluation.measure import (
    check_tasks,
    format_measures,
    measure_condition,
)
from speechbrain_ext.evaluation.plots import (
    plot_det,
    plot_leakage,
    plot_score_distributions,
    plot_speakers,
)
from speechbrain_ext.evaluation.published import NOTE, load_protocol
from speechbrain_ext.evaluation.report import write_json
from speechbrain_ext.evaluation.systems import distinct, embed
from speechbrain_ext.evaluation.verification import (
    check_labels,
    generate_trials,
    read_trials,
    write_trials,
)
from speechbrain_ext.evaluation.voxceleb import voxceleb_rows
from speechbrain_ext.inference.subspaces import load_exports
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import replacing
from speechbrain_ext.utils.hparams import load_hparams

logger = get_logger(__name__)


def load_labels(hparams, dataset, ids):
    """Speakers, contents and genders of some utterances; None if not given."""
    columns = [
        hparams[f"{name}_factor"]
        for name in ("verification", "content", "gender")
    ]
    labels = factor_labels(dataset, ids, filter(None, columns))
    return [labels.get(column) for column in columns]


def make_trials(hparams, ids, labels):
    """The given trial list, or trials of our own; None without verification."""
    if "verification" not in hparams["tasks"]:
        return None
    if hparams["trials"]:
        trials = read_trials(hparams["trials"], ids)
        check_labels(trials, labels[0], hparams["trials"])
    else:
        trials = generate_trials(
            *labels,
            different_content=hparams["different_content"],
            same_gender=hparams["same_gender"],
            max_targets=hparams["max_targets"],
            max_nontargets=hparams["max_nontargets"],
            seed=hparams["seed"],
        )
    write_trials(f"{hparams['output_folder']}/trials.txt", trials, ids)
    return trials


def trial_categories(hparams, trials, contents, genders):
    """Kinds of trials that get rows of their own."""
    categories = {}
    if trials is not None and genders:
        categories["gender"] = pair_categories(genders, trials)
    free = hparams["trials"] or not hparams["different_content"]
    if trials is not None and contents and free:
        said = np.asarray(contents)
        same = said[trials.enrol] == said[trials.test]
        categories["content"] = np.where(same, "same", "different")
    return categories


def embed_all(hparams, dataset, exports, uses, channel, run_opts):
    """Vectors of every system for each use of utterances, in one condition.

    Arguments
    ---------
    uses : dict
        ``test``, ``training`` (of keywords), ``cohort``, ``statistics`` ->
        IDs.

    Returns
    -------
    vectors : dict
        Use -> name of system and subspace -> [N, D].
    controls : torch.Tensor
        Pooled test features of the first encoder, [N, layers, dim].
    """
    vectors = {use: {} for use in uses if use != "statistics"}
    controls = None
    every = list(dict.fromkeys(key for ids in uses.values() for key in ids))
    groups = by_encoder(exports)
    for number, group in enumerate(groups, 1):
        model = next(iter(group.values()))
        module = model.mods.embedding_model
        check_audio(dataset, module.encoder.sample_rate, hparams["resample"])
        pooled = extract_features(
            subset(dataset, every),
            module.encoder,
            hparams["cache_folder"],
            channel=channel and channel(sample_rate=module.encoder.sample_rate),
            device=model.device,
            progress=not run_opts.noprogressbar,
            **hparams["extraction"],
        )
        features = {u: pooled.select(i, module.layers) for u, i in uses.items()}
        suffix = f"_{number}" if len(groups) > 1 else ""
        systems = systems_of(group, features.get("statistics"), suffix)
        for use in vectors:
            chosen = features[use]
            embedded = {n: embed(one, chosen) for n, one in systems.items()}
            vectors[use] |= distinct(embedded)
        controls = features["test"] if controls is None else controls
    return vectors, controls


def make_manifest(hparams, protocol):
    """Manifest and options of a corpus that is given as its folder."""
    tasks = {"speech_commands": "keywords", "voxceleb1": "verification"}
    chosen = [corpus for corpus in tasks if hparams[corpus]]
    if not chosen:
        return
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)}: choose one of them")
    task = tasks[chosen[0]]
    if hparams["tasks"] != [task]:
        raise InputError(
            f"{chosen[0]} makes the task {task} alone: add --tasks='[{task}]'"
        )
    if hparams["voxceleb1"]:
        rows, trials = voxceleb_rows(
            hparams["data_folder"],
            hparams["trials"],
            hparams["voxceleb1_meta"],
        )
        hparams["trials"] = str(trials)
        hparams["content_factor"] = None
        hparams["gender_factor"] = "gender" if "gender" in rows[0] else None
        if hparams["gender_factor"] is None:
            logger.warning("No vox1_meta.csv: no rows of gender pairs")
    else:
        rows = speech_commands_rows(
            hparams["data_folder"],
            hparams["seed"],
            silence_counts=protocol.get("silence"),
        )
        hparams["evaluated_split"] = hparams["evaluated_split"] or "test"
    hparams["manifest"] = f"{hparams['output_folder']}/manifest.csv"
    write_rows(hparams["manifest"], rows)


def load_data(hparams):
    """The recordings that the manifest names."""
    more = hparams["leakage_factors"]
    check_tasks(hparams["tasks"], hparams["content_factor"] is not None, more)
    names = ("verification_factor", "content_factor", "gender_factor")
    used = [*(hparams[name] for name in names), *(more or ())]
    return load_manifest(
        hparams["manifest"],
        hparams["data_folder"],
        list(dict.fromkeys(filter(None, used))),
        hparams["columns"],
    )


def choose_uses(hparams, dataset, ids, trials, speakers, needs_cohort):
    """Which utterances are used for what, and where statistics come from."""
    only_trials = trials if hparams["tasks"] == ["verification"] else None
    statistics, description = statistics_utterances(
        hparams["domain_statistics"], list(dataset.data), ids, only_trials
    )
    uses = {"test": ids}
    if statistics:
        uses["statistics"] = statistics
    if "keywords" in hparams["tasks"]:
        uses["training"] = in_split(dataset, hparams["keyword_split"])
    if needs_cohort:
        uses["cohort"] = in_split(dataset, hparams["cohort_split"])
        others = load_labels(hparams, dataset, uses["cohort"])[0]
        check_disjoint(
            [*speakers, *others],
            ["evaluated"] * len(speakers) + ["cohort"] * len(others),
        )
    return uses, description


def measure(hparams, run_opts, exports):
    """All measures in all conditions, and what the plots show."""
    protocol = load_protocol(hparams)
    make_manifest(hparams, protocol)
    dataset = load_data(hparams)
    ids = in_split(dataset, hparams["evaluated_split"])
    speakers, contents, genders = load_labels(hparams, dataset, ids)
    trials = make_trials(hparams, ids, (speakers, contents, genders))
    uses, description = choose_uses(
        hparams, dataset, ids, trials, speakers, protocol["needs_cohort"]
    )
    results = {
        "protocol": hparams["protocol"],
        "exports": list(exports),
        "manifest": {"utterances": len(ids), "speakers": len(set(speakers))},
        "domain_statistics": description,
        "trials": hparams["trials"],
        "scoring": hparams["scoring"],
        "tasks": hparams["tasks"],
        "conditions": {},
    }
    channels = {
        "clean": None,
        "shifted": partial(hparams["channel"], seed=hparams["channel_seed"]),
    }
    factors = None
    if hparams["leakage_factors"]:
        factors = factor_labels(dataset, ids, hparams["leakage_factors"])
    plotted = {}
    for condition in protocol["conditions"]:
        vectors, controls = embed_all(
            hparams, dataset, exports, uses, channels[condition], run_opts
        )
        training = cohort = None
        if "training" in uses:
            known = load_labels(hparams, dataset, uses["training"])
            training = (vectors["training"], known[1], known[0])
        if "cohort" in uses:
            known = load_labels(hparams, dataset, uses["cohort"])
            cohort = (vectors["cohort"], known[0])
        measures, scored = measure_condition(
            vectors["test"],
            speakers,
            contents,
            trials,
            hparams["resamples"],
            tasks=hparams["tasks"],
            reference=hparams["reference"],
            categories=trial_categories(hparams, trials, contents, genders),
            scoring=protocol["scoring"],
            cohort=cohort,
            keyword_training=training,
            keyword_classifier=protocol["keyword_classifier"],
            features=controls,
            factors=factors,
            folds=hparams["probe_folds"],
            seed=hparams["seed"],
        )
        results["conditions"][condition] = measures
        plotted[condition] = (scored, vectors["test"])
    return results, plotted, speakers


def report(folder, results, plotted, speakers):
    """results.json, report.txt, the plots, and the tables on the screen."""
    write_json(f"{folder}/results.json", results)
    text = "\n\n".join(
        format_measures(condition, measures)
        for condition, measures in results["conditions"].items()
    )
    header = f"statistics: {results['domain_statistics']}"
    if results["trials"]:
        header += f"\ntrials: {results['trials']}"
    text = f"{header}\n\n{text}\n"
    if results["protocol"]:
        text = f"{NOTE}\n\n{text}"
    with replacing(f"{folder}/report.txt") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"\n{text}")
    for condition, (scored, vectors) in plotted.items():
        # Of several seeds one is drawn: the maps take longer than all else.
        scored, vectors = first_seeds(scored), first_seeds(vectors)
        if scored:
            plot_score_distributions(
                scored, f"{folder}/scores_{condition}.png", condition
            )
            plot_det(scored, f"{folder}/det_{condition}.png", condition)
        plot_speakers(
            vectors, speakers, f"{folder}/speakers_{condition}.png", condition
        )
        leakage = results["conditions"][condition].get("leakage")
        if leakage:
            plot_leakage(
                leakage, f"{folder}/leakage_{condition}.png", condition
            )
    logger.info(f"Results and plots in {folder}")


def main(arguments):
    """Load the exports, measure, report."""
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    for name in ("tasks", "conditions"):
        if isinstance(hparams[name], str):
            hparams[name] = [hparams[name]]
    exports = load_exports(
        hparams["export_folder"], hparams["export_names"], run_opts.device
    )
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    report(hparams["output_folder"], *measure(hparams, run_opts, exports))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
