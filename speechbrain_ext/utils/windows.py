"""Long recordings, cut in windows.

What a recording costs grows with the square of its length where an encoder
has attention, and its memory too. So recordings above :data:`WHOLE` seconds are
encoded in overlapping windows, and the mean of these, weighted with their
durations, stands for the recording. Shorter ones are encoded as a whole.
"""

import torch

# In seconds.
WHOLE, LENGTH, STEP = 30.0, 20.0, 10.0


def windows(samples, sample_rate):
    """The windows of a recording.

    Arguments
    ---------
    samples : int
        Its length.
    sample_rate : int
        In Hz.

    Returns
    -------
    list of tuple
        (first sample, sample after the last one) of each; the last one may be
        shorter than the others, but is longer than their step.

    Example
    -------
    >>> windows(30, 1), windows(31, 1)
    ([(0, 30)], [(0, 20), (10, 30), (20, 31)])
    """
    if samples <= WHOLE * sample_rate:
        return [(0, samples)]
    length, step = round(LENGTH * sample_rate), round(STEP * sample_rate)
    starts = range(0, samples - step, step)
    return [(start, min(start + length, samples)) for start in starts]


def mean_of_windows(vectors, counts, durations):
    """The mean over the windows of each recording, weighted with durations.

    Arguments
    ---------
    vectors : torch.Tensor
        Of all windows of the first recording, then of the second, ...; shape
        [windows, ...].
    counts : list of int
        Windows of each recording.
    durations : list of float
        Of each window, in any unit.

    Returns
    -------
    torch.Tensor
        Shape [recordings, ...]. Of a recording in one window its very vector.

    Example
    -------
    >>> mean_of_windows(torch.tensor([1.0, 5.0, 7.0]), [2, 1], [3, 1, 9])
    tensor([2., 7.])
    """
    if len(counts) == len(vectors):
        return vectors
    parts = torch.tensor(durations, dtype=torch.float64).split(list(counts))
    weights = torch.cat([part / part.sum() for part in parts])
    weights = weights.to(vectors).reshape(-1, *[1] * (vectors.dim() - 1))
    rows = torch.repeat_interleave(torch.tensor(counts)).to(vectors.device)
    joined = vectors.new_zeros(len(counts), *vectors.shape[1:])
    return joined.index_add_(0, rows, vectors * weights)
