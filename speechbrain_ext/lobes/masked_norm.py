"""Normalisation over time that does not see padding."""

import contextlib
import contextvars

import torch

# Frames of each utterance of the batch that is encoded now. None: all.
_counts = contextvars.ContextVar("counts", default=None)


@contextlib.contextmanager
def valid_frames(counts):
    """Tell each :class:`MaskedGroupNorm` that runs inside what is no padding.

    Arguments
    ---------
    counts : list of int
        Frames of each utterance at the input of the norm. None: all.
    """
    token = _counts.set(counts)
    try:
        yield
    finally:
        _counts.reset(token)


class MaskedGroupNorm(torch.nn.GroupNorm):
    """A group norm with the mean and variance of each utterance's own frames.

    Frames after the end become zero. Outside of :func:`valid_frames` it is the
    plain group norm.

    Example
    -------
    >>> norm, x = MaskedGroupNorm(2, 4), torch.randn(2, 4, 9)
    >>> with valid_frames([9, 5]):
    ...     y = norm(x)
    >>> torch.allclose(y[1:, :, :5], norm(x[1:, :, :5]), atol=1e-6)
    True
    >>> y[1, :, 5:].any()
    tensor(False)
    """

    def forward(self, x):
        """[B, channels, frames] -> the same shape."""
        counts = _counts.get()
        if counts is None:
            return super().forward(x)
        # One utterance at a time: less memory traffic than masked sums, and
        # the arithmetic of an utterance alone.
        normed = torch.zeros_like(x)
        for row, count in enumerate(counts):
            part = x[row : row + 1, :, :count]
            normed[row, :, :count] = super().forward(part)[0]
        return normed


def mask_group_norms(network):
    """Replace the group norms of a network, in place.

    Names and parameters stay.

    Arguments
    ---------
    network : torch.nn.Module

    Example
    -------
    >>> network = torch.nn.Sequential(torch.nn.GroupNorm(2, 4))
    >>> mask_group_norms(network)
    >>> type(network[0]).__name__, list(network.state_dict())
    ('MaskedGroupNorm', ['0.weight', '0.bias'])
    """
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if type(norm) is torch.nn.GroupNorm:
                masked = MaskedGroupNorm(
                    norm.num_groups, norm.num_channels, norm.eps, norm.affine
                )
                masked.weight, masked.bias = norm.weight, norm.bias
                setattr(parent, name, masked.train(norm.training))
