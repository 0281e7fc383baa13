"""Error rates of kinds of trials: gender pairs, content pairs, channels."""

import numpy as np

from speechbrain_ext.evaluation.arrays import to_codes, to_numpy
from speechbrain_ext.evaluation.report import align_columns, format_number
from speechbrain_ext.evaluation.verification import (
    check_trials,
    equal_error_rate,
)


def pair_categories(values, trials, ordered=True):
    """Name the kind of each trial by the values of its two sides.

    Arguments
    ---------
    values : sequence
        [N] value of each utterance, e.g. the gender of its speaker.
    trials : Trials
        Trials on the same N rows.
    ordered : bool
        Whether enrolment "f" against test "m" differs from the reverse.

    Returns
    -------
    categories : numpy.ndarray
        [T] strings such as ``"f-m"``, enrolment side first.

    Raises
    ------
    InputError
        If there are fewer values than utterances.

    Example
    -------
    >>> from speechbrain_ext.evaluation.verification import Trials
    >>> trials = Trials(*np.array([[0, 1], [1, 0], [0, 0]]))
    >>> pair_categories(["f", "m"], trials).tolist()
    ['f-m', 'm-f']
    >>> pair_categories(["f", "m"], trials, ordered=False).tolist()
    ['f-m', 'f-m']
    """
    names, codes = to_codes(values, None, "categories")
    one, other = codes[trials.enrol], codes[trials.test]
    if not ordered:
        one, other = np.minimum(one, other), np.maximum(one, other)
    pairs, pair = np.unique(one * len(names) + other, return_inverse=True)
    named = [f"{names[p // len(names)]}-{names[p % len(names)]}" for p in pairs]
    return np.array(named)[pair]


def category_rows(scores, labels, categories, threshold=None):
    """Error rates of each category of trials.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.
    categories : sequence
        [T] category of each trial.
    threshold : float
        Global threshold; a greater score is accepted. Default: the equal
        error threshold of all trials together.

    Returns
    -------
    rows : dict
        Category -> {targets, nontargets, eer, threshold, miss, false_alarm}:
        ``eer`` and ``threshold`` are the category's own, None where it has
        only one kind of trials; ``miss`` and ``false_alarm`` are the rates at
        the global threshold, None where there are no such trials. The row
        ``all`` comes first.

    Raises
    ------
    InputError
        On NaN scores, or without both kinds of trials in total.

    Example
    -------
    >>> rows = category_rows([3, 1, 2, 0], [1, 0, 0, 0], list("ffmm"))
    >>> rows["f"]["eer"], rows["m"]["eer"], rows["m"]["false_alarm"]
    (0.0, None, 0.0)
    """
    scores, targets = check_trials(scores, labels)
    names, codes = to_codes(to_numpy(categories), len(scores), "categories")
    if threshold is None:
        threshold = equal_error_rate(scores, targets)[1]
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    named = [("all", order), *zip(map(str, names), parts)]
    return {
        name: _row(scores[part], targets[part], threshold)
        for name, part in named
    }


def _row(scores, targets, threshold):
    count = int(targets.sum())
    row = {"targets": count, "nontargets": len(targets) - count}
    both = 0 < count < len(targets)
    own = equal_error_rate(scores, targets) if both else (None, None)
    row["eer"], row["threshold"] = own
    accepted = scores > threshold
    row["miss"] = float(np.mean(~accepted[targets])) if count else None
    row["false_alarm"] = (
        float(np.mean(accepted[~targets])) if count < len(targets) else None
    )
    return row


def format_categories(rows):
    """Error rates of categories as a plain-text table, in percent.

    Arguments
    ---------
    rows : dict
        Of :func:`category_rows`.

    Returns
    -------
    table : str

    Example
    -------
    >>> print(format_categories(
    ...     category_rows([3, 1, 2, 0], [1, 0, 0, 0], list("ffmm"))))
    category  targets  non-targets  EER %  miss %  false alarm %
    ------------------------------------------------------------
    all             1            3   0.00    0.00           0.00
    f               1            1   0.00    0.00           0.00
    m               0            2      -       -           0.00
    """
    header = ["category", "targets", "non-targets", "EER %", "miss %"]
    table = [
        [name, str(row["targets"]), str(row["nontargets"])]
        + [format_number(row[k], 100) for k in ("eer", "miss", "false_alarm")]
        for name, row in rows.items()
    ]
    return align_columns(table, [*header, "false alarm %"], left=1)
