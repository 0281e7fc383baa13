"""What a subspace varies with, and what two subspaces share."""

import numpy as np

from speechbrain_ext.metrics.arrays import group_sums, to_codes, to_matrix
from speechbrain_ext.utils.errors import InputError


def variance_shares(
    embeddings, speakers, contents, names=("speaker", "content")
):
    """Two-way decomposition of the variance of a subspace.

    Sums of squares over all dimensions, as in a two-way analysis of variance:
    the effect of each factor beyond the other, their interaction (cell means
    less the additive model) and what varies within cells. Shares are
    fractions of the total and descriptive: noise also has some, on average
    its degrees of freedom over N - 1, which is given beside them.

    On an incomplete or unbalanced grid the effect of a factor is what it adds
    to the other one (type II), and ``confounded`` is what both explain alike;
    on a complete one with as many takes in all cells it is 0. The shares with
    ``confounded`` sum to 1.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row per utterance.
    speakers : sequence
        [N] value of the first factor.
    contents : sequence
        [N] value of the second factor.
    names : tuple of str
        What to call the two factors in the result.

    Returns
    -------
    shares : dict
        One key per factor, ``interaction``, ``residual``,
        ``interaction_and_residual``, ``confounded`` and ``chance``, a dict of
        the shares expected of noise. With one take a cell interaction and
        residual cannot be told apart: both are None and only their sum is
        known. All are None when the embeddings do not vary.

    Raises
    ------
    InputError
        On NaN embeddings, or with a factor of one value.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(12), 4)
    >>> shares = variance_shares(np.eye(3)[speakers], speakers, contents)
    >>> round(shares["speaker"], 6), round(shares["content"], 6)
    (1.0, 0.0)
    """
    vectors = to_matrix(embeddings).astype(np.float64)
    count = len(vectors)
    codes = [
        to_codes(labels, count, name)[1]
        for labels, name in zip((speakers, contents), names)
    ]
    for name, code in zip(names, codes):
        if code.max() < 1:
            raise InputError(f"factor '{name}' has one value only")
    vectors = vectors - vectors.mean(axis=0)
    cells, cell = np.unique(codes[0] * (codes[1].max() + 1) + codes[1],
                            return_inverse=True)  # fmt: skip
    total = np.sum(vectors**2)
    alone = [_explained(vectors, code) for code in codes]
    both, rank = _additive(vectors, *codes)
    in_cells = _explained(vectors, cell)
    sizes = [code.max() + 1 for code in codes]
    parts = {
        names[0]: (both - alone[1], rank - sizes[1]),
        names[1]: (both - alone[0], rank - sizes[0]),
        "interaction": (in_cells - both, len(cells) - rank),
        "residual": (total - in_cells, count - len(cells)),
        "interaction_and_residual": (total - both, count - rank),
        "confounded": (alone[0] + alone[1] - both, sum(sizes) - 1 - rank),
    }
    if len(cells) == count:
        parts["interaction"] = parts["residual"] = (None, None)
    shares, chance = {}, {}
    for name, (squares, freedom) in parts.items():
        known = squares is not None
        shares[name] = float(squares / total) if known and total else None
        chance[name] = float(freedom / (count - 1)) if known else None
    return {**shares, "chance": chance}


def _explained(centred, code):
    """Sum of squares of the group means."""
    return np.sum(group_sums(centred, code) ** 2 / np.bincount(code)[:, None])


def _additive(centred, one, other):
    """Sum of squares of an additive model of two factors, and its rank."""
    if one.max() > other.max():
        one, other = other, one
    # Take the larger factor out of everything; solve for the smaller one.
    counts = np.bincount(other)
    table = np.zeros((one.max() + 1, len(counts)))
    np.add.at(table, (one, other), 1)
    sums = group_sums(centred, other)
    right = group_sums(centred, one) - (table / counts) @ sums
    normal = np.diag(table.sum(axis=1)) - (table / counts) @ table.T
    inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True)
    rank = np.linalg.matrix_rank(normal, tol=1e-9 * len(one), hermitian=True)
    explained = np.sum(sums**2 / counts[:, None])
    return explained + np.sum(right * (inverse @ right)), rank + len(counts)


def linear_cka(x, y):
    """Linear centred kernel alignment: do two subspaces hold the same?

    S. Kornblith et al., "Similarity of neural network representations
    revisited", ICML 2019. It is biased upwards when there are few utterances
    for the number of dimensions.

    Arguments
    ---------
    x : array or torch.Tensor
        [N, D1].
    y : array or torch.Tensor
        [N, D2], the same utterances.

    Returns
    -------
    cka : float
        From 0 (uncorrelated) to 1 (equal up to rotation and scale); NaN when
        one of them does not vary.

    Raises
    ------
    InputError
        On NaN values or different numbers of rows.

    Example
    -------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(linear_cka(x, 2 * x[:, ::-1] + 1), 6)
    1.0
    """
    x, y = (to_matrix(one).astype(np.float64) for one in (x, y))
    if len(x) != len(y):
        raise InputError(f"{len(x)} and {len(y)} utterances to compare")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    shared = np.linalg.norm(x.T @ y) ** 2
    return float(min(1.0, shared / own)) if own else np.nan
