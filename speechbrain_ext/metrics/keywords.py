"""Keyword spotting: a linear classifier on the vectors of a subspace."""

import numpy as np
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from speechbrain_ext.metrics.arrays import to_codes, to_matrix, to_numpy
from speechbrain_ext.utils.errors import InputError


def standardised_regression(regularisation=1.0, max_iterations=500):
    """scikit-learn's multinomial logistic regression on standardised input.

    Arguments
    ---------
    regularisation : float
        Strength of the L2 penalty (1 / C).
    max_iterations : int
        Of the optimiser.

    Returns
    -------
    sklearn.pipeline.Pipeline

    Example
    -------
    >>> model = standardised_regression().fit(np.eye(2), [0, 1])
    >>> model.predict(np.eye(2))
    array([0, 1])
    """
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=1 / regularisation, max_iter=max_iterations, tol=1e-3
        ),
    )


def check_classes(training, test):
    """Refuse labels that no classifier can be trained on and judged by.

    Arguments
    ---------
    training, test : sequence
        Labels of the training and of the test utterances.

    Raises
    ------
    InputError
        With fewer than two classes, or a class of the test that has no
        training utterance.

    Example
    -------
    >>> check_classes(list("aabb"), list("ab"))
    """
    classes = np.unique(to_numpy(training))
    if len(classes) < 2:
        raise InputError(f"2 classes or more are needed, got {len(classes)}")
    unseen = np.setdiff1d(to_numpy(test), classes)
    if len(unseen):
        raise InputError(
            f"{len(unseen)} class(es) of the test set have no training "
            f"utterance, e.g. '{unseen[0]}'"
        )


def keyword_classification(
    train_embeddings,
    train_labels,
    test_embeddings,
    test_labels,
    make_classifier=standardised_regression,
):
    """Linear classification of keywords in a subspace.

    Arguments
    ---------
    train_embeddings : array or torch.Tensor
        [N, D], of other speakers than the test.
    train_labels : sequence
        [N] keyword of each utterance.
    test_embeddings : array or torch.Tensor
        [M, D].
    test_labels : sequence
        [M].
    make_classifier : callable
        Returns a new classifier with ``fit`` and ``predict``, such as
        scikit-learn's, for classes numbered from 0. Default:
        :func:`standardised_regression`.

    Returns
    -------
    result : dict
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes),
        ``macro_f1``, ``recall`` (class -> its recall), ``predicted`` ([M]
        keywords), ``chance`` (1 / classes) and ``majority`` (share of the
        most frequent class of the test). Averages are over the classes that
        occur in the test.

    Raises
    ------
    InputError
        On NaN, labels that do not fit, fewer than two classes, or a test
        class that was never trained.

    Example
    -------
    >>> train, test = np.eye(2)[[0, 1, 0, 1]], np.eye(2)
    >>> result = keyword_classification(train, list("ynyn"), test, list("yn"))
    >>> result["accuracy"], result["predicted"].tolist()
    (1.0, ['y', 'n'])
    """
    train = to_matrix(train_embeddings, "training embeddings")
    test = to_matrix(test_embeddings, "test embeddings")
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"training embeddings have {train.shape[1]} dimensions, test "
            f"embeddings {test.shape[1]}"
        )
    classes, codes = to_codes(train_labels, len(train), "training labels")
    occurring, test_codes = to_codes(test_labels, len(test), "test labels")
    check_classes(classes, occurring)
    predicted = classes[make_classifier().fit(train, codes).predict(test)]
    test_labels = to_numpy(test_labels)
    # scikit-learn's balanced_accuracy_score warns of classes that are
    # predicted but do not occur; the mean of the recalls is the same number.
    scored = {"labels": occurring, "zero_division": 0}
    recall = recall_score(test_labels, predicted, average=None, **scored)
    return {
        "accuracy": float(np.mean(predicted == test_labels)),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(
            f1_score(test_labels, predicted, average="macro", **scored)
        ),
        "recall": dict(zip(map(str, occurring), recall.tolist())),
        "predicted": predicted,
        "chance": 1 / len(classes),
        "majority": float(np.bincount(test_codes).max() / len(test)),
    }


def mcnemar(correct, others):
    """Whether two classifiers differ on the same utterances.

    McNemar's test in its mid-p version: of the utterances that only one of
    them gets right, is it as often the one as the other? (M. W. Fagerland, S.
    Lydersen, P. Laake, "The McNemar test for binary matched-pairs data", BMC
    Medical Research Methodology 2013.) Utterances count as independent, which
    several of one speaker are not: where speakers are known, the interval of
    the difference over them is the test to believe.

    Arguments
    ---------
    correct, others : array of bool
        [N] whether each utterance was right.

    Returns
    -------
    float
        Probability of so large a difference by chance, two-sided.

    Example
    -------
    >>> round(mcnemar([True] * 5 + [False], [False] * 6), 5)
    0.03125
    """
    correct, others = to_numpy(correct, bool), to_numpy(others, bool)
    only, other = np.sum(correct & ~others), np.sum(others & ~correct)
    less, both = min(only, other), only + other
    return float(2 * binom.cdf(less, both, 0.5) - binom.pmf(less, both, 0.5))
