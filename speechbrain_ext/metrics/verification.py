"""Error rates of verification, from scores and labels.

A trial is accepted when its score is *greater* than the threshold, which is
SpeechBrain's convention (``speechbrain.utils.metric_stats.EER``).
"""

import bisect
import dataclasses

import numpy as np
from scipy.special import xlogy

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


@dataclasses.dataclass(frozen=True)
class SortedTrials:
    """Scores of both kinds of trials, sorted once for all error rates.

    By :func:`sort_trials`. Rates of any threshold are looked up in them, tied
    scores being accepted or rejected together. 8 bytes a trial.

    Arguments
    ---------
    targets, nontargets : numpy.ndarray
        float64, ascending.

    Example
    -------
    >>> trials = sort_trials([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> trials.equal_error_rate(), trials.min_dcf(), trials.min_cllr()
    ((0.5, 0.45), 0.5, 0.5)
    """

    targets: np.ndarray
    nontargets: np.ndarray

    @property
    def sides(self):
        """Non-targets and targets."""
        return self.nontargets, self.targets

    def at(self, threshold):
        """Shares of false alarms and misses; None where there is no trial.

        Example
        -------
        >>> sort_trials([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0]).at(0.6)
        (0.0, 0.5)
        """
        rejected, misses = (
            int(np.searchsorted(side, threshold, "right"))
            for side in self.sides
        )
        targets, others = len(self.targets), len(self.nontargets)
        false_alarm = (others - rejected) / others if others else None
        return false_alarm, misses / targets if targets else None

    def equal_error_rate(self):
        """See the function :func:`equal_error_rate`; by bisection."""

        def crossed(score):
            """Whether misses have overtaken false alarms."""
            false_alarm, miss = self.at(score)
            return false_alarm <= miss

        # The highest score before the crossing, and the lowest after it
        before, after = -np.inf, np.inf
        for side in self.sides:
            place = bisect.bisect_left(side, True, key=crossed)
            before = max([before, *side[:place][-1:].tolist()])
            after = min([after, *side[place:][:1].tolist()])
        (alarm, miss), (next_alarm, next_miss) = map(self.at, (before, after))
        gap, next_gap = alarm - miss, next_alarm - next_miss
        eer = miss + gap / (gap - next_gap) * (next_miss - miss)
        if next_gap == 0:  # no rounding where the ROC has the point itself
            eer = next_miss
        return eer, self._halfway(before if gap < -next_gap else after)

    def _halfway(self, score):
        """A threshold between a score (or -inf) and the next one, if any."""
        higher = [
            float(side[place])
            for side in self.sides
            if (place := np.searchsorted(side, score, "right")) < len(side)
        ]
        if not higher:
            return score
        high = min(higher)
        if score == -np.inf:
            return float(np.nextafter(high, score))
        middle = score + (high - score) / 2
        return middle if middle < high else score

    def corners(self):
        """Operating points of which one is best, whatever errors cost.

        Any other misses as many targets and rejects fewer non-targets.

        Returns
        -------
        misses, rejected : numpy.ndarray
            [C] targets and non-targets that are rejected, ascending.

        Example
        -------
        >>> trials = sort_trials([5, 4, 3, 2, 1], [1, 0, 1, 1, 0])
        >>> [counts.tolist() for counts in trials.corners()]
        [[0, 2, 3], [1, 2, 2]]
        """
        # Just below the first of targets without a non-target between them
        rejected = np.searchsorted(self.nontargets, self.targets)
        misses = np.flatnonzero(rejected[1:] != rejected[:-1]) + 1
        misses = np.append(0, misses)
        rejected = np.append(rejected[misses], len(self.nontargets))
        return np.append(misses, len(self.targets)), rejected

    def min_dcf(self, p_target=0.01, normalize=True):
        """See the function :func:`min_dcf`."""
        if not 0 < p_target < 1:
            raise InputError(
                f"p_target must be between 0 and 1, got {p_target}"
            )
        misses, rejected = self.corners()
        others = len(self.nontargets)
        miss = misses / len(self.targets)
        false_alarm = (others - rejected) / others
        cost = (p_target * miss + (1 - p_target) * false_alarm).min()
        return float(cost / min(p_target, 1 - p_target) if normalize else cost)

    def min_cllr(self):
        """See :func:`~speechbrain_ext.metrics.calibration.min_cllr`."""
        # Imported here: who only embeds does without scikit-learn.
        from sklearn.isotonic import isotonic_regression

        # Trials between two corners get one ratio; both kinds weigh the same.
        shares = np.stack(
            [np.diff(side / side[-1], prepend=0) for side in self.corners()]
        )
        of_targets, of_others = shares[:, shares.any(axis=0)]
        weight = of_targets + of_others
        posterior = isotonic_regression(
            of_targets / weight, sample_weight=weight, y_min=0, y_max=1
        )
        bits = xlogy(of_targets, posterior) + xlogy(of_others, 1 - posterior)
        return float(abs(bits.sum()) / 2 / np.log(2))

    def rates(self, threshold):
        """Numbers of trials, their error rates at a threshold, and their own.

        Arguments
        ---------
        threshold : float
            Such as that of more trials than these.

        Returns
        -------
        dict
            {eer, threshold, miss, false_alarm, targets, nontargets}: ``eer``
            and ``threshold`` of these trials. What there are no trials for is
            None.

        Example
        -------
        >>> rates = sort_trials([3, 1, 2, 0], [1, 0, 0, 0]).rates(1.5)
        >>> rates["eer"], rates["miss"], round(rates["false_alarm"], 2)
        (0.0, 0.0, 0.33)
        """
        counts = len(self.targets), len(self.nontargets)
        own = self.equal_error_rate() if all(counts) else (None, None)
        false_alarm, miss = self.at(threshold)
        return {
            "eer": own[0],
            "threshold": own[1],
            "miss": miss,
            "false_alarm": false_alarm,
            "targets": counts[0],
            "nontargets": counts[1],
        }


def sort_trials(scores, labels):
    """Sort scores once, for several error rates.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.

    Returns
    -------
    SortedTrials

    Raises
    ------
    InputError
        See :func:`check_trials`.

    Example
    -------
    >>> sort_trials([0.5, 0.1, 0.2], [1, 0, 0]).nontargets.tolist()
    [0.1, 0.2]
    """
    return _sorted(*check_trials(scores, labels))


def _sorted(scores, targets):
    """The same of checked arrays, which may be of one kind."""
    # Quicker than indexing where the labels are in no order
    sides = [np.compress(side, scores) for side in (targets, ~targets)]
    for side in sides:
        side.sort()
    return SortedTrials(*sides)


def equal_error_rate(scores, labels):
    """Equal error rate, exact.

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
    return sort_trials(scores, labels).equal_error_rate()


def min_dcf(scores, labels, p_target=0.01, normalize=True):
    """Minimum of the detection cost function, exact.

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
    return sort_trials(scores, labels).min_dcf(p_target, normalize)


def group_error_rates(scores, labels, groups, threshold):
    """Error rates of each group of trials.

    Arguments
    ---------
    scores : array or torch.Tensor
        [T], higher for the same speaker.
    labels : array or torch.Tensor
        [T], 1 = target, 0 = non-target.
    groups : sequence
        [T] group of each trial, such as the genders of its two sides.
    threshold : float
        That of all trials, at which ``miss`` and ``false_alarm`` are taken.

    Returns
    -------
    rates : dict
        Group -> its :meth:`SortedTrials.rates`.

    Raises
    ------
    InputError
        On NaN scores, or without both kinds of trials in total.

    Example
    -------
    >>> scores, labels, groups = [3, 1, 2, 0], [1, 0, 0, 0], list("ffmm")
    >>> rates = group_error_rates(scores, labels, groups, 2.5)
    >>> rates["f"]["eer"], rates["m"]["eer"], rates["m"]["false_alarm"]
    (0.0, None, 0.0)
    """
    scores, targets = check_trials(scores, labels)
    names, codes = to_codes(to_numpy(groups), len(scores), "groups")
    return {
        str(name): _sorted(scores[part], targets[part]).rates(threshold)
        for number, name in enumerate(names)
        for part in [codes == number]
    }
