"""Work of several processes: rows of a block that they share, and systems.

A process waits for another for up to :data:`PATIENCE`; torchrun ends it when
another one dies.
"""

import dataclasses
import datetime
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F

from speechbrain.utils.distributed import ddp_prevent_block
from speechbrain_ext.utils.errors import InputError

PATIENCE = datetime.timedelta(days=7)


def start_group(run_opts):
    """Make processes of torchrun a group; a single process stays alone.

    As SpeechBrain's ``ddp_init_group``, whose processes wait for two hours.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        Of the script.

    Returns
    -------
    speechbrain.utils.run_opts.RunOptions
        With the backend of the device, where none was given.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return run_opts
    on_gpu = str(run_opts.device).startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(int(rank))
    if "distributed_backend" not in run_opts.overridden_args:
        # A Brain reads what was given.
        run_opts = dataclasses.replace(
            run_opts,
            distributed_backend="nccl" if on_gpu else "gloo",
            overridden_args=run_opts.overridden_args | {"distributed_backend"},
        )
    dist.init_process_group(run_opts.distributed_backend, timeout=PATIENCE)
    return run_opts


def _group():
    """Rank of this process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def deal(function, keys):
    """A function of some keys, each of which one of the processes computes.

    All processes are to call it, with the same keys in the same order; what
    SpeechBrain runs in the main process alone computes all of them.

    Arguments
    ---------
    function : callable
        Key -> what can be pickled.
    keys : iterable
        Process r of n takes the keys r, r + n, ...

    Returns
    -------
    dict
        Key -> what the function returns, in their order, in every process.

    Raises
    ------
    InputError
        In every process, if the function raises it in one.

    Example
    -------
    >>> deal(len, ["a", "bc"])
    {'a': 1, 'bc': 2}
    """
    keys, (rank, processes) = list(keys), _group()
    if ddp_prevent_block():
        return {key: function(key) for key in keys}
    try:
        own = {key: function(key) for key in keys[rank::processes]}
    except InputError as error:
        own = error
    every = [None] * processes
    dist.all_gather_object(every, own)
    found = {}
    for part in every:
        if isinstance(part, InputError):
            raise part
        found |= part
    return {key: found[key] for key in keys}


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
