"""Scores beyond the plain cosine: normalisation with a cohort, and PLDA."""

import numpy as np

from speechbrain.processing.PLDA_LDA import (
    PLDA,
    Ndx,
    StatObject_SB,
    fast_PLDA_scoring,
)
from speechbrain_ext.metrics.arrays import (
    group_sums,
    to_codes,
    to_matrix,
    unit_rows,
)
from speechbrain_ext.metrics.trials import check_rows
from speechbrain_ext.utils.errors import InputError

CHUNK = 1 << 24


class PldaBackend:
    """SpeechBrain's PLDA on embedding arrays.

    Embeddings are centred, rotated to the principal components that their
    numbers support, and length-normalised (D. Garcia-Romero and C. Y.
    Espy-Wilson, "Analysis of i-vector length normalization in speaker
    recognition systems", Interspeech 2011); then
    ``speechbrain.processing.PLDA_LDA.PLDA`` is trained on them.

    Arguments
    ---------
    rank : int
        Rank of the speaker subspace; at most the dimension, and one less than
        there are speakers.
    iterations : int
        Iterations of expectation maximisation.
    length_normalise : bool
        Whether to scale embeddings to length one; SpeechBrain's script does
        not.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = np.repeat(np.arange(20), 5)
    >>> means = rng.normal(size=(20, 6))
    >>> train = means[speakers] + 0.3 * rng.normal(size=(100, 6))
    >>> backend = PldaBackend().fit(train, speakers)
    >>> same, other = backend.score(train, [0, 0], [1, 99])
    >>> bool(same > other)
    True
    """

    def __init__(self, rank=100, iterations=10, length_normalise=True):
        self.rank, self.iterations = rank, iterations
        self.length_normalise = length_normalise

    def fit(self, embeddings, speakers):
        """Train on labelled speakers who are in no trial.

        Arguments
        ---------
        embeddings : array or torch.Tensor
            [N, D].
        speakers : sequence
            [N] speaker of each row.

        Returns
        -------
        PldaBackend
            Itself.

        Raises
        ------
        InputError
            On NaN embeddings, or without two speakers and repeats of them.
        """
        vectors = to_matrix(embeddings, "PLDA training").astype(np.float64)
        names, codes = to_codes(speakers, len(vectors), "speakers")
        freedom = len(vectors) - len(names)
        if len(names) < 2 or freedom < 1:
            raise InputError(
                "PLDA needs 2 speakers or more with several utterances each, "
                f"got {len(names)} speakers in {len(vectors)} utterances"
            )
        self.mean = vectors.mean(axis=0)
        spread, axes = np.linalg.svd(
            vectors - self.mean, full_matrices=False
        )[1:]  # fmt: skip
        # Its covariances must have an inverse.
        kept = min(int(np.sum(spread > 1e-4 * spread[0])), freedom)
        self.axes = axes[:kept].T
        self.plda = PLDA(
            rank_f=min(self.rank, kept, len(names) - 1),
            nb_iter=self.iterations,
        )
        self.plda.plda(_statistics(self._prepare(vectors), codes))
        return self

    def _prepare(self, vectors):
        vectors = (vectors - self.mean) @ self.axes
        return unit_rows(vectors) if self.length_normalise else vectors

    def score(self, embeddings, enrol, test):
        """Log-likelihood ratio of each trial.

        Arguments
        ---------
        embeddings : array or torch.Tensor
            [N, D], one row per utterance.
        enrol, test : array of int
            [T] rows of the two sides of each trial.

        Returns
        -------
        scores : numpy.ndarray
            [T]

        Raises
        ------
        InputError
            On NaN embeddings, other dimensions, or rows that do not exist.
        """
        vectors = to_matrix(embeddings)
        if vectors.shape[1] != len(self.mean):
            raise InputError(
                f"embeddings have {vectors.shape[1]} dimensions, PLDA was "
                f"trained on {len(self.mean)}"
            )
        enrol, test = (check_rows(rows, len(vectors)) for rows in (enrol, test))
        test_rows, columns = np.unique(test, return_inverse=True)
        segments = _statistics(self._prepare(vectors[test_rows]))
        scores = np.empty(len(enrol))
        # fast_PLDA_scoring makes a full matrix: a part of its rows at a time.
        order = np.argsort(enrol, kind="stable")
        enrol_rows, first = np.unique(enrol[order], return_index=True)
        first = np.append(first, len(order))
        step = max(1, CHUNK // len(test_rows))
        for start in range(0, len(enrol_rows), step):
            rows = enrol_rows[start : start + step]
            part = order[first[start] : first[start + len(rows)]]
            models = _statistics(self._prepare(vectors[rows]))
            matrix = fast_PLDA_scoring(
                models, segments, Ndx(), self.plda.mean, self.plda.F,
                self.plda.Sigma, check_missing=False,
            ).scoremat  # fmt: skip
            scores[part] = matrix[
                np.searchsorted(rows, enrol[part]), columns[part]
            ]
        return scores


def _statistics(vectors, speakers=None):
    """Embeddings as SpeechBrain's PLDA takes them."""
    rows = np.arange(len(vectors))
    none = np.array([None] * len(vectors))
    return StatObject_SB(
        modelset=(rows if speakers is None else speakers).astype(object),
        segset=rows.astype(object),
        start=none,
        stop=none,
        stat0=np.ones((len(vectors), 1)),
        stat1=vectors,
    )


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


def plda_scoring(vectors, trials, cohort, rank=100, iterations=10):
    """Log-likelihood ratio of SpeechBrain's PLDA, trained on the cohort.

    Arguments
    ---------
    vectors : array or torch.Tensor
        [N, D].
    trials : Trials
        On the N utterances.
    cohort : tuple
        ([M, D] vectors, [M] speakers) of people who are in no trial.
    rank, iterations : int
        See :class:`PldaBackend`.

    Returns
    -------
    scores : numpy.ndarray
        [T].
    """
    backend = PldaBackend(rank, iterations).fit(*cohort)
    return backend.score(vectors, trials.enrol, trials.test)
