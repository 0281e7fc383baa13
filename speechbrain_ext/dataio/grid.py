"""A grid of factors, the blocks that are drawn from it, and their features."""

import copy
import itertools
import math

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from speechbrain_ext.dataio.sparse_grid import FilledBlocks
from speechbrain_ext.utils.errors import InputError


class Grid:
    """Which utterances stand at which cell of a grid of factors.

    A cell is one combination of values, such as (speaker, content). It may
    hold no utterance, one, or several takes.

    Arguments
    ---------
    labels : dict
        Factor -> its value for each utterance, sequences of equal length.
    name : str
        What the grid is, for messages.
    takes : int
        Versions of each utterance that count as utterances of its cell: first
        all of the first one, then all of the next.

    Attributes
    ----------
    factors : list of str
        The names, in the order given.
    values : dict
        Factor -> its distinct values, sorted.
    codes : numpy.ndarray
        Position of each utterance's value in ``values``, int32, shape
        [takes * utterances, factors].

    Raises
    ------
    InputError
        If there is no utterance, or a factor has fewer than two values.

    Example
    -------
    >>> grid = Grid({"speaker": ["a", "a", "b"], "content": ["x", "y", "x"]})
    >>> grid.shape, len(grid), len(grid.cells)
    ((2, 2), 3, 3)
    """

    def __init__(self, labels, name="grid", takes=1):
        self.factors = list(labels)
        self.values, codes = {}, []
        for factor, column in labels.items():
            # Sorting the texts of all utterances would take many times as long
            column = column.tolist() if hasattr(column, "tolist") else column
            values = sorted(set(column))
            place = {value: code for code, value in enumerate(values)}
            if len(values) < 2:
                raise InputError(
                    f"Factor '{factor}' of the {name} has {len(values)} "
                    f"value(s) in {len(column)} utterances; contrasts need "
                    "two or more"
                )
            self.values[factor] = np.asarray(values)
            codes.append([place[value] for value in column])
        codes = np.array(codes, dtype=np.int32).T
        self.codes = np.tile(codes, (takes, 1))
        # Takes of a cell stand together in `order`, from `first` on.
        cells = np.ravel_multi_index(self.codes.T, self.shape)
        self.order = np.argsort(cells, kind="stable").astype(np.int32)
        self.cells, self.first, self.takes = np.unique(
            cells[self.order], return_index=True, return_counts=True
        )

    def __len__(self):
        return len(self.codes)

    @property
    def shape(self):
        """Number of values of each factor, in order."""
        return tuple(len(self.values[factor]) for factor in self.factors)

    def labels(self, factor):
        """Values of one factor, shape [utterances]."""
        return self.values[factor][self.codes[:, self.factors.index(factor)]]

    def draw(self, chosen, rng):
        """One take at random of every cell of a block.

        Arguments
        ---------
        chosen : list of numpy.ndarray
            Codes of the values of each factor.
        rng : numpy.random.Generator
            Where the takes come from.

        Returns
        -------
        numpy.ndarray
            Utterance numbers; empty cells are passed over.
        """
        if math.prod(map(len, chosen)) > len(self.cells):
            return self.draw_takes(self._search(chosen), rng)
        mesh = np.meshgrid(*chosen, indexing="ij")
        wanted = np.ravel_multi_index([m.ravel() for m in mesh], self.shape)
        found = np.minimum(
            np.searchsorted(self.cells, wanted), len(self.cells) - 1
        )
        return self.draw_takes(found[self.cells[found] == wanted], rng)

    def _search(self, chosen):
        """Positions of the cells of a block that is larger than they are many.

        In the order of the block's own cells.
        """
        codes = np.unravel_index(self.cells, self.shape)
        places = np.full((len(chosen), len(self.cells)), -1)
        for axis, values in enumerate(chosen):
            place = np.full(self.shape[axis], -1)
            place[values] = np.arange(len(values))
            places[axis] = place[codes[axis]]
        found = np.flatnonzero(places.min(axis=0) >= 0)
        places = np.ravel_multi_index(places[:, found], [*map(len, chosen)])
        return found[np.argsort(places)]

    def draw_takes(self, found, rng):
        """One take at random of some cells.

        Arguments
        ---------
        found : numpy.ndarray
            Positions in ``cells``.
        rng : numpy.random.Generator
            Where the takes come from.

        Returns
        -------
        numpy.ndarray
            Utterance numbers.
        """
        take = (rng.random(len(found)) * self.takes[found]).astype(np.int64)
        return self.order[self.first[found] + take]


class BlockSampler(Sampler):
    """Batches that are blocks of a grid: a few values of every factor.

    Each epoch passes over the grid once: the values of each factor are divided
    at random into groups; a batch is one group per factor, one take drawn at
    random in each cell.
    Where the number of values is not a multiple of the block's, the last group
    is filled up with values of the others, so that every block has the full
    shape and every cell is met. Blocks that hold no utterance at all (grids
    with many holes) are replaced by blocks around a cell drawn at random.

    Arguments
    ---------
    grid : Grid
        The utterances.
    block : dict
        Factor -> number of distinct values in a block. Factors that are left
        out, or set to None, contribute all their values.
    seed : int
        With the epoch, decides all draws.
    order : str
        ``"shuffled"``: the second factor is divided anew for each group of the
        first, and so on, and the blocks come in random order. ``"grouped"``:
        each factor is divided once an epoch, and the groups of the first come
        one after the other, each with all groups of the others, as Cox
        and Barker do. ``"fixed"``: values in order, the same takes each
        time (for validation).
    multiple_of : int
        Add blocks until the length is a multiple of this, e.g. of the number
        of processes.

    Attributes
    ----------
    filled : FilledBlocks
        Where the grid is sparse; else None.

    Raises
    ------
    InputError
        If a block names an unknown factor, or wants more values than there
        are; or if the order is unknown.

    Example
    -------
    >>> speakers, contents = np.divmod(np.arange(12), 4)
    >>> grid = Grid({"speaker": speakers, "content": contents})
    >>> sampler = BlockSampler(grid, {"speaker": 3, "content": 2})
    >>> [len(batch) for batch in sampler]
    [6, 6]
    """

    def __init__(self, grid, block, seed=0, order="shuffled", multiple_of=1):
        if order not in ("shuffled", "grouped", "fixed"):
            raise InputError(
                f"Unknown order '{order}': expected shuffled, grouped or fixed"
            )
        # None, because an override of a mapping cannot remove a key.
        block = {f: size for f, size in block.items() if size is not None}
        unknown = set(block) - set(grid.factors)
        if unknown:
            raise InputError(
                f"Block factor '{min(unknown)}' is not in the grid, which has "
                f"{', '.join(grid.factors)}; leave it out by "
                f"'{{{min(unknown)}: null}}'"
            )
        self.grid, self.seed, self.order = grid, seed, order
        self.sizes = []
        for factor, n_values in zip(grid.factors, grid.shape):
            size = block.get(factor, n_values)
            if not 1 <= size <= n_values:
                raise InputError(
                    f"A block of {size} values of '{factor}' does not fit the "
                    f"grid, which has {n_values}: choose 1 to {n_values}"
                )
            self.sizes.append(size)
        if np.prod(self.sizes) < 2:
            raise InputError(
                "A block of one value of every factor has nothing to compare: "
                "choose at least 2 of one factor"
            )
        passes = [-(-n // s) for n, s in zip(grid.shape, self.sizes)]
        n_blocks, self.filled = math.prod(passes), None
        # Cores, of as many cells as a block has values of a factor, are fewer.
        cut = [s for n, s in zip(grid.shape, self.sizes) if s < n]
        if len(cut) > 1 and n_blocks * max(cut) > len(grid.cells):
            filled = FilledBlocks(grid, self.sizes)
            if len(filled) < n_blocks:
                n_blocks, self.filled = len(filled), filled
        self.n_blocks = -(-n_blocks // multiple_of) * multiple_of
        self.epoch = 0

    def set_epoch(self, epoch):
        """Choose the epoch whose blocks are drawn next."""
        self.epoch = epoch

    def __len__(self):
        return self.n_blocks

    def _groups(self, axis, rng):
        """Groups of the values of one factor that cover all of them."""
        n_values, size = self.grid.shape[axis], self.sizes[axis]
        values = np.arange(n_values)
        if self.order != "fixed":
            rng.shuffle(values)
        short = -n_values % size
        if short:
            others = values[: n_values - (size - short)]
            values = np.append(values, rng.permutation(others)[:short])
        return values.reshape(-1, size)

    def _choices(self, rng):
        """All blocks of an epoch in their order, as codes per factor."""
        if self.order == "grouped":
            axes = range(len(self.sizes))
            divided = [self._groups(axis, rng) for axis in axes]
            return list(itertools.product(*divided))
        choices = list(self._nested(rng))
        if self.order == "shuffled":
            rng.shuffle(choices)
        return choices

    def _nested(self, rng, axis=0, chosen=()):
        """Blocks for which a factor is divided anew in each group before."""
        if axis == len(self.sizes):
            yield list(chosen)
            return
        for group in self._groups(axis, rng):
            yield from self._nested(rng, axis + 1, (*chosen, group))

    def _around_a_cell(self, rng):
        """A block at random that holds at least one utterance."""
        codes = self.grid.codes[rng.integers(len(self.grid))]
        chosen = []
        for code, n_values, size in zip(codes, self.grid.shape, self.sizes):
            others = np.delete(np.arange(n_values), code)
            chosen.append(np.append(rng.permutation(others)[: size - 1], code))
        return chosen

    def __iter__(self):
        epoch = 0 if self.order == "fixed" else self.epoch
        rng = np.random.default_rng([self.seed, epoch])
        if self.filled:
            for batch in self.filled.draw(self.n_blocks, rng):
                yield batch.tolist()
            return
        choices = self._choices(rng)
        for i in range(self.n_blocks):
            block = choices[i % len(choices)]
            batch = self.grid.draw(block, rng)
            if len(batch) == 0:
                batch = self.grid.draw(self._around_a_cell(rng), rng)
            yield batch.tolist()


class GridFeatures(Dataset):
    """Pooled features and factor codes of the utterances of a grid.

    Arguments
    ---------
    features : torch.Tensor
        Shape [utterances, layers, dim], any float type.
    grid : Grid
        Labels of the same utterances.

    Example
    -------
    >>> grid = Grid({"speaker": [0, 0, 1], "content": [0, 1, 0]})
    >>> dataset = GridFeatures(torch.zeros(3, 1, 8), grid)
    >>> features, codes = dataset.__getitems__([0, 2])
    >>> features.shape, codes["speaker"]
    (torch.Size([2, 1, 8]), tensor([0, 1]))
    """

    rows = None  # of recordings, which MixedFeatures have

    def __init__(self, features, grid):
        if len(features) != len(grid):
            raise ValueError(
                f"{len(features)} features for {len(grid)} utterances"
            )
        self.features, self.grid = features, grid
        self.codes = torch.from_numpy(grid.codes).long()

    def on(self, device):
        """The same, kept on a GPU where half of its free memory suffices.

        Blocks are then cut there, and nothing is copied in a step but the
        numbers of their rows. Elsewhere nothing changes.

        Arguments
        ---------
        device : str or torch.device
            Where the network is.

        Returns
        -------
        GridFeatures

        Example
        -------
        >>> grid = Grid({"speaker": [0, 0, 1], "content": [0, 1, 0]})
        >>> GridFeatures(torch.zeros(3, 1, 8), grid).on("cpu").features.device
        device(type='cpu')
        """
        device, moved = torch.device(device), copy.copy(self)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.features.nbytes + self.codes.nbytes <= free / 2:
                moved.features = self.features.to(device)
                moved.codes = self.codes.to(device)
        return moved

    def __len__(self):
        return len(self.codes)

    def __getitem__(self, index):
        return self.__getitems__([index])

    def __getitems__(self, indices):
        """A whole block: features [B, layers, dim] and codes per factor."""
        rows = torch.as_tensor(indices)
        if self.features.is_cuda:  # from other memory the host would wait
            device = self.features.device
            rows = rows.pin_memory().to(device, non_blocking=True)
        codes = self.codes[rows]
        return (
            self.features[rows].float(),
            {f: codes[:, i] for i, f in enumerate(self.grid.factors)},
        )

    @staticmethod
    def collate(block):
        """Blocks come whole: nothing to collate."""
        return block
