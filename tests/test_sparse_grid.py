"""Blocks around the filled cells of a sparse grid."""

import numpy as np
import pytest
from hypothesis import (
    given,
    strategies as st,
)
from test_grid import epochs, full_grid
from test_properties import seeds

from speechbrain_ext.dataio.grid import BlockSampler, Grid
from speechbrain_ext.dataio.mixed import training_blocks


def at_random(count, shape, seed=0, most_takes=1):
    """A grid of which cells are filled at random, in random order."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(np.prod(shape), size=count, replace=False)
    cells = np.repeat(cells, rng.integers(1, most_takes + 1, size=count))
    codes = np.unravel_index(cells, shape)
    names = ("speaker", "content", "style")
    return Grid(dict(zip(names, codes)))


def parts(count, n_speakers, n_contents):
    """A grid in full parts that share neither speakers nor contents."""
    part, s, c = np.indices((count, n_speakers, n_contents)).reshape(3, -1)
    return Grid(
        {"speaker": part * n_speakers + s, "content": part * n_contents + c}
    )


@st.composite
def sparse_grids(draw):
    """A grid of two or three factors, mostly empty, and a block."""
    n_factors = draw(st.integers(2, 3))
    sizes = [draw(st.integers(8, 30)) for _ in range(n_factors)]
    rng = np.random.default_rng(draw(seeds))
    count = draw(st.integers(2, 80))
    # Some values stand in many cells, most of them in few.
    codes = [(size * rng.random(count) ** 3).astype(int) for size in sizes]
    for code in codes:
        code[:2] = 0, 1
    grid = Grid({f"f{n}": code for n, code in enumerate(codes)})
    block = {f: draw(st.integers(1, 6)) for f in grid.factors}
    block = {f: min(block[f], n) for f, n in zip(grid.factors, grid.shape)}
    return grid, block | {"f0": max(2, block["f0"])}


@given(sparse_grids(), seeds, st.integers(1, 4), st.booleans())
def test_blocks_are_all_that_their_values_hold(made, seed, multiple, fixed):
    grid, block = made
    order = "fixed" if fixed else "shuffled"
    sampler = BlockSampler(grid, block, seed, order, multiple)
    filled, met = set(map(tuple, grid.codes)), set()
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) and len(sampler) % multiple == 0
        assert batches == list(sampler)
        for batch in batches:
            cells = set(map(tuple, grid.codes[batch]))
            assert len(cells) == len(batch) > 0
            values = [set(column) for column in zip(*cells)]
            for size, found in zip(sampler.sizes, values):
                assert len(found) <= size
            if sampler.filled:
                spanned = {
                    cell
                    for cell in filled
                    if all(code in v for code, v in zip(cell, values))
                }
                assert cells == spanned
            met |= cells
        assert met == filled
        met.clear()


def test_blocks_find_what_belongs_together():
    """Every block is the whole part that its core lies in."""
    grid = parts(20, 4, 6)
    for batches in epochs(grid, 3, 4, 6):
        assert len(batches) == 80  # a core is what a speaker says
        found = [tuple(np.unique(grid.codes[b][:, 0] // 4)) for b in batches]
        assert sorted(found) == sorted([(n,) for n in range(20)] * 4)
        assert {len(batch) for batch in batches} == {24}
        assert found != sorted(found)


def test_random_cells():
    """As in the benchmark, at a smaller scale."""
    grid = at_random(16_000, (1600, 400))
    first, second = epochs(grid, 2, 16, 32)
    assert len(first) == 16_000 / 32 < 100 * 13
    # A block of the whole grid has 12.8.
    sizes = [len(batch) for batch in first]
    assert np.mean(sizes) > 5 * 12.8 and min(sizes) > 32
    # Epochs differ in what is together, not in the order of the blocks alone.
    assert not set(map(frozenset, first)) & set(map(frozenset, second))
    # Nearly all have others of their speaker, and of their content.
    for codes in (grid.codes[batch] for batch in first[:50]):
        for code in codes.T:
            counts = np.unique(code, return_counts=True)[1]
            assert counts[counts > 1].sum() > 0.8 * len(codes)
    # No cell stands in very many blocks.
    assert np.bincount(sum(first, [])).max() < 40


def test_three_factors_with_few_cells_each():
    """A pass over the whole grid would have 32,000 blocks."""
    grid = at_random(20_000, (2000, 2000, 5))
    (batches,) = epochs(grid, 1, 16, 32)
    assert len(batches) < 1.05 * 20_000 / 32
    assert set(sum(batches, [])) == set(range(20_000))
    # More than a core: 16 speakers who share contents
    assert np.mean([len(batch) for batch in batches]) > 40


def test_draws_follow_seed_and_epoch():
    grid = at_random(90, (20, 40), most_takes=3)
    first, second = epochs(grid, 2, 3, 6, seed=1)
    assert [first, second] == list(epochs(grid, 2, 3, 6, seed=1))
    assert first != second
    assert first != next(epochs(grid, 1, 3, 6, seed=2))
    first, second = epochs(grid, 2, 3, 6, order="fixed")
    assert first == second
    met = sum(sum(epochs(grid, 30, 3, 6), []), [])
    assert set(met) == set(range(len(grid)))  # all takes


def test_draws_are_those_of_earlier_versions():
    grid = at_random(12, (8, 9), most_takes=2)
    (batches,) = epochs(grid, 1, 2, 3, seed=4)
    wanted = [[6, 13, 0], [3, 15], [17, 7, 10], [1, 12, 17, 16], [4, 14]]
    assert batches == wanted


@pytest.mark.parametrize("order", ["shuffled", "grouped", "fixed"])
def test_the_way_of_fewer_blocks(order):
    def is_sparse(grid, **block):
        return BlockSampler(grid, block, order=order).filled is not None

    assert not is_sparse(full_grid(32, 256), speaker=16, content=32)
    assert not is_sparse(full_grid(3, 5), speaker=2, content=4)
    half = at_random(32 * 128, (32, 256))
    assert not is_sparse(half, speaker=16, content=32)
    # 10 x 12 blocks of 4 x 6, or cores of 6 cells (of 4 rows, at most)
    assert not is_sparse(at_random(720, (40, 72)), speaker=4, content=6)
    assert is_sparse(at_random(700, (40, 72)), speaker=4, content=6)
    # Where one factor is divided, a block per group is fewest.
    assert not is_sparse(parts(20, 4, 6), speaker=4)


def test_processes_have_as_many_blocks():
    grid, block = at_random(700, (40, 72)), {"speaker": 4, "content": 6}
    blocks, steps = training_blocks(grid, block, 1, 2, processes=3)
    assert blocks.filled and len(blocks) == 120 and steps == 20
    batches = list(blocks)
    first = len(blocks.filled)
    assert len(batches) == 120 and first < 120
    # Those that are added are around the same cores once more.
    assert all(
        len(set(one) & set(other)) >= 4
        for one, other in zip(batches[first:], batches)
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_cells_of_large_blocks_are_searched_in_the_same_order(share):
    """Whether the block's places are looked up, or the cells of the grid."""
    grid = at_random(int(share * 84), (7, 12), most_takes=3)
    rng = np.random.default_rng(1)
    for _ in range(20):
        sizes = rng.integers(1, 8, size=2)
        chosen = [rng.permutation(n)[:m] for n, m in zip(grid.shape, sizes)]
        wanted = [
            [x, y]
            for x in chosen[0]
            for y in chosen[1]
            if [x, y] in grid.codes.tolist()
        ]
        assert grid.codes[grid.draw(chosen, rng)].tolist() == wanted
