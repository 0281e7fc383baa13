"""Does a subspace tell what is said, whoever says it?"""

import numpy as np

from speechbrain_ext.metrics.arrays import to_codes, to_matrix, unit_rows
from speechbrain_ext.utils.errors import InputError

CHUNK = 1 << 24


def nearest_value(embeddings, values, groups):
    """Is the value of the nearest neighbour in another group the same?

    All pairs of utterances are compared, in pieces: memory is linear in N,
    time quadratic.

    Arguments
    ---------
    embeddings : array or torch.Tensor
        [N, D], one row per utterance.
    values : sequence
        [N] value of the factor that the neighbour should share (content).
    groups : sequence
        [N] value of the factor that it may not share (speaker).

    Returns
    -------
    correct : numpy.ndarray
        [N] bool, for each utterance whether the utterance of highest cosine
        among all other groups has the same value. Of tied neighbours the
        first counts.

    Raises
    ------
    InputError
        On NaN embeddings, or with fewer than two values or groups.

    Example
    -------
    >>> nearest_value(np.eye(2)[[0, 1, 0, 0]], "xyxy", "aabb").tolist()
    [True, False, True, False]
    """
    unit = unit_rows(to_matrix(embeddings))
    values, groups = list(values), list(groups)
    value_names, value = to_codes(values, len(unit), "values")
    group_names, group = to_codes(groups, len(unit), "groups")
    if len(value_names) < 2 or len(group_names) < 2:
        raise InputError(
            "nearest neighbours need at least 2 values and 2 groups, got "
            f"{len(value_names)} and {len(group_names)}"
        )
    correct = np.empty(len(unit), dtype=bool)
    step = max(1, CHUNK // len(unit))
    for start in range(0, len(unit), step):
        part = slice(start, start + step)
        cosine = unit[part] @ unit.T
        cosine[group[part, None] == group] = -np.inf
        correct[part] = value[cosine.argmax(axis=1)] == value[part]
    return correct
