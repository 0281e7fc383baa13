"""Training on blocks of a grid and, between them, on recordings in views."""

import numpy as np
import torch
from torch.utils.data import Sampler

from speechbrain_ext.dataio.grid import BlockSampler, GridFeatures
from speechbrain_ext.utils.errors import InputError


class MixedSampler(Sampler):
    """Blocks of a grid and, between them, blocks of recordings in all views.

    Each epoch has all blocks of the grid, and divides the recordings at random
    into blocks of about as many rows. They come in random order.

    Arguments
    ---------
    blocks : BlockSampler
        Blocks of the grid; its seed decides the draws here, too.
    rows : numpy.ndarray
        Where the views of the recordings stand, [recordings, views].
    multiple_of : int
        Repeat blocks until the length is a multiple of this.

    Example
    -------
    >>> from speechbrain_ext.dataio.grid import Grid
    >>> grid = Grid({"speaker": [0, 0, 1, 1], "content": [0, 1, 0, 1]})
    >>> blocks = BlockSampler(grid, {})
    >>> sampler = MixedSampler(blocks, np.arange(4, 16).reshape(6, 2))
    >>> [len(batch) for batch in sampler]
    [4, 4, 4, 4]
    """

    def __init__(self, blocks, rows, multiple_of=1):
        self.blocks, self.rows = blocks, rows
        # A recording alone has nothing to be compared with.
        most = max(len(rows) // 2, 1)
        wanted = round(rows.size / np.prod(blocks.sizes))
        self.n_divisions = min(max(wanted, 1), most)
        n_blocks = len(blocks) + self.n_divisions
        self.n_blocks = -(-n_blocks // multiple_of) * multiple_of

    def set_epoch(self, epoch):
        """Choose the epoch whose blocks are drawn next."""
        self.blocks.set_epoch(epoch)

    def __len__(self):
        return self.n_blocks

    def __iter__(self):
        # Not the numbers that the grid's blocks are drawn by
        rng = np.random.default_rng([self.blocks.seed, self.blocks.epoch, 1])
        divided = np.array_split(rng.permutation(self.rows), self.n_divisions)
        batches = [*self.blocks, *(rows.ravel().tolist() for rows in divided)]
        order = rng.permutation(len(batches))
        for i in range(self.n_blocks):
            yield batches[order[i % len(batches)]]


class MixedFeatures(GridFeatures):
    """Features and codes of a grid and, after it, of recordings in views.

    Nothing is known of a recording but which factor each of its views changes.
    So a view has the code of its recording, but of the factor that it changes
    a code that no other has. The grid has none of these codes.

    Arguments
    ---------
    features : GridFeatures
        Of the grid.
    views : torch.Tensor
        Of the recordings, shape [recordings, views, layers, dim].
    changed : list of str
        Factor that each view changes; None for recordings as they are.

    Attributes
    ----------
    rows : numpy.ndarray
        Where the views of the recordings stand, [recordings, views].

    Example
    -------
    >>> from speechbrain_ext.dataio.grid import Grid
    >>> grid = Grid({"speaker": [0, 0, 1], "content": [0, 1, 0]})
    >>> dataset = MixedFeatures(
    ...     GridFeatures(torch.zeros(3, 1, 8), grid),
    ...     torch.zeros(2, 3, 1, 8),
    ...     [None, "channel", "content"],
    ... )
    >>> features, codes = dataset.__getitems__(dataset.rows.ravel())
    >>> codes["speaker"].tolist(), codes["content"].tolist()
    ([2, 2, 2, 3, 3, 3], [2, 2, 8, 3, 3, 9])
    """

    def __init__(self, features, views, changed):
        super().__init__(features.features, features.grid)
        first, shape = len(self), views.shape[:2]
        self.rows = first + np.arange(np.prod(shape)).reshape(shape)
        self.features = torch.cat([self.features, views.flatten(0, 1)])
        recording = np.arange(len(views))[:, np.newaxis]
        codes = []
        for factor, n_values in zip(self.grid.factors, self.grid.shape):
            own = [n if f == factor else 0 for n, f in enumerate(changed, 1)]
            code = n_values + recording + len(views) * np.array(own)
            codes.append(torch.from_numpy(code.ravel()))
        self.codes = torch.cat([self.codes, torch.stack(codes, dim=1)])


def stack_views(recordings, layers):
    """Features of recordings in all their views, and what each view changes.

    Arguments
    ---------
    recordings : list of dict
        Of Adaptation.plan: name -> PooledFeatures. Anchors are left out.
    layers : list of int
        Those that the network takes.

    Returns
    -------
    views : torch.Tensor
        Shape [recordings, views, layers, dim].
    changed : list of str
        A factor for each view, None for recordings as they are.
    """
    names = [view for view in recordings[0] if "anchor" not in view]
    views = []
    for features in recordings:
        ids = features["recorded"].ids
        taken = [features[view].select(ids, layers) for view in names]
        views.append(torch.stack(taken, dim=1))
    changed = [None if view == "recorded" else view[0] for view in names]
    return torch.cat(views), changed


def training_blocks(
    grid, block, seed, accumulated, rows=None, order="shuffled", processes=1
):
    """Blocks of a grid to train on, and the steps of an epoch.

    Arguments
    ---------
    grid : Grid
        Of the training.
    block, seed
        See BlockSampler.
    accumulated : int
        Blocks of each step.
    rows : numpy.ndarray
        Of recordings that are trained on too, see MixedSampler.
    order : str
        See BlockSampler.
    processes : int
        That have blocks of their own.

    Returns
    -------
    blocks : BlockSampler or MixedSampler
    steps : int
    """
    # Two blocks per process: where one is left, SpeechBrain's sampler for
    # several processes takes its utterances for batches.
    multiple_of = 1 if processes == 1 else 2 * processes
    blocks = BlockSampler(grid, block, seed, order, multiple_of)
    if rows is not None:
        blocks = MixedSampler(blocks, rows, multiple_of)
    # SpeechBrain drops what an epoch accumulates without a step.
    own = len(blocks) // processes
    if accumulated > own:
        raise InputError(
            f"grad_accumulation_factor is {accumulated}, but an epoch has "
            f"{own} blocks: give at most as many"
        )
    return blocks, own // accumulated
