"""What holds for any input: manifests, grids, blocks, losses, metrics."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from speechbrain_ext.dataio.grid import BlockSampler, Grid
from speechbrain_ext.dataio.manifest import load_manifest
from speechbrain_ext.dataio.splits import split_manifest
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.metrics.variance import variance_shares
from speechbrain_ext.metrics.verification import equal_error_rate, min_dcf
from speechbrain_ext.nnet.losses import (
    contrastive_floor,
    interventional_contrastive_loss,
)
from speechbrain_ext.utils.errors import InputError

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

words = st.text(
    st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8
)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def grids(draw):
    """A grid of two or three factors with holes and takes, and a block."""
    sizes = draw(st.lists(st.integers(2, 6), min_size=2, max_size=3))
    rng = np.random.default_rng(draw(seeds))
    count = draw(st.integers(2, 60))
    codes = [rng.integers(size, size=count) for size in sizes]
    for code in codes:  # two values of every factor at least
        code[:2] = 0, 1
    grid = Grid({f"f{n}": code for n, code in enumerate(codes)})
    block = {
        f: draw(st.integers(1, size))
        for f, size in zip(grid.factors, grid.shape)
    }
    block["f0"] = max(2, block["f0"])
    return grid, block


@given(grids(), seeds, st.integers(0, 3), st.integers(1, 3))
def test_an_epoch_meets_every_cell_in_blocks(made, seed, epoch, multiple):
    grid, block = made
    sampler = BlockSampler(grid, block, seed, multiple_of=multiple)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert batches == list(sampler)
    assert len(batches) == len(sampler) and len(sampler) % multiple == 0
    met = set()
    for batch in batches:
        cells = [tuple(grid.codes[row]) for row in batch]
        assert cells and len(set(cells)) == len(cells)
        for factor, values in zip(grid.factors, zip(*cells)):
            assert len(set(values)) <= block[factor]
        met |= set(cells)
    assert met == set(map(tuple, grid.codes))


@given(
    st.lists(st.tuples(words, words, words), min_size=1, max_size=20),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_manifest_is_read_as_it_was_written(rows, newline):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "manifest.csv")
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator=newline)
            writer.writerow(["ID", "wav", "speaker", "content"])
            for number, row in enumerate(rows):
                writer.writerow([f"u{number}", *row])
        data = load_manifest(path, folder, ["speaker", "content"]).data
        assert list(data) == [f"u{number}" for number in range(len(rows))]
        for (wav, *factors), row in zip(rows, data.values()):
            assert [row["speaker"], row["content"]] == factors
            if "$" not in wav and "{" not in wav:
                assert row["wav"] == str(Path(folder) / wav)


@given(st.integers(3, 30), st.integers(1, 4), seeds)
def test_splits_are_disjoint_and_complete(speakers, takes, seed):
    class Dataset:
        data = {
            f"u{n}": {"speaker": f"s{n % speakers}"}
            for n in range(speakers * takes)
        }

    try:
        splits = split_manifest(Dataset, "speaker", seed=seed)
    except InputError:  # too few to divide
        assert speakers < 5
        return
    heard = {
        split: {Dataset.data[key]["speaker"] for key in ids}
        for split, ids in splits.items()
    }
    assert sum(map(len, splits.values())) == len(Dataset.data)
    assert len(set.union(*heard.values())) == sum(map(len, heard.values()))


@given(st.integers(2, 20), st.integers(1, 8), seeds, st.floats(0.02, 5))
def test_the_loss_is_above_its_floor_whatever_the_order(n, dim, seed, tau):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, dim, generator=generator, dtype=torch.float32)
    labels = torch.randint(3, (n,), generator=generator)
    embeddings.requires_grad_()
    loss = interventional_contrastive_loss(embeddings, labels, tau)
    loss.backward()
    assert torch.isfinite(embeddings.grad).all()
    if (torch.bincount(labels) > 1).any():
        assert loss >= contrastive_floor(labels) - 1e-4
    order = torch.randperm(n, generator=generator)
    again = interventional_contrastive_loss(
        7 * embeddings[order], labels[order], tau
    )
    assert loss.item() == pytest.approx(again.item(), rel=1e-3, abs=1e-4)


@given(st.data())
def test_error_rates_see_only_the_order(data):
    labels = [1, 0, *data.draw(st.lists(st.integers(0, 1), max_size=30))]
    scores = data.draw(
        st.lists(
            st.integers(-50, 50), min_size=len(labels), max_size=len(labels)
        )
    )
    scores, labels = np.array(scores, float), np.array(labels)
    eer, threshold = equal_error_rate(scores, labels)
    assert 0 <= eer <= 1 and 0 <= min_dcf(scores, labels) <= 1
    accepted = scores > threshold
    rates = np.mean(accepted[labels == 0]), np.mean(~accepted[labels == 1])
    assert min(rates) <= eer + 1e-9 and eer <= max(rates) + 1e-9
    for changed, truth in (
        (scores**3 - 1, labels),
        (np.exp(scores / 50), labels),
        (-scores, 1 - labels),
    ):
        found = equal_error_rate(changed, truth)[0]
        assert found == pytest.approx(eer, abs=1e-12)


@given(st.integers(2, 6), st.integers(2, 6), seeds, st.integers(1, 30))
def test_trials_are_right_and_unique(speakers, contents, seed, most):
    rng = np.random.default_rng(seed)
    speaker = np.r_[0, 0, 1, rng.integers(speakers, size=20)]
    content = np.r_[0, 1, 0, rng.integers(contents, size=20)]
    trials = generate_trials(
        speaker, content, max_targets=most, max_nontargets=most, seed=seed
    )
    same = speaker[trials.enrol] == speaker[trials.test]
    assert np.array_equal(same, trials.label == 1)
    assert (content[trials.enrol] != content[trials.test]).all()
    assert (trials.enrol < trials.test).all()
    pairs = set(zip(trials.enrol.tolist(), trials.test.tolist()))
    assert len(pairs) == len(trials) <= 2 * most


@given(st.integers(2, 5), st.integers(2, 5), st.integers(1, 3), seeds)
def test_shares_of_the_variance_sum_to_one(speakers, contents, dim, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(speakers * contents, size=40)
    speaker, content = np.divmod(rows, contents)
    speaker[:2] = content[:2] = 0, 1
    shares = variance_shares(rng.normal(size=(40, dim)), speaker, content)
    parts = ["speaker", "content", "interaction_and_residual", "confounded"]
    assert sum(shares[name] for name in parts) == pytest.approx(1)
    noise = shares.pop("chance")
    assert sum(noise[name] for name in parts) == pytest.approx(1)
