"""Grid and block sampler."""

import numpy as np
import pytest
import torch

from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.utils.errors import InputError


def full_grid(n_speakers, n_contents, takes=1):
    speaker, content, _ = np.indices((n_speakers, n_contents, takes))
    return Grid({"speaker": speaker.ravel(), "content": content.ravel()})


def test_published_shape():
    sampler = BlockSampler(
        full_grid(32, 256), {"speaker": 16, "content": 32}, seed=1
    )
    batches = list(sampler)
    assert len(sampler) == len(batches) == 16  # 480 steps in 30 epochs
    assert all(len(batch) == 512 for batch in batches)
    # Every cell once an epoch.
    assert sorted(sum(batches, [])) == list(range(32 * 256))


@pytest.mark.parametrize("block", [(3, 4), (5, 2), (7, 9), (1, 3), (4, 1)])
def test_any_block_shape_covers_the_grid(block):
    grid = full_grid(7, 9)
    shape = dict(zip(grid.factors, block))
    sampler = BlockSampler(grid, shape, seed=3)
    seen = set()
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        codes = grid.codes[batch]
        assert [len(set(column)) for column in codes.T] == list(block)
        assert len({tuple(cell) for cell in codes}) == len(batch)
        assert len(batch) == block[0] * block[1]
        seen.update(batch)
    assert len(seen) == 63


def test_reproducible_by_seed_and_epoch():
    grid = full_grid(6, 8, takes=3)
    block = {"speaker": 3, "content": 4}

    def blocks(seed, epoch):
        sampler = BlockSampler(grid, block, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert blocks(1, 5) == blocks(1, 5)
    assert blocks(1, 5) != blocks(1, 6)
    assert blocks(1, 5) != blocks(2, 5)
    fixed = BlockSampler(grid, block, shuffle=False)
    first = list(fixed)
    fixed.set_epoch(9)
    assert list(fixed) == first


def test_every_take_is_reachable():
    grid = full_grid(2, 2, takes=4)
    sampler = BlockSampler(grid, {"speaker": 2, "content": 2})
    counts = np.zeros(16, dtype=int)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        for batch in sampler:
            assert len({tuple(c) for c in grid.codes[batch]}) == len(batch) == 4
            counts[batch] += 1
    # 200 draws of four takes a cell: 50 expected, deviation 6.
    assert counts.min() > 25 and counts.max() < 75


def test_missing_cells():
    rng = np.random.default_rng(0)
    speaker, content = np.indices((8, 12))
    keep = rng.random((8, 12)) < 0.5
    grid = Grid({"speaker": speaker[keep], "content": content[keep]})
    sampler = BlockSampler(grid, {"speaker": 4, "content": 4})
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert sorted(sum(batches, [])) == list(range(keep.sum()))


def test_blocks_without_utterances_are_replaced():
    # A diagonal: most blocks of 2 x 2 are empty.
    grid = Grid({"speaker": np.arange(12), "content": np.arange(12)})
    sampler = BlockSampler(grid, {"speaker": 2, "content": 2})
    seen = set()
    for epoch in range(5):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 36
        assert all(batches)
        seen.update(sum(batches, []))
    assert seen == set(range(12))


def test_three_factors():
    codes = np.indices((4, 3, 2)).reshape(3, -1)
    grid = Grid(dict(zip(["speaker", "content", "style"], codes)))
    sampler = BlockSampler(grid, {"speaker": 2, "content": 3})
    batches = list(sampler)
    assert len(batches) == 2
    assert all(len(batch) == 12 for batch in batches)  # all styles
    assert sorted(sum(batches, [])) == list(range(24))


def test_length_for_several_processes():
    sampler = BlockSampler(
        full_grid(6, 5), {"speaker": 2, "content": 5}, multiple_of=4
    )
    assert len(sampler) == len(list(sampler)) == 4


def test_refusals():
    grid = full_grid(4, 5)
    with pytest.raises(InputError, match="block of 5 values of 'speaker'"):
        BlockSampler(grid, {"speaker": 5})
    with pytest.raises(InputError, match="'style' is not in the grid"):
        BlockSampler(grid, {"style": 1})
    with pytest.raises(InputError, match="Factor 'speaker' of the grid has 1"):
        Grid({"speaker": ["a", "a"], "content": [1, 2]})


def test_labels_and_features():
    grid = Grid({"speaker": ["b", "a", "b"], "content": ["x", "x", "y"]})
    assert list(grid.labels("speaker")) == ["b", "a", "b"]
    features = torch.arange(3.0, dtype=torch.float16).reshape(3, 1, 1)
    dataset = GridFeatures(features, grid)
    block, codes = dataset.__getitems__([2, 1])
    assert block.dtype == torch.float32
    assert block.flatten().tolist() == [2, 1]
    assert codes["speaker"].tolist() == [1, 0]
    assert codes["content"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="2 features for 3"):
        GridFeatures(features[:2], grid)
