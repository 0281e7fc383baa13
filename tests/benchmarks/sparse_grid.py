"""Blocks of sparse grids: time, memory, and how full the blocks are.

    python tests/benchmarks/sparse_grid.py [UTTERANCES]

For three grids of so many utterances (a million):

- ``random``: speakers x sentences (20,000 x 2,000 of a million utterances), of
  which 2.5 % of the cells are filled at random; blocks of 16 x 32;
- ``three``: 10^5 x 5 x 10^5 (of a million), filled at random; 16 x 5 x 32;
- ``real-like``: each sentence is said by 1 to 5 speakers, who say few or many
  (Zipf's law with exponent 0.7); blocks of 16 x 32.

Printed are CPU seconds of the grid, of its sampler up to the first block, and
of an epoch; bytes per utterance that the grid and the sampler hold, and the
most of the sampler up to the first block; the blocks of an epoch and those of a
pass over the whole grid, their mean utterances, and those of a block at random;
the utterances of a block that share a value with another, for each factor; and
how often a cell is met: the least, the mean and the most.
"""

import os
import sys
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")

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


def measure(name, codes, block):
    """Print a line for each thing that is measured."""
    begin = time.process_time()
    grid = Grid({f"factor {n}": code for n, code in enumerate(codes)})
    print(f"{name}: {len(grid)} utterances, {' x '.join(map(str, grid.shape))}")
    block = dict(zip(grid.factors, block))
    seconds = [time.process_time() - begin]
    blocks = BlockSampler(grid, block)
    next(iter(blocks))
    seconds.append(time.process_time() - begin - seconds[0])
    visits, sizes = np.zeros(len(grid), dtype=np.int64), []
    begin = time.process_time(), time.monotonic()
    for batch in blocks:
        visits[batch] += 1
        sizes.append(len(batch))
    seconds.append(time.process_time() - begin[0])
    wall = time.monotonic() - begin[1]
    batches = iter(blocks)
    shared = [sharing(grid.codes[next(batches)]) for _ in range(1000)]
    of_cells = np.add.reduceat(visits[grid.order], grid.first)
    cells = np.prod(grid.shape, dtype=float)
    whole = np.prod(-(-np.array(grid.shape) // blocks.sizes), dtype=float)
    print(
        "  CPU seconds: grid {:.2f}, first block {:.2f}, epoch {:.1f}".format(
            *seconds
        )
        + f" (wall {wall:.1f})\n  blocks: {len(blocks)} (whole grid "
        f"{whole:.3g}); utterances {np.mean(sizes):.1f} (at random "
        f"{len(grid.cells) * np.prod(blocks.sizes) / cells:.3g}), sharing "
        f"{', '.join(f'{x:.1f}' for x in np.mean(shared, axis=0))}\n"
        f"  a cell is met {of_cells.min()} to {of_cells.max()} times, "
        f"{of_cells.mean():.2f} on average"
    )


def memory(codes, block):
    """Print what grid and sampler hold, by Python's own count."""
    labels = {f"factor {n}": code for n, code in enumerate(codes)}
    tracemalloc.start()
    grid = Grid(labels)
    held = [tracemalloc.get_traced_memory()[0]]
    tracemalloc.reset_peak()
    blocks = BlockSampler(grid, dict(zip(labels, block)))
    held.append(tracemalloc.get_traced_memory()[0] - held[0])
    next(iter(blocks))
    held.append(tracemalloc.get_traced_memory()[1] - held[0])
    tracemalloc.stop()
    print(
        "  bytes per utterance: grid {:.0f}, sampler {:.0f}, at its peak "
        "{:.0f}".format(*(size / len(grid) for size in held))
    )


def main(count=10**6):
    """All three grids."""
    rng, count = np.random.default_rng(0), int(count)
    sentences = round((count / 0.025 / 10) ** 0.5)
    sparse = (count // 10, 5, count // 10)
    for name, codes, block in (
        (
            "random",
            at_random(rng, count, (10 * sentences, sentences)),
            (16, 32),
        ),
        ("three", at_random(rng, count, sparse), (16, 5, 32)),
        ("real-like", real_like(rng, count), (16, 32)),
    ):
        measure(name, codes, block)
        memory(codes, block)


if __name__ == "__main__":
    main(*sys.argv[1:])
