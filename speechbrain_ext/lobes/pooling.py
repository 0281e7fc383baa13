"""One vector per utterance and layer out of the frames of a speech encoder."""

import torch

# The mean over time; the mean and the standard deviation, twice as many
# numbers; the largest value of each dimension.
POOLINGS = ("mean", "mean_std", "max")


def pool_frames(hidden, counts=None, pooling="mean"):
    """Pooled frames of a batch, without its padding.

    Arguments
    ---------
    hidden : sequence of torch.Tensor
        Of each layer the frames, shape [B, frames, dim].
    counts : list of int or torch.Tensor
        Frames of each utterance, the others are padding. Default: all.
    pooling : str
        ``mean``, ``mean_std`` (the standard deviation is that of the frames,
        divided by their number) or ``max``.

    Returns
    -------
    torch.Tensor
        Shape [B, layers, dim], or [B, layers, 2 x dim] for ``mean_std``.

    Example
    -------
    >>> frames = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> pool_frames([frames], [2], "mean_std")
    tensor([[[2., 1.]]])
    """
    padding = None
    if counts is not None:
        counts = torch.as_tensor(counts, device=hidden[0].device)[:, None]
        steps = torch.arange(hidden[0].shape[1], device=hidden[0].device)
        padding = (steps >= counts)[..., None]

    def mean(frames):
        """Over the frames of each utterance."""
        if padding is None:
            return frames.mean(dim=1)
        return (frames * ~padding).sum(dim=1) / counts

    def pool(frames):
        """One layer, [B, dim]."""
        if pooling == "max":
            if padding is not None:
                frames = frames.masked_fill(padding, -torch.inf)
            return frames.amax(dim=1)
        center = mean(frames)
        if pooling == "mean":
            return center
        spread = mean((frames - center[:, None]) ** 2).sqrt()
        return torch.cat([center, spread], dim=-1)

    # Not in the precision of the encoder
    return torch.stack([pool(frames.float()) for frames in hidden], dim=1)


def join_windows(pooled, weights, pooling="mean"):
    """Vectors of utterances out of those of their windows.

    Arguments
    ---------
    pooled : list of torch.Tensor
        Parts of the windows, shape [windows, layers, D], by
        :func:`pool_frames`.
    weights : list of torch.Tensor
        Of each part, how many frames a window gives to which utterance, shape
        [B, windows]: one number above 0 for each window.
    pooling : str
        As of :func:`pool_frames`.

    Returns
    -------
    torch.Tensor
        Shape [B, layers, D]: what pooling all frames at once would give.

    Example
    -------
    >>> windows = torch.tensor([[[1.0]], [[4.0]]])
    >>> join_windows([windows], [torch.tensor([[2.0, 1.0]])])
    tensor([[[2.]]])
    """
    if pooling == "max":
        windows, given = torch.cat(pooled), torch.cat(weights, dim=1) > 0
        return torch.stack([windows[own].amax(dim=0) for own in given])

    def mean(parts):
        """Over the windows of each utterance, by their frames."""
        pairs = zip(weights, parts)
        sums = sum(torch.einsum("uw,wld->uld", *pair) for pair in pairs)
        return sums / sum(one.sum(dim=1) for one in weights)[:, None, None]

    if pooling == "mean":
        return mean(pooled)
    means, spreads = zip(*(part.chunk(2, dim=-1) for part in pooled))
    center = mean(means)
    # The variance within the windows, and that of their means.
    squares = [
        spread**2 + (each - center[weight.argmax(dim=0)]) ** 2
        for each, spread, weight in zip(means, spreads, weights)
    ]
    return torch.cat([center, mean(squares).sqrt()], dim=-1)
