"""Heads in closed form: LDA, channel LDA, and controls of dimension.

Each fit returns a
:class:`~speechbrain_ext.lobes.linear_subspaces.LinearSubspaces`, which is
evaluated, exported and loaded like a trained network.
"""

import numpy as np
import torch
from scipy.linalg import eigh
from sklearn.random_projection import GaussianRandomProjection

from speechbrain_ext.lobes.subspaces import FeatureStandardiser
from speechbrain_ext.processing.discriminants import (
    discriminants,
    fit_sources,
    grid_source,
    make_head,
    signed,
)
from speechbrain_ext.processing.scatter import Rows, Scatter
from speechbrain_ext.utils.errors import InputError


def lda_directions(scatter, factor, dims, shrinkage="auto"):
    """Directions of a linear discriminant analysis with a shrunk covariance.

    Arguments
    ---------
    scatter : Scatter
        Of the vectors.
    factor : str
        One of its factors.
    dims : int
        Dimensions wanted; at most one less than there are values.
    shrinkage : float or "auto"
        See :meth:`~speechbrain_ext.processing.scatter.Scatter.shrunk`.

    Returns
    -------
    directions : numpy.ndarray
        [min(dims, values - 1, D), D], most discriminative first, scaled such
        that the (shrunk) within-class covariance of the projection is the
        identity.

    Raises
    ------
    InputError
        With another shrinkage.

    Example
    -------
    >>> rows = Rows(np.array([[0, 0], [1, 4], [5, 0], [6, 4.0]]))
    >>> scatter = Scatter(rows, {"speaker": list("aabb")})
    >>> directions = lda_directions(scatter, "speaker", 1, 0.1)
    >>> bool(abs(directions[0, 0]) > abs(directions[0, 1]))
    True
    """
    within = scatter.shrunk(factor, shrinkage)
    dims = min(dims, len(scatter.counts[factor]) - 1)
    return discriminants(within, scatter.between(factor), dims, 0.0)


def standardised(features, labels):
    """Statistics of features, and covariances of the standardised features.

    Arguments
    ---------
    features : torch.Tensor
        [utterances, layers, dim].
    labels : dict
        Factor -> its value for each utterance.

    Returns
    -------
    standardiser : FeatureStandardiser
    scatter : Scatter
        Of the layers side by side, [utterances, layers * dim].

    Raises
    ------
    InputError
        With NaN features, another shape, or labels that do not fit.

    Example
    -------
    >>> standardiser, scatter = standardised(torch.randn(9, 2, 3), {})
    >>> scatter.total.diagonal().round(3).tolist()  # 8 / 9
    [0.889, 0.889, 0.889, 0.889, 0.889, 0.889]
    """
    features = torch.as_tensor(features)
    if features.dim() != 3:
        raise InputError(
            "expected features [utterances, layers, dim], got shape "
            f"{tuple(features.shape)}"
        )
    standardiser = FeatureStandardiser(features.shape[1:]).fit(features)
    std = standardiser.std.numpy().ravel()
    rows = Rows(features).less(standardiser.mean.numpy().ravel())
    rows = rows.then(lambda block: block / std.astype(block.dtype))
    return standardiser, Scatter(rows, labels)


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
    standardiser, scatter = standardised(features, labels)
    directions = {
        factor: lda_directions(scatter, factor, dims[factor], shrinkage)
        for factor in labels
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
    standardiser, scatter = standardised(features, {})
    size = len(scatter.total)
    most = min(max(dims.values()), len(features), size)
    axes = eigh(scatter.total, subset_by_index=[size - most, size - 1])[1]
    axes = signed(axes[:, ::-1].T)
    directions = {name: axes[:n] for name, n in dims.items()}
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
    standardiser = FeatureStandardiser(features.shape[1:]).fit(features)
    size, directions = standardiser.mean.numel(), {}
    for number, (name, width) in enumerate(dims.items()):
        # More dimensions than there are would add nothing.
        projection = GaussianRandomProjection(
            min(width, size),
            random_state=np.random.RandomState([seed, number]),
        )
        directions[name] = projection.fit(np.zeros((1, size))).components_
    return make_head(standardiser.mean, standardiser.std, directions)
