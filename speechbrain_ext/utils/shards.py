"""Which part of some work is whose: of calls, and of their processes."""

import os

from joblib import cpu_count

from speechbrain_ext.utils.options import optional, whole

# Rule of the option ``shard``: which of how many calls this is.
SHARD = optional(
    (
        lambda shard: (
            type(shard) in (list, tuple)
            and len(shard) == 2
            and whole(0)[0](shard[0])
            and whole(shard[0] + 1)[0](shard[1])
        ),
        "[index, count] with an index below the count, as in [0, 4]",
    )
)


def share_of_process(shard=None):
    """The share of this process.

    Arguments
    ---------
    shard : tuple of int
        (index, count) of the call. Default: there is one call.

    Returns
    -------
    tuple of int
        (index, count) among the processes of all calls, as torchrun numbers
        those of one.

    Example
    -------
    >>> share_of_process((1, 4))
    (1, 4)
    """
    index, count = shard or (0, 1)
    rank = int(os.environ.get("RANK", 0))
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    return index * ranks + rank, count * ranks


def own_cores():
    """Cores for this process, of those that torchrun's share: 1 or more.

    Example
    -------
    >>> own_cores() >= 1
    True
    """
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
