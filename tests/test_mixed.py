"""Recordings in several views between the blocks of a grid."""

import numpy as np
import pytest
import torch
from test_grid import epochs, full_grid

from speechbrain_ext.dataio.grid import BlockSampler, GridFeatures
from speechbrain_ext.dataio.mixed import MixedFeatures, MixedSampler


def test_codes_of_views():
    """Two views share a code where neither of them changes the factor."""
    grid = GridFeatures(torch.zeros(20, 1, 1), full_grid(4, 5))
    changed = [None, "content", "content", "channel", "speaker"]
    views = torch.arange(1.0, 16).reshape(3, 5, 1, 1)
    mixed = MixedFeatures(grid, views, changed)
    assert len(mixed) == 35 and grid.rows is None
    features, codes = mixed.__getitems__(mixed.rows[[2, 0]].ravel())
    assert features.flatten().tolist() == [*range(11, 16), *range(1, 6)]
    for factor, n_values in (("speaker", 4), ("content", 5)):
        assert codes[factor].min() >= n_values  # no code of the grid
        same = codes[factor][:, None] == codes[factor]
        kept = torch.tensor([change != factor for change in changed] * 2)
        recording = torch.arange(10) // 5
        wanted = kept & kept[:, None] & (recording[:, None] == recording)
        assert torch.equal(same, wanted | torch.eye(10, dtype=torch.bool))
    assert torch.equal(mixed.codes[:20], grid.codes)


@pytest.mark.parametrize("multiple_of", [1, 4])
def test_recordings_between_the_blocks_of_a_grid(multiple_of):
    rows = 48 + np.arange(23 * 5).reshape(23, 5)

    def drawn(epoch, seed=1):
        blocks = BlockSampler(
            full_grid(6, 8), {"speaker": 3, "content": 8}, seed=seed
        )
        sampler = MixedSampler(blocks, rows, multiple_of)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    of_grid = list(epochs(full_grid(6, 8), 2, 3, 8, seed=1))
    for epoch in range(2):
        batches = drawn(epoch)
        # Two of the grid, five of 23 recordings, perhaps one again
        assert len(batches) == (7 if multiple_of == 1 else 8)
        mixed = [b for b in batches[:7] if min(b) >= 48]
        assert sorted(b for b in batches[:7] if max(b) < 48) == sorted(
            of_grid[epoch]
        )
        assert sorted(sum(mixed, [])) == rows.ravel().tolist()
        assert {len(b) for b in mixed} == {20, 25}
        whole = [np.array(b).reshape(-1, 5).tolist() for b in mixed]
        assert all(one in rows.tolist() for one in sum(whole, []))
        assert batches == drawn(epoch) != drawn(epoch, seed=2)
    assert drawn(0) != drawn(1)


def test_a_block_of_recordings_has_two_or_more():
    blocks = BlockSampler(full_grid(4, 4), {"speaker": 2, "content": 1})
    sampler = MixedSampler(blocks, 16 + np.arange(21).reshape(7, 3))
    own = [batch for batch in sampler if min(batch) >= 16]
    assert sorted(len(batch) for batch in own) == [6, 6, 9]
