"""Thresholds and log-likelihood ratios: from scores to decisions."""

import numpy as np

from speechbrain_ext.metrics.verification import check_trials, sort_trials
from speechbrain_ext.utils.errors import InputError

# Quantiles of the scores of pairs that surely agree. Above the highest of them
# there are least of the others, but also too few to count.
ANCHORS = np.linspace(0.2, 0.8, 13)
# Share of pairs that agree beyond which none is believed.
MOST_AGREEING = 0.5


def impostor_rates(scores, anchors):
    """How many pairs that differ reach each score, if some pairs agree.

    Among the pairs of unlabelled recordings a few are of one speaker, and most
    of the highest scores are theirs. Two versions of one recording, of which
    all but the speaker was changed, score much as pairs of one speaker do; so
    their scores tell how many such pairs there can be, and what share of each
    score is theirs. (The proportion of a known part in a mixture: Blanchard,
    Lee and Scott, "Semi-supervised novelty detection", 2010.)

    Arguments
    ---------
    scores : array
        [pairs] of different recordings.
    anchors : array
        [recordings] between two such versions of one recording.

    Returns
    -------
    thresholds : numpy.ndarray
        [pairs] scores, ascending.
    rates : numpy.ndarray
        [pairs] share of the pairs that differ at or above each.
    agreeing : float
        Estimated share of pairs that agree, in [0, 0.5].

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> impostors, own = rng.normal(0, 1, 9000), rng.normal(6, 1, 1000)
    >>> found = impostor_rates([*impostors, *own], rng.normal(6, 1, 500))
    >>> round(float(found[2]), 1)
    0.1
    """
    thresholds, anchors = np.sort(scores), np.sort(anchors)
    levels = np.quantile(anchors, ANCHORS)
    above = 1 - np.searchsorted(thresholds, levels) / len(thresholds)
    shares = above / (1 - ANCHORS)
    # Each is too large by its share of other pairs, and uncertain by how many
    # anchors are above: the least of them alone would often be too small.
    error = np.sqrt(ANCHORS / (1 - ANCHORS) / len(anchors))
    agreeing = shares[np.argmin(shares * (1 + 2 * error))]
    agreeing = min(float(agreeing), MOST_AGREEING)
    every = 1 - np.arange(len(thresholds)) / len(thresholds)
    own = 1 - np.searchsorted(anchors, thresholds) / len(anchors)
    return thresholds, (every - agreeing * own) / (1 - agreeing), agreeing


def impostor_thresholds(scores, anchors, rates):
    """Thresholds for wanted rates of false acceptance, without labels.

    Arguments
    ---------
    scores, anchors
        See :func:`impostor_rates`.
    rates : list of float
        Wanted shares of false acceptance, in (0, 1).

    Returns
    -------
    dict
        Rate -> threshold; without those of which a pair alone would decide.

    Example
    -------
    >>> scores = np.linspace(0, 1, 1001)
    >>> found = impostor_thresholds(scores, [2.0, 2.0], [0.1, 0.0001])
    >>> {rate: round(threshold, 2) for rate, threshold in found.items()}
    {0.1: 0.9}
    """
    thresholds, found, _ = impostor_rates(scores, anchors)
    # The highest score that still accepts more than wanted, and the next
    last = {rate: np.flatnonzero(found > rate)[-1] for rate in rates}
    return {
        rate: float(thresholds[min(row + 1, len(thresholds) - 1)])
        for rate, row in last.items()
        if rate * len(thresholds) >= 1
    }


def fit_calibration(scores, labels):
    """Logistic calibration of scores to log-likelihood ratios.

    Both kinds of trials weigh the same, so that the ratio is that of the
    likelihoods, whatever the share of target trials.

    Arguments
    ---------
    scores : array
        [trials].
    labels : array
        [trials] 1 for targets, 0 for others.

    Returns
    -------
    scale, offset : float
        The natural log-likelihood ratio is ``scale * score + offset``.

    Raises
    ------
    InputError
        With one kind of trials, NaN, or scores that are higher the less a
        pair agrees.

    Example
    -------
    >>> scale, offset = fit_calibration([0.1, 0.4, 0.3, 0.6], [0, 0, 1, 1])
    >>> bool(scale > 0), round(-offset / scale, 2)
    (True, 0.35)
    """
    # Imported here: who only embeds does without scikit-learn.
    from sklearn.linear_model import LogisticRegression

    scores, labels = check_trials(scores, labels)
    spread = scores.std() or 1.0  # the regularisation is not to see the unit
    model = LogisticRegression(class_weight="balanced", C=100.0)
    model.fit((scores / spread)[:, None], labels)
    scale, offset = model.coef_[0, 0] / spread, model.intercept_[0]
    if scale <= 0:
        raise InputError(
            "the scores of target pairs are not above those of others: check "
            "the labels of the pairs"
        )
    return float(scale), float(offset)


def cllr(ratios, labels):
    """Cost of log-likelihood ratios, in bits: 0 is perfect, 1 says nothing.

    Brummer and du Preez, "Application-independent evaluation of speaker
    detection", 2006.

    Arguments
    ---------
    ratios : array
        [trials] natural log-likelihood ratios.
    labels : array
        [trials] 1 for targets, 0 for others.

    Example
    -------
    >>> cllr([0.0, 0.0], [0, 1])
    1.0
    """
    ratios, targets = check_trials(ratios, labels)
    of_targets = np.logaddexp(0, -ratios[targets]).mean()
    of_others = np.logaddexp(0, ratios[~targets]).mean()
    return float((of_targets + of_others) / 2 / np.log(2))


def min_cllr(scores, labels):
    """Cllr of the best calibration that keeps the order of the scores.

    The calibration is fitted to these trials themselves, by isotonic
    regression (pool adjacent violators), so that what is left is what scores
    do not tell; the rest of Cllr is bad calibration. (Brummer and du Preez, as
    above.)

    Arguments
    ---------
    scores : array
        [trials], in any unit.
    labels : array
        [trials] 1 for targets, 0 for others.

    Returns
    -------
    float
        In [0, 1] bits.

    Example
    -------
    >>> min_cllr([0.1, 0.2, 7.0], [0, 0, 1]), min_cllr([0.1, 0.1], [0, 1])
    (0.0, 1.0)
    """
    return sort_trials(scores, labels).min_cllr()


def actual_dcf(ratios, labels, p_target=0.01):
    """Normalised detection cost of the decisions that the ratios make.

    Arguments
    ---------
    ratios : array
        [trials] natural log-likelihood ratios.
    labels : array
        [trials] 1 for targets, 0 for others.
    p_target : float
        Prior probability of a target, in (0, 1).

    Example
    -------
    >>> actual_dcf([-9.0, 9.0], [0, 1])
    0.0
    """
    ratios, labels = check_trials(ratios, labels)
    accepted = ratios > -np.log(p_target / (1 - p_target))
    miss = np.mean(~accepted[labels == 1]) * p_target
    false = np.mean(accepted[labels == 0]) * (1 - p_target)
    return float((miss + false) / min(p_target, 1 - p_target))
