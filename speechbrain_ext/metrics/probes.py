"""What can be read from a subspace, whether or not cosine shows it.

A low cosine score between different speakers does not say that a content
subspace is free of the speaker: a linear classifier may still find it.
"""

import numpy as np
from scipy.linalg import solve
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from sklearn.random_projection import GaussianRandomProjection

from speechbrain_ext.metrics.arrays import to_codes, to_matrix
from speechbrain_ext.processing.closed_form import within_covariance
from speechbrain_ext.utils.errors import InputError

# Of a wider ``input`` the leading principal components are probed; ``PCA d``
# and ``random d`` always project all dimensions.
MAX_DIMS = 1000


class LdaProbe:
    """Linear discriminant classifier with one shrunk covariance.

    A linear probe in closed form: as accurate as a logistic regression and,
    with many classes and dimensions, many times faster. Unlike scikit-learn's
    it shrinks the pooled covariance, not that of each class, of which a grid
    has only a few utterances.

    Example
    -------
    >>> probe = LdaProbe().fit(np.array([[0], [1], [5], [6.0]]), [0, 0, 1, 1])
    >>> probe.predict(np.array([[2], [4.0]])).tolist()
    [0, 1]
    """

    def fit(self, vectors, values):
        """Fit to vectors [N, D] and their values [N]; returns itself."""
        self.classes_, codes = to_codes(values, len(vectors), "values")
        centre = vectors.mean(axis=0)
        _, means, covariance = within_covariance(vectors - centre, codes)
        self.weight = solve(covariance, means.T, assume_a="pos")
        self.bias = -np.sum(means.T * self.weight, axis=0) / 2
        self.bias -= centre @ self.weight
        return self

    def predict(self, vectors):
        """Value of the nearest class mean for each of the vectors [N, D]."""
        scores = vectors @ self.weight + self.bias
        return self.classes_[scores.argmax(axis=1)]


def linear_probe(
    embeddings, values, groups, folds=5, seed=0, make_classifier=LdaProbe
):
    """Whether a linear classifier is right, on groups that it has not seen.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row per utterance.
    values : sequence
        [N] value of the factor to read (the speaker).
    groups : sequence
        [N] value of the factor that training and test may not share (the
        content).
    folds : int
        Folds of the cross-validation over the groups; at most one per group.
    seed : int
        Seed of the assignment of groups to folds.
    make_classifier : callable
        Returns a new classifier with ``fit`` and ``predict``, such as
        scikit-learn's; inputs are standardised with the training fold.

    Returns
    -------
    correct : numpy.ndarray
        bool [N], whether each utterance was told right.

    Raises
    ------
    InputError
        On NaN embeddings, with fewer than two values or groups, or if no
        value occurs in two groups.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(20), 5)
    >>> bool(linear_probe(np.eye(4)[speakers], speakers, contents).all())
    True
    """
    vectors = to_matrix(embeddings)
    names, values = to_codes(values, len(vectors), "values")
    group_names, groups = to_codes(groups, len(vectors), "groups")
    if len(names) < 2 or len(group_names) < 2:
        raise InputError(
            "a probe needs at least 2 values and 2 groups to split by, got "
            f"{len(names)} and {len(group_names)}"
        )
    cells = np.unique(values * len(group_names) + groups)
    if np.bincount(cells // len(group_names)).max() < 2:
        raise InputError("a probe needs a value that occurs in 2 groups")
    folds = min(folds, len(group_names))
    if folds < 2:
        raise InputError(f"a probe needs 2 folds or more, got {folds}")
    shuffled = np.random.default_rng(seed).permutation(len(group_names))
    fold = shuffled[groups] % folds
    correct = np.empty(len(vectors), dtype=bool)
    for number in range(folds):
        test = fold == number
        scaler = StandardScaler().fit(vectors[~test])
        classifier = make_classifier()
        classifier.fit(scaler.transform(vectors[~test]), values[~test])
        found = classifier.predict(scaler.transform(vectors[test]))
        correct[test] = found == values[test]
    return correct


def control_projections(features, dims, seed=0):
    """Untrained projections of the input: what dimension alone explains.

    Arguments
    ---------
    features : array or torch.Tensor
        [N, layers, dim] or [N, D] pooled features.
    dims : iterable of int
        Dimensions of the subspaces to be matched.
    seed : int
        Seed of the random projections.

    Returns
    -------
    controls : dict
        ``input``: the features, flattened and standardised (of more than 1000
        dimensions their leading principal components, 1000 or all there are);
        and for each dimension d ``PCA d``, the space of the first d principal
        components, and ``random d``, projections of all standardised
        dimensions. Where the features have a rank below d, the
        principal components have, and are named by, that rank.

    Example
    -------
    >>> controls = control_projections(np.eye(9), [4, 2])
    >>> {name: array.shape[1] for name, array in controls.items()}
    {'input': 9, 'PCA 4': 4, 'random 4': 4, 'PCA 2': 2, 'random 2': 2}
    >>> list(control_projections(np.eye(9, 30), [16, 24]))
    ['input', 'PCA 8', 'random 16', 'random 24']
    """
    if hasattr(features, "flatten") and len(features.shape) == 3:
        features = features.reshape(len(features), -1)
    vectors = StandardScaler().fit_transform(to_matrix(features, "features"))
    dims = list(dict.fromkeys(int(d) for d in dims))
    leading = min(*vectors.shape, max(MAX_DIMS, *dims))
    pca = PCA(leading, random_state=seed).fit(vectors)
    variance = pca.explained_variance_
    rank = max(1, np.sum(variance > 1e-10 * variance[0]))  # without rounding
    components = pca.transform(vectors)[:, :rank]
    wide = vectors.shape[1] > MAX_DIMS
    controls = {"input": components[:, :MAX_DIMS] if wide else vectors}
    rng = np.random.default_rng(seed)
    for d in dims:
        # Turned at random: a probe scales each dimension by itself, which
        # would blow up the last components until nothing else is seen.
        axes = np.linalg.qr(rng.normal(size=(min(d, rank),) * 2))[0]
        controls[f"PCA {min(d, rank)}"] = components[:, :d] @ axes
        projection = GaussianRandomProjection(d, random_state=seed)
        controls[f"random {d}"] = projection.fit_transform(vectors)
    return controls
