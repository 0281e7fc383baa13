"""Rivals of the post-training: closed forms of the field, on the same grid.

Each fit is affine in the pooled features, and returns directions. Features are
those of :func:`~speechbrain_ext.processing.closed_form.grid_lda`: standardised
by the training grid, layers flattened. The rivals share one pass over them, a
:class:`~speechbrain_ext.processing.scatter.Scatter`. :func:`rival_heads` makes
heads of the directions, which are evaluated, exported and loaded like a trained
network.

Nothing says that a factor is the speaker or the content but the names of the
rivals, which are those of their papers: "speaker" is the factor that is
verified.
"""

from dataclasses import replace

import numpy as np
from scipy.linalg import eigh, solve_triangular

from speechbrain_ext.metrics.arrays import group_sums, to_matrix
from speechbrain_ext.processing.closed_form import lda_directions, standardised
from speechbrain_ext.processing.discriminants import (
    columns_of,
    make_head,
    signed,
)

# Of one subspace, that of the content; of every factor; of none, as PLDA is a
# back-end, speechbrain_ext.processing.plda.
OF_CONTENT = ("speaker_collapse", "regression_removal", "content_map")
OF_EACH = ("leace", "wccn")
RIVALS = (*OF_CONTENT, *OF_EACH, "plda")
RELATIVE = 1e-6  # of the largest variance: what is less is rounding


def collapse(means, variance=0.95):
    """What is left without the directions in which the means of values differ.

    The principal components of the means span the subspace of the factor; the
    vectors are projected onto its orthogonal complement (O. D. Liu, H. Tang, S.
    Goldwater, "Self-supervised predictive coding models encode speaker and
    phonetic information in orthogonal subspaces", Interspeech 2023, arXiv
    2305.12464).

    Arguments
    ---------
    means : array
        [K, D] mean of each value.
    variance : float
        Share of the variance of the means that the components explain.

    Returns
    -------
    numpy.ndarray
        [D - components, D], orthonormal.

    Example
    -------
    >>> abs(collapse(np.array([[2.0, 1], [-2, 1]]))).round(6).tolist()
    [[0.0, 1.0]]
    """
    means = means - means.mean(axis=0)
    spread, axes = eigh(means.T @ means)
    share = np.cumsum(spread[::-1]) / np.sum(spread)
    # Rounding must not ask for one more component.
    return axes.T[::-1][1 + np.searchsorted(share, variance - RELATIVE) :]


def erasure(total, between):
    """What is left where nothing may differ between the values of a factor.

    Arguments
    ---------
    total, between : array
        Covariance [D, D] of the vectors, and of what differs between values.

    Returns
    -------
    left : numpy.ndarray
        [rank of total - rank of between, D], whitened directions in which
        nothing differs.
    unseen : numpy.ndarray
        [D - rank of total, D], orthonormal directions of no variance at all.

    Example
    -------
    >>> left, unseen = erasure(np.diag([4.0, 1, 0]), np.diag([2.0, 0, 0]))
    >>> abs(left).tolist(), abs(unseen).tolist()
    ([[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    """
    variances, axes = eigh(total)
    there = variances > RELATIVE * variances[-1]
    whiten = (axes[:, there] / np.sqrt(variances[there])).T
    found, turned = eigh(whiten @ between @ whiten.T)
    left = turned[:, found < RELATIVE * max(found[-1], RELATIVE)]
    return left.T @ whiten, axes[:, ~there].T


def leace(scatter, factors):
    """The map that erases what tells the values of some factors.

    Of the affine maps after which no linear classifier tells the values LEACE
    is the one that changes the vectors least (N. Belrose et al., "LEACE:
    Perfect linear concept erasure in closed form", NeurIPS 2023, arXiv
    2306.03819): whitened, they lose what differs between the values.

    Arguments
    ---------
    scatter : Scatter
        Of the vectors.
    factors : list of str
        Those that are erased.

    Returns
    -------
    numpy.ndarray
        [D, D].

    Example
    -------
    >>> from speechbrain_ext.processing.scatter import Rows, Scatter
    >>> vectors = np.array([[2.0, 3], [2, 1], [-2, -1], [-2, -3]])
    >>> scatter = Scatter(Rows(vectors), {"speaker": list("aabb")})
    >>> erased = vectors @ leace(scatter, ["speaker"]).T
    >>> abs(erased[:2].mean(axis=0)).round(6).tolist()
    [0.0, 0.0]
    """
    between = sum(map(scatter.between, factors))
    left, unseen = erasure(scatter.total, between)
    return scatter.total @ left.T @ left + unseen.T @ unseen


def regress(total, shared):
    """The least-squares map from vectors to targets, of least norm.

    Arguments
    ---------
    total, shared : array
        Covariance [D, D] of the vectors, and [E, D] of targets with them.

    Returns
    -------
    numpy.ndarray
        [E, D].

    Example
    -------
    >>> regress(np.diag([2.0, 0]), np.array([[6.0, 0]])).round(6).tolist()
    [[3.0, 0.0]]
    """
    return shared @ np.linalg.pinv(total, RELATIVE, hermitian=True)


def regression_removal(total, kept, shared):
    """What of the vectors a linear regression on speaker vectors leaves.

    As Eta-WavLM (arXiv 2505.19273) does it for frames: ``x - A s - b``. There a
    speaker encoder gives ``s`` of each utterance. Here it is what a regression
    on the pooled features tells of ``s``, so that the head needs no other
    encoder; where ``s`` is a linear subspace of them, that is itself.

    Arguments
    ---------
    total : array
        Covariance [D, D] of the vectors.
    kept : array of int
        Columns that the subspace has; the speaker may be read from others.
    shared : array
        Covariance [E, D] of speaker vectors with these vectors.

    Returns
    -------
    numpy.ndarray
        [kept, D].

    Example
    -------
    >>> total = np.diag([4.0, 1])
    >>> regression_removal(total, np.array([0, 1]), total[:1]).round(6).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    read = regress(total, shared)
    told = total @ read.T
    return np.eye(len(total))[kept] - regress(read @ told, told[kept]) @ read


def content_map(scatter, content, speaker, dims=100):
    """The map to what all speakers share when they say the same.

    Speech content factorisation: with a row per content and the vectors of all
    speakers side by side, a truncated singular value decomposition gives
    factors of the contents that all speakers share (H. Kamper et al.,
    "LinearVC", Interspeech 2025, arXiv 2506.01510); one map to them for all
    speakers is their least-squares regression on the vectors ("Universal speech
    content factorization", arXiv 2603.08977).

    Arguments
    ---------
    scatter : Scatter
        Of the vectors.
    content, speaker : str
        Two of its factors. Where a speaker does not say a content, the sum of
        their effects stands for it (least squares over all others).
    dims : int
        Rank of the map; at most one less than there are contents.

    Returns
    -------
    numpy.ndarray
        [rank, D].

    Example
    -------
    >>> from speechbrain_ext.processing.scatter import Rows, Scatter
    >>> vectors = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    >>> labels = {"content": list("xyxy"), "speaker": list("aabb")}
    >>> found = content_map(Scatter(Rows(vectors), labels), *labels)
    >>> abs(found / found.max()).round(6).tolist()
    [[0.0, 1.0]]
    """
    said, by = scatter.codes[content], scatter.codes[speaker]
    counts, sizes = scatter.counts[content], scatter.counts[speaker]
    of_content = np.zeros_like(scatter.means[content])
    of_speaker = np.zeros((len(sizes), 1))
    if len(np.unique(said * len(sizes) + by)) < len(counts) * len(sizes):
        of_content, of_speaker = _effects(scatter, content, speaker)
    # Products of rows, of which there are fewer than columns
    products = np.zeros((len(counts), len(counts)))
    for one, rows in enumerate(
        np.split(np.argsort(by, kind="stable"), np.cumsum(sizes)[:-1])
    ):
        cells = of_content + of_speaker[one]
        there, cell, repeats = np.unique(
            said[rows], return_inverse=True, return_counts=True
        )
        vectors = np.concatenate([*replace(scatter.rows, which=rows)])
        cells[there] = group_sums(vectors, cell) / repeats[:, None]
        cells -= cells.mean(axis=0)
        products += cells @ cells.T
    squares, axes = eigh(products)
    kept = np.flatnonzero(squares > RELATIVE * squares[-1])[::-1][:dims]
    factors = axes[:, kept] * np.sqrt(squares[kept] / len(sizes))
    shared = (factors.T * counts) @ scatter.means[content] / len(said)
    return signed(regress(scatter.total, shared))


def _effects(scatter, *factors):
    """What each value of two factors adds, by least squares: [K, D] each."""
    codes, counts, means = (
        [of[factor] for factor in factors]
        for of in (scatter.codes, scatter.counts, scatter.means)
    )
    first = len(counts[0])
    both = np.diag(np.concatenate(counts).astype(np.float64))
    np.add.at(both, (codes[0], first + codes[1]), 1)
    both[first:, :first] = both[:first, first:].T
    sums = np.concatenate([c[:, None] * m for c, m in zip(counts, means)])
    return np.split(np.linalg.pinv(both, 1e-9, hermitian=True) @ sums, [first])


def wccn(scatter, factor):
    """Within-class covariance normalisation.

    A. O. Hatch, S. Kajarekar, A. Stolcke, "Within-class covariance
    normalization for SVM-based speaker recognition", Interspeech 2006; the
    covariance is shrunk, see
    :func:`~speechbrain_ext.processing.scatter.ledoit_wolf`.

    Arguments
    ---------
    scatter : Scatter
        Of the vectors.
    factor : str
        One of its factors.

    Returns
    -------
    numpy.ndarray
        [D, D], after which the shrunk covariance within the values is the
        identity.

    Example
    -------
    >>> from speechbrain_ext.processing.scatter import Rows, Scatter
    >>> vectors = np.array([[2.0, 1], [0, -1], [0, 1], [-2, -1]])
    >>> wccn(Scatter(Rows(vectors), {"a": list("aabb")}), "a").shape
    (2, 2)
    """
    lower = np.linalg.cholesky(scatter.shrunk(factor))
    return solve_triangular(lower, np.eye(len(lower)), lower=True)


def _shared(rows, others):
    """Covariance [E, D] of other vectors with rows, whose mean is zero."""
    others = to_matrix(others, "speakers")
    others, start, sums = others - others.mean(axis=0), 0, 0.0
    for block in rows:
        part = slice(start, start := start + len(block))
        sums = sums + others[part].T @ block
    return sums / len(rows)


def rival_heads(
    names, features, labels, verified, content, layers=None, speakers=None
):
    """Rivals of the post-training as heads.

    Arguments
    ---------
    names : list of str
        Some of :data:`RIVALS`; ``plda`` has no head.
    features : torch.Tensor
        [utterances, layers, dim] of the training grid.
    labels : dict
        Factor -> its value for each utterance.
    verified, content : str
        The factors that the names call speaker and content.
    layers : dict
        Factor -> positions of the layers that it is read from. Default: all.
    speakers : array
        [utterances, E] speaker vectors for ``regression_removal``. Default: a
        linear discriminant analysis of these features.

    Returns
    -------
    dict
        Name -> :class:`speechbrain_ext.lobes.linear_subspaces.LinearSubspaces`.

    Raises
    ------
    InputError
        With NaN features, or labels that do not fit.

    Example
    -------
    >>> import torch
    >>> labels = {"speaker": list("aabbcc"), "content": list("xyxyxy")}
    >>> features = torch.randn(6, 1, 5)
    >>> heads = rival_heads(["wccn"], features, labels, "speaker", "content")
    >>> heads["wccn"](features)["content"].shape
    torch.Size([6, 5])
    """
    standardiser, scatter = standardised(features, labels)
    size = len(scatter.total)
    columns = {
        factor: columns_of(
            factor, (layers or {}).get(factor), features.shape[1:]
        )
        for factor in labels
    }
    parts = {f: scatter.part(columns[f]) for f in labels}
    read = parts[content]

    def widen(directions, factor):
        """Directions among all columns."""
        wide = np.zeros((len(directions), size))
        wide[:, columns[factor]] = directions
        return wide

    heads = {}
    for name in names:
        match name:
            case "speaker_collapse":
                found = collapse(read.means[verified])
                found = {content: widen(found, content)}
            case "content_map":
                found = content_map(read, content, verified)
                found = {content: widen(found, content)}
            case "regression_removal":
                if speakers is None:
                    axes = lda_directions(parts[verified], verified, size)
                    shared = axes @ scatter.total[columns[verified]]
                else:
                    shared = _shared(scatter.rows, speakers)
                own = columns[content]
                own = regression_removal(scatter.total, own, shared)
                found = {content: own}
            case "leace" | "wccn":
                found = {}
                for factor, part in parts.items():
                    if name == "wccn":
                        axes = wccn(part, factor)
                    else:
                        axes = leace(part, [f for f in labels if f != factor])
                    found[factor] = widen(axes, factor)
            case _:
                continue
        heads[name] = make_head(standardiser.mean, standardiser.std, found)
    return heads
