"""Grid and block sampler."""

import itertools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_ext.dataio.grid import BlockSampler, Grid, GridFeatures
from speechbrain_ext.dataio.manifest import factor_labels
from speechbrain_ext.dataio.pooled_features import PooledFeatures
from speechbrain_ext.utils.errors import InputError


def full_grid(n_speakers, n_contents, takes=1):
    speaker, content, _ = np.indices((n_speakers, n_contents, takes))
    return Grid({"speaker": speaker.ravel(), "content": content.ravel()})


def epochs(grid, count, speaker=None, content=None, **options):
    """All batches of some epochs, each of as many as the sampler says."""
    block = {"speaker": speaker, "content": content}
    sampler = BlockSampler(grid, block, **options)
    for epoch in range(count):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        yield batches


@pytest.mark.parametrize("order", ["shuffled", "grouped"])
def test_published_shape(order):
    (batches,) = epochs(full_grid(32, 256), 1, 16, 32, seed=1, order=order)
    # 800 steps in 50 epochs, and every cell once in each.
    assert [len(batch) for batch in batches] == [512] * 16
    assert sorted(sum(batches, [])) == list(range(32 * 256))


def blocks_of(batches, grid):
    """(speakers, contents) of each batch, sets of codes."""
    for batch in batches:
        columns = grid.codes[batch].T.tolist()
        yield tuple(frozenset(column) for column in columns)


def test_order_of_the_authors():
    """One cut of the contents an epoch; groups of speakers in turn."""
    grid = full_grid(6, 12)
    cuts = []
    for batches in epochs(grid, 3, 2, 4, seed=1, order="grouped"):
        speakers, contents = zip(*blocks_of(batches, grid))
        groups, cut = speakers[::3], contents[:3]
        assert sorted(code for group in groups for code in group) == [*range(6)]
        assert sorted(code for part in cut for code in part) == [*range(12)]
        assert speakers == tuple(g for g in groups for _ in range(3))
        assert contents == cut * 3
        cuts.append((groups, cut))
    assert len({groups for groups, _ in cuts}) > 1
    assert len({cut for _, cut in cuts}) == 3


def test_own_order():
    """A new cut of the contents for each group, and blocks that are mixed."""
    grid = full_grid(6, 12)
    (batches,) = epochs(grid, 1, 2, 4, seed=1)
    blocks = list(blocks_of(batches, grid))
    speakers = [block[0] for block in blocks]
    assert len([*itertools.groupby(speakers)]) > 3  # groups
    cuts = {
        group: frozenset(c for s, c in blocks if s == group)
        for group in speakers
    }
    assert len(set(cuts.values())) == len(cuts) == 3


def test_order_of_the_authors_with_groups_that_are_filled_up():
    grid = full_grid(5, 7)
    (batches,) = epochs(grid, 1, 2, 3, seed=1, order="grouped", multiple_of=4)
    blocks = list(blocks_of(batches, grid))
    assert len(blocks) == 12 and blocks[9:] == blocks[:3]
    assert {len(batch) for batch in batches} == {6}
    assert set(sum(batches, [])) == set(range(35))
    assert [c for _, c in blocks[:3]] == [c for _, c in blocks[3:6]]


@pytest.mark.parametrize("block", [(3, 4), (5, 2), (7, 9), (1, 3), (4, 1)])
def test_any_block_shape_covers_the_grid(block):
    grid = full_grid(7, 9)
    (batches,) = epochs(grid, 1, *block, seed=3)
    for batch in batches:
        codes = grid.codes[batch]
        assert [len(set(column)) for column in codes.T] == list(block)
        assert len(set(batch)) == len(batch) == block[0] * block[1]
    assert set(sum(batches, [])) == set(range(63))


def test_draws_are_those_of_earlier_versions():
    assert list(epochs(full_grid(3, 5, takes=2), 1, 2, 3, seed=4)) == [
        [
            [23, 20, 28, 3, 1, 8],
            [7, 9, 2, 17, 19, 13],
            [25, 26, 22, 4, 7, 3],
            [2, 4, 1, 13, 15, 11],
        ]
    ]


def test_takes_are_further_utterances_of_their_cells():
    rng = np.random.default_rng(0)
    texts = rng.integers(9, size=(2, 60)).astype(str)
    labels = dict(zip(("speaker", "content"), texts.tolist()))
    repeated = Grid({factor: 3 * values for factor, values in labels.items()})
    for given in (labels, dict(zip(labels, texts))):
        grid = Grid(given, takes=3)
        assert len(grid) == 180 and grid.codes.dtype == np.int32
        assert grid.labels("content").tolist() == 3 * labels["content"]
        drawn, wanted = (
            list(epochs(one, 2, 3, 4, seed=1)) for one in (grid, repeated)
        )
        assert drawn == wanted


def test_draws_follow_seed_and_epoch():
    grid = full_grid(6, 8, takes=3)
    first, second = epochs(grid, 2, 3, 4, seed=1)
    assert [first, second] == list(epochs(grid, 2, 3, 4, seed=1))
    assert first != second
    assert first != next(epochs(grid, 1, 3, 4, seed=2))
    first, second = epochs(grid, 2, 3, 4, order="fixed")
    assert first == second
    assert grid.codes[first[0]][:, 0].max() == 2


def test_every_take_is_reachable():
    grid = full_grid(2, 2, takes=4)
    counts = np.zeros(16, dtype=int)
    for (batch,) in epochs(grid, 200):
        assert len({tuple(c) for c in grid.codes[batch]}) == len(batch) == 4
        counts[batch] += 1
    # 200 draws of four takes a cell: 50 expected, deviation 6.
    assert counts.min() > 25 and counts.max() < 75


def test_missing_cells():
    keep = np.random.default_rng(0).random((8, 12)) < 0.5
    grid = Grid(dict(zip(("speaker", "content"), np.nonzero(keep))))
    (batches,) = epochs(grid, 1, 4, 4)
    assert len(batches) == 6
    assert sorted(sum(batches, [])) == list(range(keep.sum()))


def test_blocks_without_utterances_are_replaced():
    # Two halves that share no content: half of the blocks of 2 x 2 are empty.
    codes = np.indices((2, 6, 6)).reshape(3, -1)
    labels = 6 * codes[0] + codes[1:]
    grid = Grid(dict(zip(("speaker", "content"), labels)))
    (batches,) = epochs(grid, 1, 2, 2, order="fixed")
    assert len(batches) == 36 and all(batches)
    assert sum(len(batch) == 4 for batch in batches) >= 18
    assert set(sum(batches, [])) == set(range(72))


def test_three_factors_and_several_processes():
    codes = np.indices((4, 3, 2)).reshape(3, -1)
    grid = Grid(dict(zip(["speaker", "content", "style"], codes)))
    (batches,) = epochs(grid, 1, 2, 3, multiple_of=4)
    assert [len(batch) for batch in batches] == [12] * 4  # all styles
    assert sorted(batches[0] + batches[1]) == list(range(24))
    assert sorted(batches[2] + batches[3]) == list(range(24))


@pytest.mark.parametrize(
    "block, message",
    [
        ({"speaker": 5}, "block of 5 values of 'speaker' .* choose 1 to 4"),
        ({"speaker": 0}, "block of 0 values of 'speaker'"),
        ({"style": 1}, "'style' is not in the grid"),
        ({"speaker": 1, "content": 1}, "nothing to compare"),
    ],
)
def test_blocks_that_do_not_fit(block, message):
    with pytest.raises(InputError, match=message):
        BlockSampler(full_grid(4, 5), block)


def test_orders_that_are_refused():
    with pytest.raises(InputError, match="'random': expected shuffled, gro"):
        BlockSampler(full_grid(4, 5), {}, order="random")


def test_features_and_codes_of_a_block():
    grid = Grid({"speaker": ["b", "a", "b"], "content": ["x", "x", "y"]})
    features = torch.arange(3.0, dtype=torch.float16).reshape(3, 1, 1)
    block, codes = GridFeatures(features, grid).__getitems__([2, 1])
    assert block.dtype == torch.float32
    assert block.flatten().tolist() == [2, 1]
    assert codes["speaker"].tolist() == codes["content"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="2 features for 3"):
        GridFeatures(features[:2], grid)


def test_each_source_of_features_is_a_take():
    dataset = DynamicItemDataset({"u": {"speaker": "a"}, "v": {"speaker": "b"}})
    sources = [
        PooledFeatures([offset + np.arange(6.0).reshape(2, 3, 1)], "vu")
        for offset in (0, 10)
    ]
    labels = factor_labels(dataset, ["u", "v"], ["speaker"])
    takes = torch.cat([one.select(["u", "v"], [2, 0]) for one in sources])
    found = GridFeatures(takes, Grid(labels, takes=2))
    values = [[5, 3], [2, 0], [15, 13], [12, 10]]
    assert found.features[..., 0].tolist() == values
    assert found.grid.labels("speaker").tolist() == ["a", "b", "a", "b"]
    with pytest.raises(InputError, match="Factor 'speaker' of the x has 1"):
        Grid({"speaker": ["a", "a"]}, "x")


@pytest.mark.parametrize("free, device", [(1300, "cuda"), (1200, "cpu")])
def test_features_on_a_gpu_where_they_fit(free, device, monkeypatch):
    """Of a GPU that need not be there; 640 bytes of features and codes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda rows: rows)
    grid = full_grid(4, 5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        host = GridFeatures(torch.zeros(20, 1, 4), grid)
        host.codes = torch.zeros(20, 2, dtype=torch.long)
        features, codes = host.on("cuda").__getitems__([3, 7])
    assert host.features.device.type == "cpu"
    assert {features.device.type, codes["speaker"].device.type} == {device}
