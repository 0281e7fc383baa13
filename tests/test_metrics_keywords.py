"""Keyword classification against the confusion matrix of its predictions."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from speechbrain_ext.metrics.keywords import keyword_classification, mcnemar
from speechbrain_ext.utils.errors import InputError


def blobs(counts, seed=0, shift=3.0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(3), counts)
    vectors = shift * np.eye(3, 6)[codes] + rng.normal(size=(len(codes), 6))
    return vectors, np.array(list("abc"))[codes]


@pytest.mark.parametrize("counts", [[90, 20, 10], [90, 30, 0]])
def test_measures_equal_those_of_the_confusion_matrix(counts, recwarn):
    """Also where a class is predicted that the test does not have."""
    test, labels = blobs(counts, 1, shift=1)
    result = keyword_classification(
        *blobs([300, 50, 40], shift=1), test, labels
    )
    matrix = confusion_matrix(labels, result["predicted"], labels=list("abc"))
    assert matrix.sum(axis=1).tolist() == counts and matrix[:, 2].sum()
    occurring = np.array(counts) > 0
    hits, found = np.diag(matrix), matrix.sum(axis=0)
    true = matrix.sum(axis=1).clip(min=1)
    assert result["accuracy"] == pytest.approx(hits.sum() / 120)
    recall, precision = (hits / true)[occurring], (hits / found)[occurring]
    assert list(result["recall"].values()) == pytest.approx(recall)
    assert "".join(result["recall"]) == "abc"[: len(recall)]
    assert result["balanced_accuracy"] == pytest.approx(recall.mean())
    f1 = 2 * recall * precision / (recall + precision)
    assert result["macro_f1"] == pytest.approx(f1.mean())
    assert (result["chance"], result["majority"]) == (1 / 3, 0.75)
    assert not [w for w in recwarn if "y_pred" in str(w.message)]


def test_what_is_refused():
    train, labels = blobs([9, 9, 9])
    with pytest.raises(InputError, match="no training utterance, e.g. 'z'"):
        keyword_classification(train, labels, train[:1], ["z"])
    with pytest.raises(InputError, match="2 classes"):
        keyword_classification(train[:9], labels[:9], train[:9], labels[:9])
    with pytest.raises(InputError, match="6 dimensions, test embeddings 5"):
        keyword_classification(train, labels, train[:, :5], labels)
    for kind, cuts in (("training", (5, None)), ("test", (None, 5))):
        first, second = (labels[:cut] for cut in cuts)
        with pytest.raises(InputError, match=f"{kind} labels: expected"):
            keyword_classification(train, first, train, second)


@pytest.mark.parametrize("only, other", [(1, 8), (8, 1), (0, 5), (4, 4)])
@pytest.mark.parametrize("agreeing", [0, 100])
def test_mcnemar(only, other, agreeing):
    """The exact test less the probability of what was seen."""
    one = np.repeat([True, False, True], [only, other, agreeing])
    two = np.repeat([False, True, True], [only, other, agreeing])
    exact = binomtest(only, only + other).pvalue
    seen = {1: 9 / 512, 8: 9 / 512, 0: 1 / 32, 4: 0}[only]
    assert mcnemar(one, two) == pytest.approx(exact - seen)
    if {only, other} == {1, 8}:
        assert mcnemar(one, two) == pytest.approx(11 / 512)


def test_mcnemar_of_equal_answers():
    assert mcnemar([True, False], [True, False]) == 1
