"""Checks and conversions that the metrics share."""

import numpy as np
from scipy.sparse import csr_matrix

from speechbrain_ext.utils.errors import InputError


def to_numpy(values, dtype=None):
    """Copy-free view of an array, a list or a (GPU) tensor as numpy.

    Example
    -------
    >>> import torch
    >>> to_numpy(torch.ones(2)).dtype
    dtype('float32')
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        half = values.is_floating_point() and values.itemsize < 4
        values = (values.float() if half else values).numpy()
    return np.asarray(values, dtype=dtype)


def to_matrix(embeddings, name="embeddings"):
    """Embeddings as a finite floating-point matrix.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], or [N, 1, D] as SpeechBrain's classes give them.
    name : str
        What to call them in an error.

    Returns
    -------
    matrix : numpy.ndarray
        [N, D]; float64 stays, everything else becomes float32.

    Raises
    ------
    InputError
        If it is empty, has another shape or a value that is not finite.

    Example
    -------
    >>> to_matrix([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    matrix = to_numpy(embeddings)
    if matrix.ndim == 3 and matrix.shape[1] == 1:
        matrix = matrix[:, 0]
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(
            f"{name}: expected a non-empty array [utterances, dimensions], "
            f"got shape {matrix.shape}"
        )
    if matrix.dtype != np.float64:
        matrix = matrix.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise InputError(
            f"{name}: {len(bad)} of {len(matrix)} rows have NaN or infinite "
            f"values (first: row {bad[0]})"
        )
    return matrix


def to_codes(labels, count, name="labels"):
    """Number the distinct values of a label array.

    Arguments
    ---------
    labels : sequence
        One value per utterance (strings, integers...).
    count : int or None
        How many there must be.
    name : str
        What to call them in an error.

    Returns
    -------
    classes : numpy.ndarray
        The distinct values, sorted.
    codes : numpy.ndarray
        int64 [N], the position in ``classes`` of each label.

    Raises
    ------
    InputError
        If there are more or fewer labels than ``count``, texts beside
        numbers, or some are None or NaN.

    Example
    -------
    >>> classes, codes = to_codes(["b", "a", "b"], 3)
    >>> codes.tolist()
    [1, 0, 1]
    """
    given = labels
    try:
        labels = to_numpy(given)
    except ValueError:  # values that are lists of several lengths
        labels = np.empty((0, 0))
    if labels.ndim != 1 or (count is not None and len(labels) != count):
        each = "utterance" if count is None else f"of {count} utterances"
        raise InputError(
            f"{name}: expected one value for each {each}, got shape "
            f"{labels.shape}"
        )
    # NumPy makes texts of numbers beside texts: one class of 1 and '1'.
    kind = labels.dtype.kind
    values = labels.tolist() if kind == "f" else list(given) * (kind in "UO")
    for row, value in enumerate(values):
        is_other = isinstance(value, str) != isinstance(values[0], str)
        if is_other or value is None or value != value:
            raise InputError(
                f"{name}: {value!r} in row {row} after {values[0]!r} in row 0: "
                "expected only texts or only numbers, and none missing"
            )
    classes, codes = np.unique(labels, return_inverse=True)
    return classes, codes.astype(np.int64)


def unit_rows(matrix):
    """Rows of length one; a zero row stays zero, so that its cosine is 0.

    Example
    -------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    # Scaled by the largest value first: squares of very large or very small
    # values would leave the range of float32.
    top = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))[:, None]
    matrix = matrix / np.where(top > 0, top, 1)
    norm = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix /= np.where(norm > 0, norm, 1)
    return matrix


def group_sums(matrix, codes, groups=None):
    """Sum of the rows of each group.

    Arguments
    ---------
    matrix : numpy.ndarray
        [N, D].
    codes : numpy.ndarray
        [N] int, the group of each row, from 0 up.
    groups : int
        How many there are. Default: up to the highest of ``codes``.

    Returns
    -------
    sums : numpy.ndarray
        [groups, D].

    Example
    -------
    >>> group_sums(np.array([[1, 2], [3, 4], [5, 6]]), np.array([0, 1, 0]))
    array([[6., 8.],
           [3., 4.]])
    """
    ones = np.ones(len(codes), dtype=matrix.dtype)
    rows = np.arange(len(codes))
    shape = None if groups is None else (groups, len(codes))
    members = csr_matrix((ones, (codes, rows)), shape)
    return members @ np.asarray(matrix, float)
