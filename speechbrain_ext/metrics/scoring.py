"""Cosine scores, as they are and normalised with a cohort."""

import numpy as np

from speechbrain_ext.metrics.arrays import (
    group_sums,
    to_codes,
    to_matrix,
    unit_rows,
)
from speechbrain_ext.utils.errors import InputError

CHUNK = 1 << 24  # scores in memory at a time


def cosine_scoring(vectors, trials, cohort=None):
    """Cosine score of each trial.

    Arguments
    ---------
    vectors : array or torch.Tensor
        [N, D].
    trials : Trials
        On the N utterances.
    cohort : tuple
        Not used.

    Returns
    -------
    scores : numpy.ndarray
        [T].

    Example
    -------
    >>> from speechbrain_ext.metrics.trials import generate_trials
    >>> trials = generate_trials([0, 0, 1, 1])
    >>> cosine_scoring(np.eye(2)[[0, 0, 1, 1]], trials).tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    return trials.score(vectors)


def s_norm_scoring(vectors, trials, cohort, top=300):
    """Cosine with adaptive symmetric normalisation (AS-norm).

    Each score is standardised with the cosines of its enrolment side to its
    ``top`` nearest speakers of the cohort, and with those of its test side;
    the mean of both is the result. P. Matejka et al., "Analysis of score
    normalization in multilingual speaker recognition", Interspeech 2017.

    Arguments
    ---------
    vectors : array or torch.Tensor
        [N, D].
    trials : Trials
        On the N utterances.
    cohort : tuple
        ([M, D] vectors, [M] speakers) of people who are in no trial, best from
        the domain of the trials; of each speaker the mean vector is taken.
    top : int
        Speakers that count, the nearest ones of each side; at most all.

    Returns
    -------
    scores : numpy.ndarray
        [T], no longer in [-1, 1].

    Raises
    ------
    InputError
        On NaN vectors, or a cohort of fewer than two speakers.

    Example
    -------
    >>> from speechbrain_ext.metrics.trials import generate_trials
    >>> rng = np.random.default_rng(0)
    >>> trials = generate_trials(list("aabb"))
    >>> cohort = rng.normal(size=(50, 8)), np.arange(50)
    >>> s_norm_scoring(rng.normal(size=(4, 8)), trials, cohort, top=20).shape
    (6,)
    """
    unit = unit_rows(to_matrix(vectors))
    others = unit_rows(to_matrix(cohort[0], "cohort"))
    codes = to_codes(cohort[1], len(others), "cohort speakers")[1]
    others = unit_rows(group_sums(others, codes) / np.bincount(codes)[:, None])
    top = min(top, len(others))
    if top < 2:
        raise InputError(
            f"score normalisation needs a cohort of 2 speakers, got {top}"
        )
    mean, deviation = np.empty((2, len(unit)))
    step = max(1, CHUNK // len(others))
    for start in range(0, len(unit), step):
        part = slice(start, start + step)
        cosine = unit[part] @ others.T
        nearest = np.partition(cosine, -top, axis=1)[:, -top:]
        mean[part] = nearest.mean(axis=1)
        deviation[part] = nearest.std(axis=1, ddof=1)
    # A cohort all at one distance tells nothing of the scale.
    deviation = np.maximum(deviation, 1e-6)
    scores = trials.score(vectors)
    sides = [
        (scores - mean[rows]) / deviation[rows]
        for rows in (trials.enrol, trials.test)
    ]
    return (sides[0] + sides[1]) / 2
