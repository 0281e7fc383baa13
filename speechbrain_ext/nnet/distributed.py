"""A block that several processes share: each computes some of its rows."""

import torch
import torch.distributed as dist
import torch.nn.functional as F


def _group():
    """Rank of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def own_rows(block):
    """The rows of a block that this process computes.

    Arguments
    ---------
    block : torch.Tensor
        Shape [B, ...], the same in all processes.

    Returns
    -------
    torch.Tensor
        Every n-th row of n processes; all of them in a single one.

    Example
    -------
    >>> own_rows(torch.arange(3))
    tensor([0, 1, 2])
    """
    rank, processes = _group()
    return block[rank::processes]


def gather_rows(rows, count):
    """A block out of the rows of all processes.

    The gradient goes through this process's own rows. A loss of the whole
    block, computed in each process and multiplied by :func:`processes`, so has
    the gradient of one process when DDP has averaged them.

    Arguments
    ---------
    rows : torch.Tensor
        Of :func:`own_rows`, shape [b, D].
    count : int
        Rows of the block, B.

    Returns
    -------
    torch.Tensor
        Shape [B, D], in the order of the block.

    Example
    -------
    >>> gather_rows(torch.eye(2), 2).shape
    torch.Size([2, 2])
    """
    rank, processes = _group()
    if processes == 1:
        return rows
    # All processes send as many.
    missing = -(-count // processes) - len(rows)
    padded = F.pad(rows, (0, 0, 0, missing))
    every = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(every, padded.detach().contiguous())
    every[rank] = padded
    return torch.stack(every, dim=1).flatten(0, 1)[:count]


def processes():
    """How many processes share a block.

    Example
    -------
    >>> processes()
    1
    """
    return _group()[1]
