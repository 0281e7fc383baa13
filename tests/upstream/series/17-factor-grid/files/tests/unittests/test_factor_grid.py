"""Blocks of a grid of factors.

Authors
 * @AUTHORS@
"""

import numpy as np
import pytest
import torch


def make_grid(n_speakers=8, n_contents=12, takes=1, share=1.0):
    """Utterances of every speaker with every content, or of a share of them."""
    from speechbrain.dataio.factor_grid import Grid

    speakers, contents, _ = np.indices((n_speakers, n_contents, takes))
    rng = np.random.default_rng(0)
    chosen = rng.random(speakers.size) < share
    return Grid(
        {
            "speaker": speakers.ravel()[chosen],
            "content": contents.ravel()[chosen],
        }
    )


def cells(grid, batch):
    return {tuple(codes) for codes in grid.codes[batch].tolist()}


@pytest.mark.parametrize("order", ["shuffled", "grouped", "fixed"])
def test_an_epoch_passes_over_the_grid_once(order):
    from speechbrain.dataio.factor_grid import BlockSampler

    grid = make_grid()
    sampler = BlockSampler(grid, {"speaker": 4, "content": 3}, order=order)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 8
    assert sorted(sum(batches, [])) == list(range(len(grid)))
    for batch in batches:
        speakers, contents = grid.codes[batch].T
        # A block is dense: each of its speakers says each of its contents
        assert len(set(speakers)) == 4 and len(set(contents)) == 3
        assert len(cells(grid, batch)) == len(batch) == 12


def test_seed_and_epoch_decide():
    from speechbrain.dataio.factor_grid import BlockSampler

    grid, block = make_grid(takes=3), {"speaker": 4, "content": 3}

    def draw(epoch, **options):
        sampler = BlockSampler(grid, block, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, seed=1) == draw(1, seed=1)
    assert draw(1, seed=1) != draw(2, seed=1)
    assert draw(1, seed=1) != draw(1, seed=2)
    assert draw(1, order="fixed") == draw(2, order="fixed")


@pytest.mark.parametrize("share", [0.9, 0.3, 0.03])
def test_every_cell_is_met_in_a_grid_with_holes(share):
    from speechbrain.dataio.factor_grid import BlockSampler

    grid = make_grid(50, 60, share=share)
    sampler = BlockSampler(grid, {"speaker": 7, "content": 11})
    batches = list(sampler)
    assert set().union(*batches) == set(range(len(grid)))
    for batch in batches:
        speakers, contents = grid.codes[batch].T
        assert 0 < len(batch) <= 77
        assert len(set(speakers)) <= 7 and len(set(contents)) <= 11


def test_three_factors_and_all_values_of_one():
    from speechbrain.dataio.factor_grid import BlockSampler, Grid

    axes = np.indices((4, 6, 3)).reshape(3, -1)
    grid = Grid(dict(zip(["speaker", "content", "style"], axes)))
    sampler = BlockSampler(grid, {"speaker": 2, "content": 3})
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [18] * 4
    assert all(len(set(grid.codes[batch].T[2])) == 3 for batch in batches)


def test_blocks_of_a_data_loader():
    from speechbrain.dataio.factor_grid import BlockSampler, GridFeatures

    grid = make_grid()
    features = torch.arange(len(grid)).float().reshape(-1, 1, 1)
    sampler = BlockSampler(grid, {"speaker": 4, "content": 3})
    loader = torch.utils.data.DataLoader(
        GridFeatures(features, grid),
        batch_sampler=sampler,
        collate_fn=GridFeatures.collate,
    )
    for batch, (block, codes) in zip(sampler, loader):
        assert block.flatten().tolist() == batch
        assert codes["speaker"].tolist() == grid.codes[batch][:, 0].tolist()


@pytest.mark.parametrize(
    "block, options, message",
    [
        ({"speakers": 2}, {}, "'speakers' is not in the grid"),
        ({"speaker": 9}, {}, "9 values of 'speaker' does not fit"),
        ({"speaker": 1, "content": 1}, {}, "nothing to compare"),
        ({}, {"order": "random"}, "Unknown order 'random'"),
    ],
)
def test_blocks_that_are_refused(block, options, message):
    from speechbrain.dataio.factor_grid import BlockSampler

    with pytest.raises(ValueError, match=message):
        BlockSampler(make_grid(), block, **options)


def test_factor_of_one_value_is_refused():
    from speechbrain.dataio.factor_grid import Grid

    with pytest.raises(ValueError, match="Factor 'content' of the grid has 1"):
        Grid({"speaker": [0, 1], "content": ["a", "a"]})
