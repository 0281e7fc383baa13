"""Error rates of verification, from scores and labels.

A trial is accepted when its score is *greater* than the threshold, which is
SpeechBrain's convention (``speechbrain.utils.metric_stats.EER``).
"""

import numpy as np

from speechbrain_ext.metrics.arrays import to_codes, to_numpy
from speechbrain_ext.utils.errors import InputError


def check_trials(scores, labels):
    """Scores and labels as arrays, or an error that says what is wrong.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T] finite numbers, higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.

    Returns
    -------
    scores : numpy.ndarray
        [T] float64.
    labels : numpy.ndarray
        [T] bool.

    Raises
    ------
    InputError
        Different lengths, NaN or infinite scores, other labels than 0 and 1,
        or a class without trials.

    Example
    -------
    >>> check_trials([0.5, 0.1], [1, 0])[1].tolist()
    [True, False]
    """
    # In float64, where there is a threshold between any two float32 scores.
    scores, labels = to_numpy(scores, np.float64), to_numpy(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise InputError(
            "expected one score and one label per trial, got shapes "
            f"{scores.shape} and {labels.shape}"
        )
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores))
        raise InputError(
            f"{len(bad)} of {len(scores)} scores are NaN or infinite "
            f"(first: trial {bad[0]})"
        )
    targets = labels == 1
    if not (targets | (labels == 0)).all():
        raise InputError("labels must be 1 (target) or 0 (non-target)")
    if targets.all() or not targets.any():
        raise InputError(
            "error rates need target and non-target trials, got "
            f"{targets.sum()} target and {(~targets).sum()} non-target"
        )
    return scores, targets


def _error_rates(scores, labels):
    """Every operating point: false alarms, misses, highest rejected score.

    The first point accepts all trials, point i rejects the scores up to the
    i-th distinct one. Tied scores are accepted or rejected together.
    """
    scores, targets = check_trials(scores, labels)
    order = np.argsort(scores)
    scores, targets = scores[order], targets[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    misses = np.cumsum(targets)[last]
    rejections = last + 1 - misses
    n_targets, n_nontargets = targets.sum(), (~targets).sum()
    miss = np.append(0.0, misses / n_targets)
    false_alarm = np.append(1.0, (n_nontargets - rejections) / n_nontargets)
    return false_alarm, miss, np.append(-np.inf, scores[last])


def _between(thresholds, point):
    """A threshold for an operating point, halfway to the next score."""
    if point == 0:
        return float(np.nextafter(thresholds[1], -np.inf))
    low = float(thresholds[point])
    if point + 1 == len(thresholds):
        return low
    high = float(thresholds[point + 1])
    middle = low + (high - low) / 2
    return middle if middle < high else low


def equal_error_rate(scores, labels):
    """Equal error rate, exact, in O(T log T).

    The rate where the straight lines between neighbouring points of the ROC
    cross false alarm = miss. Without tied scores it is within
    1 / min(targets, non-targets) of ``speechbrain.utils.metric_stats.EER``.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.

    Returns
    -------
    eer : float
        As a fraction: 0 when perfect, 0.5 when all scores are tied, 1 when
        reversed.
    threshold : float
        Between two scores, at the point of the ROC where the two rates are
        nearest to each other; accept what is greater.

    Raises
    ------
    InputError
        On NaN scores, or without both kinds of trials.

    Example
    -------
    >>> equal_error_rate([0.9, 0.6, 0.5, 0.1], [1, 1, 0, 0])
    (0.0, 0.55)
    >>> equal_error_rate([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])[0]
    0.5
    """
    false_alarm, miss, thresholds = _error_rates(scores, labels)
    gap = false_alarm - miss
    after = int(np.argmax(gap <= 0))
    before = after - 1
    share = gap[before] / (gap[before] - gap[after])
    eer = miss[before] + share * (miss[after] - miss[before])
    if gap[after] == 0:  # no rounding where the ROC has the point itself
        eer = miss[after]
    nearest = before if gap[before] < -gap[after] else after
    return float(eer), _between(thresholds, nearest)


def min_dcf(scores, labels, p_target=0.01, normalize=True):
    """Minimum of the detection cost function, exact, in O(T log T).

    The cost ``p_target * miss + (1 - p_target) * false_alarm`` (both kinds of
    error cost 1), minimised over the threshold (NIST SRE 2010 evaluation
    plan).

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.
    p_target : float
        Prior probability of a target trial, in (0, 1).
    normalize : bool
        Divide by the cost of deciding without scores,
        ``min(p_target, 1 - p_target)``, so that 1 means useless. Without,
        the value is that of ``speechbrain.utils.metric_stats.minDCF`` (for
        ``p_target`` up to 0.5: that one never tries to accept everything).

    Returns
    -------
    cost : float

    Raises
    ------
    InputError
        On NaN scores, without both kinds of trials, or when ``p_target`` is
        no probability.

    Example
    -------
    >>> min_dcf([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    0.5
    >>> min_dcf([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], normalize=False)
    0.005
    """
    if not 0 < p_target < 1:
        raise InputError(f"p_target must be between 0 and 1, got {p_target}")
    false_alarm, miss, _ = _error_rates(scores, labels)
    cost = (p_target * miss + (1 - p_target) * false_alarm).min()
    return float(cost / min(p_target, 1 - p_target) if normalize else cost)


def group_error_rates(scores, labels, groups=None):
    """Error rates of all trials, and of each group of trials.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.
    groups : sequence, optional
        [T] group of each trial, such as the genders of its two sides.

    Returns
    -------
    rates : dict
        Group -> {eer, threshold, miss, false_alarm, targets, nontargets}, all
        trials together under the empty name, which comes first. ``eer`` and
        ``threshold`` are the group's own; ``miss`` and ``false_alarm`` are the
        rates at the equal error threshold of all trials. What a group has no
        trials for is None.

    Raises
    ------
    InputError
        On NaN scores, or without both kinds of trials in total.

    Example
    -------
    >>> rates = group_error_rates([3, 1, 2, 0], [1, 0, 0, 0], list("ffmm"))
    >>> rates["f"]["eer"], rates["m"]["eer"], rates["m"]["false_alarm"]
    (0.0, None, 0.0)
    """
    scores, targets = check_trials(scores, labels)
    overall = equal_error_rate(scores, targets)
    rates = {"": _rates(scores, targets, overall, overall[1])}
    names, codes = [], None
    if groups is not None:
        names, codes = to_codes(to_numpy(groups), len(scores), "groups")
    for number, name in enumerate(map(str, names)):
        part = codes == number
        own = (None, None)
        if 0 < targets[part].sum() < part.sum():
            own = equal_error_rate(scores[part], targets[part])
        rates[name] = _rates(scores[part], targets[part], own, overall[1])
    return rates


def _rates(scores, targets, own, threshold):
    accepted = scores > threshold
    wrong = {"miss": ~accepted[targets], "false_alarm": accepted[~targets]}
    return {
        "eer": own[0],
        "threshold": own[1],
        **{k: float(np.mean(v)) if len(v) else None for k, v in wrong.items()},
        "targets": len(wrong["miss"]),
        "nontargets": len(wrong["false_alarm"]),
    }
