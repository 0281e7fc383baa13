"""Blocks of sparse grids: time, memory, and how full the blocks are.

    python tests/benchmarks/sparse_grid.py [UTTERANCES [ROUNDS]]

For three grids of so many utterances (a million):

- ``random``: speakers x sentences (20,000 x 2,000 of a million utterances), of
  which 2.5 % of the cells are filled at random; blocks of 16 x 32;
- ``three``: 10^5 x 5 x 10^5 (of a million), filled at random; 16 x 5 x 32;
- ``real-like``: each sentence is said by 1 to 5 speakers, who say few or many
  (Zipf's law with exponent 0.7); blocks of 16 x 32.

By turns (3 rounds), CPU seconds of the grid, of its sampler up to the first
block, and of an epoch, beside a sort of the cells (``np.lexsort``); bytes per
utterance that the grid holds, and the most of the sampler up to the first
block; the blocks of an epoch, their mean utterances, and those of a block at
random; the utterances of a block that share a value with another, for the
factor where they are fewest; and how often a cell is met.
"""

import clock
import numpy as np

from speechbrain_ext.dataio.grid import BlockSampler, Grid


def at_random(rng, count, shape):
    """Codes of as many different cells, [factors, count]."""
    cells = np.unique(rng.integers(np.prod(shape), size=count + count // 20))
    return np.unravel_index(rng.permutation(cells)[:count], shape)


def real_like(rng, count):
    """Sentences that 1 to 5 speakers say: codes of speakers and sentences."""
    times = rng.choice(5, count, p=[0.5, 0.25, 0.12, 0.08, 0.05]) + 1
    shares = np.arange(1, count // 100 + 1) ** -0.7
    speakers = rng.choice(len(shares), count, p=shares / shares.sum())
    return speakers, np.repeat(np.arange(count), times)[:count]


def sharing(codes):
    """Utterances of a block that share a value with another, per factor."""
    shared = []
    for code in codes.T:
        counts = np.unique(code, return_counts=True)[1]
        shared.append(counts[counts > 1].sum())
    return shared


def fullness(grid, blocks):
    """Columns of the blocks of an epoch."""
    visits, sizes = np.zeros(len(grid), dtype=np.int64), []
    for batch in blocks:
        visits[batch] += 1
        sizes.append(len(batch))
    shared = [sharing(grid.codes[b]) for b, _ in zip(blocks, range(1000))]
    filled = len(grid.cells) / np.prod(grid.shape, dtype=float)
    return {
        "blocks": len(blocks),
        "utterances of a block": np.mean(sizes),
        "of a random one": filled * np.prod(blocks.sizes),
        "sharing": np.mean(shared, axis=0).min(),
        "a cell is met": clock.spread(
            np.add.reduceat(visits[grid.order], grid.first)
        ),
    }


def of_grid(codes, block, rounds):
    """The row of a grid."""
    labels = {f"factor {n}": code for n, code in enumerate(codes)}
    block = dict(zip(labels, block))
    grid, held, _ = clock.traced(lambda: Grid(labels))

    def first():
        next(iter(BlockSampler(grid, block)))

    most = clock.traced(first)[2]
    blocks = BlockSampler(grid, block)
    measured = {
        "sort": lambda: np.lexsort(codes),
        "grid": lambda: Grid(labels),
        "first block": first,
        "epoch": lambda: sum(1 for _ in blocks),
    }
    times = clock.by_turns(measured, rounds)
    sort, row = times.pop("sort"), {}
    for name, taken in times.items():
        row[f"{name}, s"] = np.median(taken)
        row[f"{name} of a sort"] = clock.spread(taken / sort)
    row["bytes (sampler)"] = most / len(grid)
    row["bytes (grid)"] = held / len(grid)
    return row | fullness(grid, blocks)


def measure(count=10**6, rounds=3):
    """A row for each grid."""
    rng = np.random.default_rng(0)
    sentences = round((count / 0.025 / 10) ** 0.5)
    two, three = (10 * sentences, sentences), (count // 10, 5, count // 10)
    grids = {
        "random": (at_random(rng, count, two), (16, 32)),
        "three": (at_random(rng, count, three), (16, 5, 32)),
        "real-like": (real_like(rng, count), (16, 32)),
    }
    return {name: of_grid(*grid, rounds) for name, grid in grids.items()}


if __name__ == "__main__":
    clock.main(measure)
