"""All measures of one condition, for all systems, on the same utterances."""

import numpy as np

from speechbrain_ext.evaluation.backends import cosine_scoring
from speechbrain_ext.evaluation.categories import (
    category_rows,
    format_categories,
)
from speechbrain_ext.evaluation.content import nearest_value
from speechbrain_ext.evaluation.exports import over_seeds, without_seed
from speechbrain_ext.evaluation.keywords import (
    keyword_classification,
    standardised_regression,
)
from speechbrain_ext.evaluation.probes import format_leakage, leakage_report
from speechbrain_ext.evaluation.report import format_number
from speechbrain_ext.evaluation.uncertainty import (
    SpeakerResamples,
    compare,
    format_comparison,
    format_seeds,
    resample_accuracy,
    resample_eer,
)
from speechbrain_ext.evaluation.verification import min_dcf
from speechbrain_ext.utils.errors import InputError

# What a task is about, among its numbers.
MAIN = {"verification": "eer", "content": "accuracy", "keywords": "accuracy"}
TASKS = ("verification", "content", "keywords", "leakage")


def check_tasks(tasks, has_contents, leakage_factors=None):
    """Refuse tasks that do not exist or need contents that are not there.

    Arguments
    ---------
    tasks : list of str
        Some of ``TASKS``.
    has_contents : bool
        Whether the utterances have a content factor.
    leakage_factors : list of str
        Factors of the leakage, where they are given on their own.

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
        given = task == "leakage" and leakage_factors is not None
        if task != "verification" and not given and not has_contents:
            raise InputError(
                f"Task '{task}' needs a content factor: give --content_factor "
                "COLUMN, or leave it out of --tasks"
            )
    if leakage_factors is None:
        return
    if isinstance(leakage_factors, str) or len(set(leakage_factors)) < 2:
        raise InputError(
            f"leakage_factors is {leakage_factors!r}: expected two columns of "
            "the manifest or more, e.g. [speaker, content, rate]"
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
    seeds : dict
        Means over the seeds, see
        :func:`~speechbrain_ext.evaluation.exports.over_seeds`.
    scored : dict
        Name -> (scores, labels), for the plots.
    """
    scored = {}
    for name, v in vectors.items():
        own = cohort and (cohort[0][name], cohort[1])
        scored[name] = (scoring(v, trials, own), trials.label)
    values, draws = resample_eer(scored, trials, resamples)
    rows = compare(values, draws, reference)
    for name, row in rows.items():
        scores = scored[name][0]
        row["eer"] = row.pop("value")
        row["min_dcf"] = min_dcf(scores, trials.label)
        row["trials"], row["targets"] = len(trials), trials.targets
        row["categories"] = {
            kind: category_rows(scores, trials.label, pairs)
            for kind, pairs in (categories or {}).items()
        }
    return rows, over_seeds(values, draws, reference), scored


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
    rows : dict
        Name -> entry of :func:`~speechbrain_ext.evaluation.uncertainty.compare`
        with ``accuracy`` and ``chance``.
    seeds : dict
        Means over the seeds, see
        :func:`~speechbrain_ext.evaluation.exports.over_seeds`.

    Example
    -------
    >>> from speechbrain_ext.evaluation.uncertainty import SpeakerResamples
    >>> resamples = SpeakerResamples(list("aabb"), number=9)
    >>> rows, _ = measure_accuracy({"x": [1, 0, 1, 1]}, 0.5, resamples, None)
    >>> rows["x"]["accuracy"], rows["x"]["chance"]
    (0.75, 0.5)
    """
    values, draws = resample_accuracy(correct, resamples)
    rows = compare(values, draws, reference)
    for row in rows.values():
        row["accuracy"] = row.pop("value")
        row["chance"] = chance
    return rows, over_seeds(values, draws, reference)


def leakage_over_seeds(report):
    """Means over the seeds of what probes read, and of the EERs.

    Arguments
    ---------
    report : dict
        Of :func:`~speechbrain_ext.evaluation.probes.leakage_report`.

    Returns
    -------
    seeds : dict
        ``probe`` and ``eer`` -> factor -> rows of
        :func:`~speechbrain_ext.evaluation.exports.over_seeds`, of the
        subspaces that have a value.

    Example
    -------
    >>> entry = {"probe": {"speaker": {"accuracy": 0.5}},
    ...          "eer": {"speaker": None}}
    >>> seeds = leakage_over_seeds({"factors": {"speaker": {}}, "subspaces":
    ...     {"joint@1 content": entry, "joint@2 content": entry}})
    >>> seeds["probe"]["speaker"]["joint content"]["mean"], seeds["eer"]
    (0.5, {'speaker': {}})
    """
    found = {"probe": {}, "eer": {}}
    for factor in report["factors"]:
        probes, eers = {}, {}
        for name, entry in report["subspaces"].items():
            probes[name] = entry["probe"][factor]["accuracy"]
            eers[name] = entry["eer"][factor]
        for measure, values in (("probe", probes), ("eer", eers)):
            known = {n: v for n, v in values.items() if v is not None}
            found[measure][factor] = over_seeds(known)
    return found


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
    keyword_classifier=standardised_regression,
    features=None,
    factors=None,
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
    keyword_classifier : callable
        See :func:`~speechbrain_ext.evaluation.keywords.keyword_classification`.
    features : torch.Tensor
        [N, layers, dim] pooled features, for the controls of the leakage.
    factors : dict
        Factor -> [N] values, those of the leakage. Default: ``speakers`` and
        ``contents``.
    folds, seed : int
        Of the probes.

    Returns
    -------
    measures : dict
        Task -> its rows; ``leakage`` as in
        :func:`~speechbrain_ext.evaluation.probes.leakage_report`; ``seeds``:
        task -> means over the seeds.
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
    check_tasks(tasks, contents is not None, factors and list(factors))
    measures, seeds, scored = {}, {}, {}
    number, resamples = resamples, SpeakerResamples(speakers, resamples, seed)
    if "verification" in tasks:
        in_trials = SpeakerResamples(
            speakers, number, seed, rows=np.union1d(trials.enrol, trials.test)
        )
        measures["verification"], seeds["verification"], scored = (
            measure_verification(
                vectors,
                trials,
                in_trials,
                reference,
                categories,
                scoring,
                cohort,
            )
        )
    if "content" in tasks:
        correct = {
            name: nearest_value(v, contents, speakers)
            for name, v in vectors.items()
        }
        chance = 1 / len(set(contents))
        measures["content"], seeds["content"] = measure_accuracy(
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
                keyword_classifier,
            )
            for name, v in vectors.items()
        }
        rows, seeds["keywords"] = measure_accuracy(
            {name: result.pop("correct") for name, result in results.items()},
            1 / len(set(train_contents)),
            resamples,
            reference,
        )
        measures["keywords"] = {n: rows[n] | results[n] for n in rows}
    if "leakage" in tasks:
        measures["leakage"] = leakage_report(
            vectors,
            factors or {"speaker": speakers, "content": contents},
            features,
            folds,
            seed,
            resamples,
        )
        seeds["leakage"] = leakage_over_seeds(measures["leakage"])
    measures["seeds"] = seeds
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
            parts[-1] += f", majority {100 * first['majority']:.1f} %"
            parts[-1] += "".join(
                f"\n{name}: balanced accuracy "
                f"{100 * row['balanced_accuracy']:.1f} %, macro-F1 "
                f"{100 * row['macro_f1']:.1f} %"
                for name, row in rows.items()
            )
        if measures["seeds"][task]:
            reference = next(
                n for n, row in rows.items() if row["difference"] is None
            )
            parts.append(
                format_seeds(
                    measures["seeds"][task], without_seed(reference), title
                )
            )
    if "leakage" in measures:
        parts.append(format_leakage(measures["leakage"]))
        parts.append(_format_leakage_seeds(measures["seeds"]["leakage"]))
    return "\n\n".join(filter(None, parts))


def _format_leakage_seeds(seeds):
    """A line a system and factor: mean and deviation over the seeds."""
    titles = {"probe": "linear probe of", "eer": "EER of"}
    lines = [
        f"{' '.join(name.split())}, {titles[measure]} {factor} over seeds: "
        f"mean {format_number(row['mean'], 100, 1)} %, deviation "
        f"{format_number(row['sd'], 100, 1)}"
        for measure, factors in seeds.items()
        for factor, rows in factors.items()
        for name, row in rows.items()
    ]
    return "\n".join(lines)
