"""Rivals of the post-training: closed forms of the field, on the same grid.

Each fit is affine in the pooled features, and returns directions. Features are
those of :func:`~speechbrain_ext.processing.closed_form.grid_lda`: standardised
by the training grid, layers flattened. :func:`rival_heads` makes heads of them,
which are evaluated, exported and loaded like a trained network.

Nothing says that a factor is the speaker or the content but the names of the
rivals, which are those of their papers: "speaker" is the factor that is
verified.
"""

import numpy as np
from scipy.linalg import eigh, solve_triangular

from speechbrain_ext.metrics.arrays import group_sums, to_codes, to_matrix
from speechbrain_ext.processing.closed_form import (
    lda_directions,
    standardised,
    within_covariance,
)
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


def _means(vectors, values):
    """Rows of each value, [K], and their mean, [K, D]."""
    codes = to_codes(values, len(vectors), "values")[1]
    counts = np.bincount(codes)
    return counts, group_sums(vectors, codes) / counts[:, None]


def collapse(vectors, values, variance=0.95):
    """What is left without the directions in which the means of values differ.

    The principal components of the means span the subspace of the factor; the
    vectors are projected onto its orthogonal complement (O. D. Liu, H. Tang, S.
    Goldwater, "Self-supervised predictive coding models encode speaker and
    phonetic information in orthogonal subspaces", Interspeech 2023, arXiv
    2305.12464).

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    values : sequence
        [N] values of the factor.
    variance : float
        Share of the variance of the means that the components explain.

    Returns
    -------
    numpy.ndarray
        [D - components, D], orthonormal.

    Example
    -------
    >>> vectors = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    >>> abs(collapse(vectors, list("aabb"))).round(6).tolist()
    [[0.0, 1.0]]
    """
    means = _means(vectors, values)[1]
    _, spread, axes = np.linalg.svd(means - means.mean(axis=0))
    share = np.cumsum(spread**2) / np.sum(spread**2)
    # Rounding must not ask for one more component.
    return axes[1 + np.searchsorted(share, variance - RELATIVE) :]


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


def leace(vectors, values):
    """The map that erases what tells the values of some factors.

    Of the affine maps after which no linear classifier tells the values LEACE
    is the one that changes the vectors least (N. Belrose et al., "LEACE:
    Perfect linear concept erasure in closed form", NeurIPS 2023, arXiv
    2306.03819): whitened, they lose what differs between the values.

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    values : list of sequence
        [N] values of each factor that is erased.

    Returns
    -------
    numpy.ndarray
        [D, D].

    Example
    -------
    >>> vectors = np.array([[2.0, 3], [2, 1], [-2, -1], [-2, -3]])
    >>> erased = vectors @ leace(vectors, [list("aabb")]).T
    >>> abs(erased[:2].mean(axis=0)).round(6).tolist()
    [0.0, 0.0]
    """
    between = 0.0
    for one in values:
        counts, means = _means(vectors, one)
        between = between + (means.T * counts) @ means / len(vectors)
    total = vectors.T @ vectors / len(vectors)
    left, unseen = erasure(total, between)
    return total @ left.T @ left + unseen.T @ unseen


def regress(vectors, targets):
    """The least-squares map from vectors to targets, of least norm.

    Arguments
    ---------
    vectors, targets : array
        [N, D] and [N, E], both with mean zero.

    Returns
    -------
    numpy.ndarray
        [E, D].

    Example
    -------
    >>> vectors = np.array([[1.0, 0], [-1, 0]])
    >>> regress(vectors, 3 * vectors[:, :1]).round(6).tolist()
    [[3.0, 0.0]]
    """
    inverse = np.linalg.pinv(vectors.T @ vectors, RELATIVE, hermitian=True)
    return targets.T @ vectors @ inverse


def regression_removal(vectors, kept, speakers):
    """What of the vectors a linear regression on speaker vectors leaves.

    As Eta-WavLM (arXiv 2505.19273) does it for frames: ``x - A s - b``. There a
    speaker encoder gives ``s`` of each utterance. Here it is what a regression
    on the pooled features tells of ``s``, so that the head needs no other
    encoder; where ``s`` is a linear subspace of them, that is itself.

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    kept : array of int
        Columns that the subspace has; the speaker may be read from others.
    speakers : array
        [N, E] speaker vectors.

    Returns
    -------
    numpy.ndarray
        [kept, D].

    Example
    -------
    >>> vectors = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    >>> regression_removal(vectors, np.array([0, 1]), vectors[:, :1]).round(
    ...     6
    ... ).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    read = regress(vectors, speakers - speakers.mean(axis=0))
    told = vectors @ read.T
    return np.eye(vectors.shape[1])[kept] - (
        regress(told, vectors[:, kept]) @ read
    )


def content_map(vectors, contents, speakers, dims=100):
    """The map to what all speakers share when they say the same.

    Speech content factorisation: with a row per content and the vectors of all
    speakers side by side, a truncated singular value decomposition gives
    factors of the contents that all speakers share (H. Kamper et al.,
    "LinearVC", Interspeech 2025, arXiv 2506.01510); one map to them for all
    speakers is their least-squares regression on the vectors ("Universal speech
    content factorization", arXiv 2603.08977).

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    contents, speakers : sequence
        [N] values. Where a speaker does not say a content, the sum of their
        effects stands for it (least squares over all others).
    dims : int
        Rank of the map; at most one less than there are contents.

    Returns
    -------
    numpy.ndarray
        [rank, D].

    Example
    -------
    >>> vectors = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    >>> found = content_map(vectors, list("xyxy"), list("aabb"))
    >>> abs(found / found.max()).round(6).tolist()
    [[0.0, 1.0]]
    """
    count = len(vectors)
    rows, content = to_codes(contents, count, "contents")
    columns, speaker = to_codes(speakers, count, "speakers")
    # Of the holes: what speaker and content add up to in the others
    sides = [np.eye(len(rows))[content], np.eye(len(columns))[speaker]]
    effects = np.linalg.lstsq(np.hstack(sides), vectors)[0]
    cells = effects[: len(rows), None] + effects[len(rows) :]
    cell = content * len(columns) + speaker
    filled = cells.reshape(-1, vectors.shape[1])
    filled[np.unique(cell)] = _means(vectors, cell)[1]
    side_by_side = cells.reshape(len(rows), -1)
    # From products of rows: there are fewer of them than columns.
    side_by_side = side_by_side - side_by_side.mean(axis=0)
    squares, axes = eigh(side_by_side @ side_by_side.T)
    kept = np.flatnonzero(squares > RELATIVE * squares[-1])[::-1][:dims]
    factors = axes[:, kept] * np.sqrt(squares[kept] / len(columns))
    targets = factors[content]
    return signed(regress(vectors, targets - targets.mean(axis=0)))


def wccn(vectors, values):
    """Within-class covariance normalisation.

    A. O. Hatch, S. Kajarekar, A. Stolcke, "Within-class covariance
    normalization for SVM-based speaker recognition", Interspeech 2006; the
    covariance is shrunk, see
    :func:`~speechbrain_ext.processing.closed_form.within_covariance`.

    Arguments
    ---------
    vectors : array
        [N, D], with mean zero.
    values : sequence
        [N] values of the factor.

    Returns
    -------
    numpy.ndarray
        [D, D], after which the shrunk covariance within the values is the
        identity.

    Example
    -------
    >>> vectors = np.array([[2.0, 1], [0, -1], [0, 1], [-2, -1]])
    >>> wccn(vectors, list("aabb")).shape
    (2, 2)
    """
    within = within_covariance(vectors, values)[2]
    lower = np.linalg.cholesky(within)
    return solve_triangular(lower, np.eye(len(within)), lower=True)


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
    standardiser, vectors = standardised(features)
    vectors = vectors.astype(np.float64)
    shape, size = features.shape[1:], vectors.shape[1]
    columns = {
        factor: columns_of(factor, (layers or {}).get(factor), shape)
        for factor in labels
    }
    named = labels[content], labels[verified]
    own, read = columns[content], vectors[:, columns[content]]

    def widen(directions, factor):
        """Directions among all columns."""
        wide = np.zeros((len(directions), size))
        wide[:, columns[factor]] = directions
        return wide

    heads = {}
    for name in names:
        match name:
            case "speaker_collapse":
                found = {content: widen(collapse(read, named[1]), content)}
            case "content_map":
                found = {content: widen(content_map(read, *named), content)}
            case "regression_removal":
                if speakers is None:
                    of_speaker = vectors[:, columns[verified]]
                    axes = lda_directions(of_speaker, named[1], size)
                    speakers = of_speaker @ axes.T
                speakers = to_matrix(speakers, "speakers").astype(np.float64)
                found = {content: regression_removal(vectors, own, speakers)}
            case "leace" | "wccn":
                found = {}
                for factor, values in labels.items():
                    part = vectors[:, columns[factor]]
                    if name == "wccn":
                        axes = wccn(part, values)
                    else:
                        others = (labels[f] for f in labels if f != factor)
                        axes = leace(part, list(others))
                    found[factor] = widen(axes, factor)
            case _:
                continue
        heads[name] = make_head(standardiser.mean, standardiser.std, found)
    return heads
