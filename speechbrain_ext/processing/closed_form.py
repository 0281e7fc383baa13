"""Heads in closed form: LDA, channel LDA, and controls of dimension.

Each fit returns a
:class:`~speechbrain_ext.lobes.linear_subspaces.LinearSubspaces`, which is
evaluated, exported and loaded like a trained network.
"""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.random_projection import GaussianRandomProjection

from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.metrics.arrays import group_sums, to_codes, to_matrix
from speechbrain_ext.processing.discriminants import (
    BLOCK,
    check_values,
    discriminants,
    fit_sources,
    grid_source,
    make_head,
    shrunk,
)
from speechbrain_ext.utils.errors import InputError


def within_covariance(vectors, values, shrinkage="auto"):
    """Class means and shrunk within-class covariance.

    The pooled within-class covariance S is replaced by
    ``(1 - a) S + a trace(S) / D I`` (Ledoit and Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", 2004), so that more
    dimensions than utterances do no harm.

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    values : sequence
        [N] value of the factor of each row.
    shrinkage : float or "auto"
        The ``a`` above, in [0, 1]; ``"auto"`` estimates it.

    Returns
    -------
    counts : numpy.ndarray
        [K] rows of each value.
    means : numpy.ndarray
        [K, D] mean of each value.
    covariance : numpy.ndarray
        float64 [D, D], positive definite.

    Raises
    ------
    InputError
        With one value, no repeated value, or another shrinkage.

    Example
    -------
    >>> vectors = np.array([[-3], [-1], [1], [3.0]])
    >>> counts, means, covariance = within_covariance(vectors, [0, 0, 1, 1])
    >>> means.tolist(), covariance.round(3).tolist()
    ([[-2.0], [2.0]], [[1.0]])
    """
    count = len(vectors)
    names, codes = to_codes(values, count, "values")
    check_values(len(names), count)
    counts = np.bincount(codes)
    means = group_sums(vectors, codes) / counts[:, None]
    means = means.astype(vectors.dtype)
    size = vectors.shape[1]
    covariance, fourth = np.zeros((size, size)), 0.0
    for start in range(0, count, BLOCK):
        rows = slice(start, start + BLOCK)
        within = vectors[rows] - means[codes[rows]]
        covariance += within.T @ within / count
        fourth += np.sum(np.einsum("ij,ij->i", within, within) ** 2) / count
    if shrinkage == "auto":
        # Variance of the covariance's entries, and their distance from those
        # of a multiple of the identity.
        squares = np.sum(covariance**2)
        noise = (fourth - squares) / count
        distance = squares - np.trace(covariance) ** 2 / size
        shrinkage = min(noise / distance, 1.0) if distance > 0 < noise else 0.0
    # A floor, for factors that leave no variance within their values.
    floor = 1e-6 * np.vdot(vectors, vectors) / vectors.size
    return counts, means, shrunk(covariance, shrinkage, floor)


def lda_directions(vectors, values, dims, shrinkage="auto"):
    """Directions of a linear discriminant analysis with a shrunk covariance.

    Arguments
    ---------
    vectors : array
        [N, D].
    values : sequence
        [N] value of the factor of each row.
    dims : int
        Dimensions wanted; at most one less than there are values.
    shrinkage : float or "auto"
        See :func:`within_covariance`.

    Returns
    -------
    directions : numpy.ndarray
        [min(dims, values - 1, D), D], most discriminative first, scaled such
        that the (shrunk) within-class covariance of the projection is the
        identity.

    Raises
    ------
    InputError
        With one value, no repeated value, or another shrinkage.

    Example
    -------
    >>> vectors = np.array([[0, 0], [1, 4], [5, 0], [6, 4.0]])
    >>> directions = lda_directions(vectors, list("aabb"), 1, 0.1)
    >>> bool(abs(directions[0, 0]) > abs(directions[0, 1]))
    True
    """
    vectors = to_matrix(vectors, "features")
    vectors = vectors - vectors.mean(axis=0, dtype=np.float64)
    counts, means, covariance = within_covariance(vectors, values, shrinkage)
    between = (means.T * counts) @ means / len(vectors)
    dims = min(dims, len(counts) - 1)
    return discriminants(covariance, between, dims, 0.0)


def standardised(features):
    """Statistics of features [N, layers, dim], and the features as [N, D]."""
    features = torch.as_tensor(features)
    if features.dim() != 3:
        raise InputError(
            "expected features [utterances, layers, dim], got shape "
            f"{tuple(features.shape)}"
        )
    standardiser = FeatureStandardiser(features.shape[1:]).fit(features)
    # One copy, in float64
    vectors = features.cpu() - standardiser.mean.double()
    vectors = vectors.div_(standardiser.std).flatten(1)
    return standardiser, to_matrix(vectors, "features")


def each(value, names):
    """A value per name, from one number or from a mapping.

    Example
    -------
    >>> each(0.3, ["speaker", "content"])
    {'speaker': 0.3, 'content': 0.3}
    """
    return (
        dict(value) if hasattr(value, "keys") else dict.fromkeys(names, value)
    )


def grid_lda(features, labels, dims=512, shrinkage="auto"):
    """Subspaces by one linear discriminant analysis per factor.

    Arguments
    ---------
    features : torch.Tensor
        [utterances, layers, dim] of a grid.
    labels : dict
        Factor -> its value for each utterance.
    dims : int or dict
        Dimensions wanted (of each factor); a subspace has at most one less
        than its factor has values.
    shrinkage : float or "auto"
        See :func:`lda_directions`.

    Returns
    -------
    head : LinearSubspaces
        One subspace per factor; the projections have mean zero on the grid.

    Raises
    ------
    InputError
        With NaN features, labels that do not fit, or a factor of one value.

    Example
    -------
    >>> features = torch.randn(12, 1, 5)
    >>> head = grid_lda(features, {"speaker": list("aaabbbcccddd")})
    >>> head(features)["speaker"].shape
    torch.Size([12, 3])
    """
    if not labels:
        raise InputError("no factor to make a subspace for")
    dims = each(dims, labels)
    standardiser, vectors = standardised(features)
    directions = {
        factor: lda_directions(vectors, values, dims[factor], shrinkage)
        for factor, values in labels.items()
    }
    return make_head(standardiser.mean, standardiser.std, directions)


def channel_lda(
    takes,
    labels,
    dims=60,
    channel_weight=1.0,
    shrinkage=0.3,
    layers=None,
):
    """Subspaces by one LDA per factor that has seen every utterance twice.

    As :func:`grid_lda` on the utterances as recorded, but what a channel does
    to an utterance counts as variance within the classes too: the covariance
    of the differences between the same utterance through a channel and as
    recorded. Pooling the takes in :func:`grid_lda` instead blurs the class
    means, and weighs the channel only once in as many takes.

    Arguments
    ---------
    takes : torch.Tensor
        [takes, utterances, layers, dim] of a grid: as recorded, then the same
        utterances through random channels. Without the latter, the channel
        is left out.
    labels : dict
        Factor -> its value for each utterance.
    dims : int or dict
        Dimensions wanted (of each factor; all if it is not named); one has
        at most one less than its factor has values.
    channel_weight : float
        Weight of the covariance of the channel; not negative.
    shrinkage : float or dict
        (Of each factor.) See
        :func:`~speechbrain_ext.processing.discriminants.discriminants`.
    layers : dict
        Factor -> positions of the layers that it is read from, e.g.
        ``{"content": [-1]}``. Default: all.

    Returns
    -------
    head : LinearSubspaces
        One subspace per factor; it standardises its input.

    Raises
    ------
    InputError
        With NaN features, labels that do not fit, a factor of one value, a
        layer that is not there, or a negative weight.

    Example
    -------
    >>> takes = torch.randn(2, 12, 3, 5)
    >>> head = channel_lda(
    ...     takes, {"speaker": list("aaabbbcccddd")}, layers={"speaker": [0]}
    ... )
    >>> head(takes[0])["speaker"].shape
    torch.Size([12, 3])
    """
    if channel_weight < 0:
        raise InputError(
            f"channel_weight must not be negative, got {channel_weight}"
        )
    return fit_sources(
        [grid_source(takes, labels, layers)],
        dict.fromkeys(labels, [1.0]),
        each(dims, labels),
        each(shrinkage, labels),
        layers,
        channel_weight,
    )


def pca_subspaces(features, dims):
    """The same principal components in every subspace: it separates nothing.

    Arguments
    ---------
    features : torch.Tensor
        [utterances, layers, dim].
    dims : dict
        Subspace -> components; at most the rank of the features.

    Returns
    -------
    head : LinearSubspaces

    Raises
    ------
    InputError
        With NaN features.

    Example
    -------
    >>> head = pca_subspaces(torch.randn(9, 1, 5), {"speaker": 2})
    >>> head(torch.randn(3, 1, 5))["speaker"].shape
    torch.Size([3, 2])
    """
    standardiser, vectors = standardised(features)
    pca = PCA(min(max(dims.values()), *vectors.shape), random_state=0)
    pca.fit(vectors)
    directions = {name: pca.components_[:n] for name, n in dims.items()}
    return make_head(standardiser.mean, standardiser.std, directions)


def random_subspaces(features, dims, seed=0):
    """One Gaussian random projection per subspace: dimension, not training.

    Arguments
    ---------
    features : torch.Tensor
        [utterances, layers, dim]; only their statistics are used.
    dims : dict
        Subspace -> its dimension; each has a projection of its own.
    seed : int
        Of the projections.

    Returns
    -------
    head : LinearSubspaces

    Raises
    ------
    InputError
        With NaN features.

    Example
    -------
    >>> head = random_subspaces(torch.randn(9, 1, 5), {"speaker": 2})
    >>> head(torch.randn(3, 1, 5))["speaker"].shape
    torch.Size([3, 2])
    """
    standardiser, vectors = standardised(features)
    directions = {}
    for number, (name, width) in enumerate(dims.items()):
        # More dimensions than there are would add nothing.
        projection = GaussianRandomProjection(
            min(width, vectors.shape[1]),
            random_state=np.random.RandomState([seed, number]),
        )
        directions[name] = projection.fit(vectors[:1]).components_
    return make_head(standardiser.mean, standardiser.std, directions)
