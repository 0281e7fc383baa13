"""Blocks of a grid of which most cells are empty, around its filled cells."""

from bisect import bisect_right

import numpy as np

MOST_NEIGHBOURS = 64  # cells of a value that are looked at when a block grows


class FilledBlocks:
    """Blocks around the filled cells of a sparse grid.

    The filled cells are divided into cores: a few rows (values of all factors
    but the one of which a block holds most, such as speakers), or parts of
    rows. Each core fits a block. What is left free in it is filled up with the
    values that stand in most cells of the block so far: the speakers who say
    most of the sentences of the core, for example. So every cell is met as
    part of a core, and again wherever a block grows over it. Time and memory
    are linear in the number of cells.

    Only factors of which a block cannot hold all values count here.

    Arguments
    ---------
    grid : Grid
        The utterances.
    sizes : list of int
        Number of values of each factor in a block; two or more of them are
        below those of the grid.

    Example
    -------
    >>> from speechbrain_ext.dataio.grid import Grid
    >>> grid = Grid({"speaker": [0, 0, 1, 2, 3], "content": [0, 1, 0, 2, 2]})
    >>> blocks = FilledBlocks(grid, [2, 2])
    >>> batches = blocks.draw(len(blocks), np.random.default_rng(0))
    >>> sorted(sorted(batch.tolist()) for batch in batches)
    [[0, 1, 2], [0, 1, 2], [3, 4]]
    """

    def __init__(self, grid, sizes):
        self.grid, self.sizes = grid, sizes
        self.axes = [a for a, n in enumerate(grid.shape) if sizes[a] < n]
        self.axes.sort(key=sizes.__getitem__)
        codes = np.unravel_index(grid.cells, grid.shape)
        # Cells of a value stand together in `order`, from `first` on.
        self.order, self.first = {}, {}
        for a in self.axes:
            self.order[a] = np.argsort(codes[a], kind="stable").astype(np.int32)
            counts = np.bincount(codes[a], minlength=grid.shape[a])
            self.first[a] = np.append(0, np.cumsum(counts))
        rows = [a for a in self.axes if a != self.axes[-1]]
        shape = [grid.shape[a] for a in rows]
        row = np.ravel_multi_index([codes[a] for a in rows], shape)
        _, row, self.lengths = np.unique(
            row, return_inverse=True, return_counts=True
        )
        self.row = row.astype(np.int32)
        self.cuts = self._cuts(min(sizes[a] for a in rows))

    def _cuts(self, most_rows):
        """Where cores begin and end: many rows or cells fit any block.

        Rows are taken from short to long, so that each epoch has the same cuts,
        whatever the order of rows of one length.
        """
        ends = np.cumsum(np.sort(self.lengths)).tolist()
        cuts = [0]
        while cuts[-1] < ends[-1]:
            last_row = bisect_right(ends, cuts[-1]) + most_rows - 1
            stop = cuts[-1] + self.sizes[self.axes[-1]]
            cuts.append(min(stop, ends[min(last_row, len(ends) - 1)]))
        return np.array(cuts)

    def __len__(self):
        return len(self.cuts) - 1

    def draw(self, n_blocks, rng):
        """The blocks of an epoch in random order.

        Arguments
        ---------
        n_blocks : int
            How many; from ``len(self)`` on every cell is met.
        rng : numpy.random.Generator
            Decides everything.

        Yields
        ------
        numpy.ndarray
            Utterance numbers, one take at random of each cell of a block.
        """
        rows = np.lexsort((rng.random(len(self.lengths)), self.lengths))
        rank = np.empty_like(self.row, shape=len(rows))
        rank[rows] = np.arange(len(rows))
        cells = rng.permutation(len(self.row)).astype(np.int32)
        cells = cells[np.argsort(rank[self.row[cells]], kind="stable")]
        for core in np.resize(rng.permutation(len(self)), n_blocks):
            core = cells[self.cuts[core] : self.cuts[core + 1]]
            yield self.grid.draw_takes(self._grow(core, rng), rng)

    def _grow(self, core, rng):
        """All filled cells of a block around those of a core."""
        codes = self._codes(core)
        chosen = {a: np.unique(codes[a]) for a in self.axes}
        for a in self.axes:
            free = self.sizes[a] - len(chosen[a])
            if free == 0:
                continue
            through = self.axes[-1] if a != self.axes[-1] else self.axes[-2]
            found = self._cells_of(through, chosen[through], rng.random())
            inside = {x: v for x, v in chosen.items() if x not in (a, through)}
            found = self._codes(self._inside(found, inside))[a]
            values, counts = np.unique(found, return_counts=True)
            known = np.isin(values, chosen[a])
            values, counts = values[~known], counts[~known]
            best = np.argsort(-counts - rng.random(len(counts)))[:free]
            chosen[a] = np.append(chosen[a], values[best])
        # Found through the factor whose values have the fewest cells
        through = min(self.axes, key=lambda a: self._counts(a, chosen[a]).sum())
        return self._inside(self._cells_of(through, chosen[through]), chosen)

    def _codes(self, cells):
        """Codes of some cells, an array per factor."""
        return np.unravel_index(self.grid.cells[cells], self.grid.shape)

    def _counts(self, axis, values):
        """Number of cells of some values of a factor."""
        return self.first[axis][values + 1] - self.first[axis][values]

    def _cells_of(self, axis, values, where=None):
        """Cells of some values: all, or of each a few from a place in [0, 1).

        The same place for all values: their cells are in the order of the other
        factors, so that those of the same speakers are found.
        """
        counts = self._counts(axis, values)
        taken, start = counts, np.zeros_like(counts)
        if where is not None:
            taken = np.minimum(counts, MOST_NEIGHBOURS)
            start = (where * counts).astype(np.int64)
        ramp = np.arange(taken.sum())
        ramp -= np.repeat(np.cumsum(taken) - taken, taken)
        ramp += np.repeat(start, taken)
        ramp %= np.repeat(counts, taken)
        return self.order[axis][
            np.repeat(self.first[axis][values], taken) + ramp
        ]

    def _inside(self, cells, chosen):
        """Those of some cells that have chosen values of the factors named."""
        codes, keep = self._codes(cells), np.ones(len(cells), dtype=bool)
        for axis, values in chosen.items():
            known = np.zeros(self.grid.shape[axis], dtype=bool)
            known[values] = True
            keep &= known[codes[axis]]
        return cells[keep]
