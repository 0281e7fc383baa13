"""Covariances of labelled utterances, from one pass over them.

Utterances are read in blocks: beside them [D, D] numbers are held, and the sums
of each value of a factor, but no copy of the features.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np

from speechbrain_ext.metrics.arrays import (
    group_sums,
    to_codes,
    to_matrix,
    to_numpy,
)
from speechbrain_ext.utils.errors import InputError

BLOCK = 4096  # utterances in memory at a time


@dataclass
class Rows:
    """Vectors of utterances, read in blocks each time they are passed over.

    Float32 halves the time of products, but its rounding would show in
    directions without variance, which few utterances leave: these are read as
    float64.

    Arguments
    ---------
    features : array or torch.Tensor
        [N, layers, dim], or [N, D]; may be memory-mapped.
    layers : list of int
        Those that are read. Default: all.
    which : array of int
        Utterances, in the order of the features. Default: all.
    changes : tuple of callable
        What is done to each block [*, D], in turn.

    Example
    -------
    >>> rows = Rows(np.arange(6.0).reshape(3, 2)).then(lambda x: x[:, 1:])
    >>> len(rows), [block.tolist() for block in rows]
    (3, [[[1.0], [3.0], [5.0]]])
    """

    features: object
    layers: object = None
    which: object = None
    changes: tuple = ()

    def __len__(self):
        return len(self.features if self.which is None else self.which)

    def __iter__(self):
        """Blocks [*, D]; an InputError where values are not finite."""
        shape = self.features.shape
        layers = None if self.layers is None else [*self.layers]
        size = np.prod(shape[1:]) if layers is None else len(layers) * shape[2]
        layers = None if layers == [*range(shape[1])] else layers
        few = len(self) < 10 * size
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)  # which is not copied
            if self.which is not None:
                part = self.which[part]
            if layers is not None:
                part = (part if self.which is None else part[:, None], layers)
            block = to_numpy(self.features[part], np.float64 if few else None)
            block = to_matrix(block.reshape(len(block), -1), "features")
            for change in self.changes:
                block = change(block)
            yield block

    def then(self, change):
        """The same with a further change."""
        return replace(self, changes=(*self.changes, change))

    def less(self, mean):
        """The same less a mean, [D]."""
        return self.then(lambda block: block - mean.astype(block.dtype))


def covariance(blocks, about_mean=False):
    """Mean outer product of rows, or of their differences from their mean.

    Products of a block have the precision of the features; their sum is
    float64.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        [*, D] each.
    about_mean : bool
        Whether the mean is subtracted.

    Returns
    -------
    numpy.ndarray
        [D, D].

    Example
    -------
    >>> covariance([np.array([[1.0], [3]])]).tolist()
    [[5.0]]
    >>> covariance([np.array([[1.0], [3]])], about_mean=True).tolist()
    [[1.0]]
    """
    count, total, product, centre = 0, 0.0, 0.0, 0.0
    for block in blocks:
        if about_mean:
            # Near the mean nothing is lost when that is subtracted below, nor
            # by a sum in the precision of the features: a product, for speed.
            centre = centre if count else block.mean(axis=0)
            block = block - centre
            total = total + np.ones(len(block), block.dtype) @ block
        count += len(block)
        product = product + (block.T @ block).astype(np.float64, copy=False)
    if about_mean:
        product -= np.outer(total, total) / count
    return product / count


class Scatter:
    """Covariances of vectors, within the values of factors and between them.

    Arguments
    ---------
    rows : Rows
        [N, D], with a mean near zero.
    labels : dict
        Factor -> [N] its values.

    Attributes
    ----------
    mean : numpy.ndarray
        [D] mean that is left.
    total : numpy.ndarray
        [D, D] covariance.
    codes, counts, means : dict
        Factor -> position of each row's value, [N]; rows of each value, [K];
        their means beside that of all, [K, D].

    Raises
    ------
    InputError
        With vectors that are not finite, labels that do not fit, or a factor
        of one value, or without repeated ones.

    Example
    -------
    >>> rows = Rows(np.array([[-3], [-1], [1], [3.0]]))
    >>> scatter = Scatter(rows, {"speaker": [0, 0, 1, 1]})
    >>> scatter.within("speaker").tolist(), scatter.between("speaker").tolist()
    ([[1.0]], [[4.0]])
    """

    def __init__(self, rows, labels):
        self.rows, self.codes, self.counts = rows, {}, {}
        for factor, values in labels.items():
            self.codes[factor] = to_codes(values, len(rows), "values")[1]
            self.counts[factor] = np.bincount(self.codes[factor])
            check_values(len(self.counts[factor]), len(rows))
        sums, every = {}, []

        def counted():
            """Blocks, which are added to the sums of their values."""
            for block, codes in self._blocks():
                exact = block.astype(np.float64)
                every.append(exact.sum(axis=0))
                for factor, code in codes.items():
                    shape = len(self.counts[factor]), block.shape[1]
                    there, which = np.unique(code, return_inverse=True)
                    of = sums.setdefault(factor, np.zeros(shape))
                    of[there] += group_sums(exact, which)
                yield block

        self.total = covariance(counted())
        self.mean = np.sum(every, axis=0) / len(rows)
        self.total -= np.outer(self.mean, self.mean)
        self.means = {
            factor: of / self.counts[factor][:, None] - self.mean
            for factor, of in sums.items()
        }

    def _blocks(self):
        """Blocks of rows with the codes of each factor."""
        start = 0
        for block in self.rows:
            part = slice(start, start := start + len(block))
            yield block, {f: code[part] for f, code in self.codes.items()}

    def between(self, factor):
        """[D, D] covariance of the means of values, weighed by their rows."""
        means = self.means[factor]
        return (means.T * self.counts[factor]) @ means / len(self.rows)

    def within(self, factor):
        """[D, D] covariance of rows about the means of their values."""
        return self.total - self.between(factor)

    def shrunk(self, factor, shrinkage="auto"):
        """Covariance within values that is positive definite.

        Arguments
        ---------
        factor : str
            The factor.
        shrinkage : float or "auto"
            See :func:`shrunk`; ``"auto"`` is that of :func:`ledoit_wolf`.

        Returns
        -------
        numpy.ndarray
            [D, D].
        """
        within = self.within(factor)
        if shrinkage == "auto":
            centres, squares = self.means[factor] + self.mean, []
            for block, codes in self._blocks():
                about = centres[codes[factor]].astype(block.dtype)
                about -= block
                squares.append(np.einsum("ij,ij->i", about, about))
            shrinkage = ledoit_wolf(within, np.concatenate(squares))
        # A floor, for factors that leave no variance within their values.
        floor = 1e-6 * np.trace(self.total) / len(within)
        return shrunk(within, shrinkage, floor)

    def part(self, columns):
        """The same of some columns alone."""
        if np.array_equal(columns, np.arange(len(self.total))):
            return self
        part = copy.copy(self)
        part.rows = self.rows.then(lambda block: block[:, columns])
        part.mean = self.mean[columns]
        part.total = self.total[np.ix_(columns, columns)]
        part.means = {f: means[:, columns] for f, means in self.means.items()}
        return part


def check_values(n_values, count):
    """Refuse a factor without several values, or without repeats of them."""
    if not 2 <= n_values < count:
        raise InputError(
            f"LDA needs 2 values or more and repeats of them, got {n_values} "
            f"values in {count} utterances"
        )


def shrunk(covariance, shrinkage, floor=0.0):
    """A covariance nearer to the identity, ``(1 - a) S + a trace(S) / D I``.

    So more dimensions than utterances do no harm.

    Arguments
    ---------
    covariance : numpy.ndarray
        [D, D], the ``S`` above.
    shrinkage : float
        The ``a`` above, in [0, 1].
    floor : float
        Least variance that is added, for what never changes.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    InputError
        With another shrinkage than a number in [0, 1].

    Example
    -------
    >>> shrunk(np.diag([1.0, 3]), 0.5).tolist()
    [[1.5, 0.0], [0.0, 2.5]]
    """
    if isinstance(shrinkage, str) or not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage must be in [0, 1], got {shrinkage}")
    size = len(covariance)
    ridge = shrinkage * np.trace(covariance) / size
    covariance = (1 - shrinkage) * covariance
    covariance[np.diag_indices(size)] += max(ridge, floor, 1e-30)
    return covariance


def ledoit_wolf(covariance, squares):
    """Shrinkage of a covariance, as scikit-learn has it for rows.

    O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices", 2004.

    Arguments
    ---------
    covariance : numpy.ndarray
        [D, D], of rows with mean zero.
    squares : numpy.ndarray
        [N] squared length of each of these rows.

    Returns
    -------
    float
        In [0, 1], see :func:`shrunk`.

    Example
    -------
    >>> from sklearn.covariance import ledoit_wolf_shrinkage
    >>> rows = np.random.default_rng(0).normal(size=(20, 5))
    >>> theirs = ledoit_wolf_shrinkage(rows, assume_centered=True)
    >>> ours = ledoit_wolf(rows.T @ rows / 20, np.sum(rows**2, axis=1))
    >>> bool(np.isclose(ours, theirs))
    True
    """
    norm = np.sum(covariance**2)
    error = np.mean(squares**2) - norm
    distance = norm - np.trace(covariance) ** 2 / len(covariance)
    error = min(error / len(squares), distance)
    return error / distance if error > 0 else 0.0
