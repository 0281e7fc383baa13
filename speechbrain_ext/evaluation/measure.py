"""All measures of one condition, for all systems, on the same utterances."""

import numpy as np

from speechbrain_ext.evaluation.backends import cosine_scoring
from speechbrain_ext.evaluation.categories import (
    category_rows,
    format_categories,
)
from speechbrain_ext.evaluation.content import nearest_value
from speechbrain_ext.evaluation.exports import over_seeds
from speechbrain_ext.evaluation.keywords import keyword_classification
from speechbrain_ext.evaluation.probes import format_leakage, leakage_report
from speechbrain_ext.evaluation.uncertainty import (
    SpeakerResamples,
    compare_accuracy,
    compare_eer,
    format_comparison,
)
from speechbrain_ext.evaluation.verification import min_dcf
from speechbrain_ext.utils.errors import InputError

# What a task is about, among its numbers.
MAIN = {"verification": "eer", "content": "accuracy", "keywords": "accuracy"}
TASKS = ("verification", "content", "keywords", "leakage")


def check_tasks(tasks, has_contents):
    """Refuse tasks that do not exist or need contents that are not there.

    Arguments
    ---------
    tasks : list of str
        Some of ``TASKS``.
    has_contents : bool
        Whether the utterances have a content factor.

    Raises
    ------
    InputError
        Naming the task.

    Example
    -------
    >>> check_tasks(["verification"], has_contents=False)
    """
    if not tasks:
        raise InputError(f"No task: choose some of {', '.join(TASKS)}")
    for task in tasks:
        if task not in TASKS:
            raise InputError(
                f"Unknown task '{task}': expected some of {', '.join(TASKS)}"
            )
        if task != "verification" and not has_contents:
            raise InputError(
                f"Task '{task}' needs a content factor: give --content_factor "
                "COLUMN, or leave it out of --tasks"
            )


def measure_verification(
    vectors,
    trials,
    resamples,
    reference=None,
    categories=None,
    scoring=cosine_scoring,
    cohort=None,
):
    """EER with intervals, minDCF, and rows of categories.

    Arguments
    ---------
    vectors : dict
        Name -> [N, D].
    trials : Trials
        On the same N utterances.
    resamples : SpeakerResamples
        Draws of the speakers of the N utterances.
    reference : str or None
        Name that the others are compared with.
    categories : dict
        Name of a kind of pairs (``gender``) -> [T] category of each trial.
    scoring : callable
        ``scoring(vectors, trials, cohort) -> [T]``, see
        :mod:`speechbrain_ext.evaluation.backends`.
    cohort : tuple
        (name -> [M, D], [M] speakers), where the scoring needs one.

    Returns
    -------
    rows : dict
        Name -> entry of :func:`~speechbrain_ext.evaluation.uncertainty.compare`
        with ``eer``, ``min_dcf``, ``trials``, ``targets`` and ``categories``.
    scored : dict
        Name -> (scores, labels), for the plots.
    """
    scored = {}
    for name, v in vectors.items():
        own = cohort and (cohort[0][name], cohort[1])
        scored[name] = (scoring(v, trials, own), trials.label)
    rows = compare_eer(scored, trials, resamples, reference)
    for name, row in rows.items():
        scores = scored[name][0]
        row["eer"] = row.pop("value")
        row["min_dcf"] = min_dcf(scores, trials.label)
        row["trials"], row["targets"] = len(trials), trials.targets
        row["categories"] = {
            kind: category_rows(scores, trials.label, pairs)
            for kind, pairs in (categories or {}).items()
        }
    return rows, scored


def measure_accuracy(correct, chance, resamples, reference):
    """Accuracies with intervals.

    Arguments
    ---------
    correct : dict
        Name -> bool [N].
    chance : float
        Accuracy by chance.
    resamples : SpeakerResamples
        Draws of the speakers of the N utterances.
    reference : str or None
        Name that the others are compared with.

    Returns
    -------
    dict
        Name -> entry of :func:`~speechbrain_ext.evaluation.uncertainty.compare`
        with ``accuracy`` and ``chance``.

    Example
    -------
    >>> from speechbrain_ext.evaluation.uncertainty import SpeakerResamples
    >>> resamples = SpeakerResamples(list("aabb"), number=9)
    >>> rows = measure_accuracy({"x": [1, 0, 1, 1]}, 0.5, resamples, None)
    >>> rows["x"]["accuracy"], rows["x"]["chance"]
    (0.75, 0.5)
    """
    rows = compare_accuracy(correct, resamples, reference)
    for row in rows.values():
        row["accuracy"] = row.pop("value")
        row["chance"] = chance
    return rows


def measure_condition(
    vectors,
    speakers,
    contents,
    trials,
    resamples=1000,
    tasks=TASKS[:2],
    reference=None,
    categories=None,
    scoring=cosine_scoring,
    cohort=None,
    keyword_training=None,
    features=None,
    folds=5,
    seed=0,
):
    """All measures of one condition.

    Arguments
    ---------
    vectors : dict
        Name of a system and subspace -> [N, D].
    speakers, contents : sequence
        [N] labels; contents may be None.
    trials : Trials
        On the N utterances; may be None without verification.
    resamples : int
        Draws of the speakers; for the verification only of those in trials.
    tasks : list of str
        Some of ``TASKS``.
    reference : str
        Name that differences are taken to. Default: the first.
    categories, scoring, cohort
        See :func:`measure_verification`.
    keyword_training : tuple
        (name -> [M, D], contents [M], speakers [M]) for the task keywords.
    features : torch.Tensor
        [N, layers, dim] pooled features, for the controls of the leakage.
    folds, seed : int
        Of the probes.

    Returns
    -------
    measures : dict
        Task -> its rows; ``leakage`` as in
        :func:`~speechbrain_ext.evaluation.probes.leakage_report`.
    scored : dict
        Name -> (scores, labels), of the verification.

    Example
    -------
    >>> from speechbrain_ext.evaluation.verification import generate_trials
    >>> speakers, contents = list("aabbcc"), [0, 1] * 3
    >>> measures, scored = measure_condition(
    ...     {"x": np.eye(3)[[0, 0, 1, 1, 2, 2]]}, speakers, contents,
    ...     generate_trials(speakers, contents), resamples=20)
    >>> measures["verification"]["x"]["eer"]
    0.0
    """
    check_tasks(tasks, contents is not None)
    measures, scored = {}, {}
    number, resamples = resamples, SpeakerResamples(speakers, resamples, seed)
    if "verification" in tasks:
        in_trials = SpeakerResamples(
            speakers, number, seed, rows=np.union1d(trials.enrol, trials.test)
        )
        measures["verification"], scored = measure_verification(
            vectors, trials, in_trials, reference, categories, scoring, cohort
        )
    if "content" in tasks:
        correct = {
            name: nearest_value(v, contents, speakers)
            for name, v in vectors.items()
        }
        chance = 1 / len(set(contents))
        measures["content"] = measure_accuracy(
            correct, chance, resamples, reference
        )
    if "keywords" in tasks:
        training, train_contents, train_speakers = keyword_training
        results = {
            name: keyword_classification(
                training[name],
                train_contents,
                v,
                contents,
                train_speakers,
                speakers,
            )
            for name, v in vectors.items()
        }
        rows = measure_accuracy(
            {name: result.pop("correct") for name, result in results.items()},
            1 / len(set(train_contents)),
            resamples,
            reference,
        )
        measures["keywords"] = {n: rows[n] | results[n] for n in rows}
    measures["seeds"] = {
        task: over_seeds(measures[task], key)
        for task, key in MAIN.items()
        if task in measures
    }
    if "leakage" in tasks:
        measures["leakage"] = leakage_report(
            vectors,
            {"speaker": speakers, "content": contents},
            features,
            folds,
            seed,
            resamples,
        )
    return measures, scored


def format_measures(condition, measures):
    """The measures of a condition as plain-text tables.

    Arguments
    ---------
    condition : str
        Heading.
    measures : dict
        Of :func:`measure_condition`.

    Returns
    -------
    str
        One table a task; intervals are over speakers.
    """
    parts = [f"== {condition} =="]
    if condition == "shifted":
        parts.append(
            "Each clip through a random channel of its own, also those that "
            "classifiers, cohorts and statistics are estimated on."
        )
    for task, key in MAIN.items():
        title = "EER" if task == "verification" else task
        if task not in measures:
            continue
        rows = measures[task]
        values = {n: row | {"value": row[key]} for n, row in rows.items()}
        first = next(iter(rows.values()))
        parts.append(format_comparison(values, title))
        if task == "verification":
            parts[-1] += (
                f"\n{first['trials']} trials, {first['targets']} targets"
            )
            for name, row in rows.items():
                for kind, found in row["categories"].items():
                    parts.append(
                        f"{kind} pairs, {name}\n{format_categories(found)}"
                    )
        else:
            parts[-1] += f"\nchance {100 * first['chance']:.1f} %"
        if task == "keywords":
            parts[-1] += "".join(
                f"\n{name}: balanced accuracy "
                f"{100 * row['balanced_accuracy']:.1f} %, macro-F1 "
                f"{100 * row['macro_f1']:.1f} %"
                for name, row in rows.items()
            )
        for name, found in measures["seeds"][task].items():
            values = ", ".join(f"{100 * v:.1f}" for v in found["values"])
            parts[-1] += f"\n{name} over seeds: {values}; mean "
            parts[-1] += f"{100 * found['mean']:.1f}"
            if found["sd"] is not None:
                parts[-1] += f", deviation {100 * found['sd']:.1f}"
    if "leakage" in measures:
        parts.append(format_leakage(measures["leakage"]))
    return "\n\n".join(parts)
