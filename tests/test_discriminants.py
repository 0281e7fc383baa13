"""Covariances of grids and recordings, and heads from several of them."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from speechbrain_ext.lobes import subspaces
from speechbrain_ext.processing import scatter
from speechbrain_ext.processing.closed_form import channel_lda
from speechbrain_ext.processing.discriminants import (
    Sources,
    columns_of,
    fit_sources,
    grid_source,
    recordings_source,
    source_directions,
)
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(6 * 20), 20)
BOTH = {"speaker": SPEAKERS, "content": CONTENTS}
COVARIANCES = ("between", "within")


def grid(dim=5):
    """[takes, utterances, layers, dim], not centred, of unequal scales."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, dim))[SPEAKERS]
    x = x + rng.normal(size=(20, 2, dim))[CONTENTS]
    x = x + rng.normal(size=(3, 120, 2, dim)) + 7
    return torch.tensor(x * np.logspace(-1, 1, dim), dtype=torch.float32)


def recordings(count=90, layers=3, dim=4):
    """Features of recordings and of two views per intervention."""
    rng = np.random.default_rng(1)
    recorded = rng.normal(3, np.logspace(-1, 1, dim), (count, layers, dim))
    views = {
        factor: [
            recorded + shift + rng.normal(0, scale, recorded.shape)
            for _ in range(2)
        ]
        for factor, shift, scale in (
            ("content", 0.0, 1.0),
            ("channel", 0.5, 2.0),
            ("speaker", 0.1, 0.5),
        )
    }
    return recorded, views


def close(one, other):
    """Whether two sources are the same up to float32."""
    assert (one.name, one.count) == (other.name, other.count)
    assert one.ranks == other.ranks
    for name in ("mean", "std"):
        assert np.allclose(getattr(one, name), getattr(other, name), rtol=1e-5)
    for name in COVARIANCES:
        found, wanted = getattr(one, name), getattr(other, name)
        assert list(found) == list(wanted)
        for factor, matrix in found.items():
            assert np.allclose(matrix, wanted[factor], rtol=1e-5, atol=1e-5)
    return True


def axes(between, within, dims, shrinkage):
    """Directions of an LDA, as SciPy finds them, up to their signs."""
    size = len(within)
    ridge = shrinkage * np.trace(within) / size * np.eye(size)
    found = eigh(between, (1 - shrinkage) * within + ridge)[1]
    return found[:, ::-1][:, :dims].T


def same_axes(one, other):
    """Each row the same vector or its negative."""
    signs = np.sign((one * other).sum(axis=1))[:, None]
    return np.allclose(one, signs * other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layers", [None, {"speaker": [-1], "content": [0]}])
def test_channel_lda_directly(layers):
    takes = grid()
    head = channel_lda(takes, BOTH, 4, 1.5, 0.3, layers)
    x = takes.double().numpy()
    mean, std = x[0].mean(axis=0), x[0].std(axis=0, ddof=1)
    assert np.allclose(head.standardiser.mean, mean, rtol=1e-5)
    assert np.allclose(head.standardiser.std, std, rtol=1e-5)
    for factor, values in BOTH.items():
        kept = layers[factor] if layers else [0, 1]
        z = ((x - mean) / std)[:, :, kept].reshape(3, 120, -1)
        means = np.array([z[0][values == v].mean(axis=0) for v in values])
        between, within = means.T @ means / 120, z[0] - means
        within = within.T @ within / 120
        for take in z[1:]:
            within += 1.5 / 2 * np.cov((take - z[0]).T, bias=True)
        wanted = np.zeros((4, 2, 5))
        wanted[:, kept] = axes(between, within, 4, 0.3).reshape(4, -1, 5)
        found = head.projections[factor].weight.numpy()
        assert same_axes(found, wanted.reshape(4, 10))


def test_blocks_change_nothing(monkeypatch):
    takes, (recorded, views) = grid(), recordings()
    rows = np.random.default_rng(0).permutation(90)[:50]

    def both():
        return (
            grid_source(takes, BOTH, layers={"content": [1]}),
            recordings_source(recorded, views, "speaker", [0, 2], rows=rows),
        )

    whole = both()
    monkeypatch.setattr(scatter, "BLOCK", 7)
    assert all(map(close, both(), whole))


@pytest.mark.parametrize("block", [7, 120])
def test_blocks_change_no_head(monkeypatch, block):
    """Also where the last of them is smaller."""
    takes, layers = grid(), {"content": [1]}
    whole = channel_lda(takes, BOTH, 4, layers=layers).state_dict()
    for module in (scatter, subspaces):
        monkeypatch.setattr(module, "BLOCK", block)
    parts = channel_lda(takes, BOTH, 4, layers=layers).state_dict()
    for name, found in parts.items():
        assert torch.allclose(found, whole[name], rtol=1e-5, atol=2e-6)


def test_many_utterances_far_from_zero():
    """Products in float32 are as exact as its features are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9000, 1, 8)) * np.logspace(-1, 1, 8)
    x[1:] += x[0] + 50  # a channel that moves all utterances alike
    x = (x + 300).astype(np.float32)
    values = rng.integers(30, size=9000)
    found = grid_source(torch.from_numpy(x), {"speaker": values})
    x = x.astype(np.float64)[:, :, 0]
    mean, std = x[0].mean(axis=0), x[0].std(axis=0, ddof=1)
    assert np.allclose(found.mean, mean, rtol=1e-7)
    assert np.allclose(found.std, std, rtol=1e-7)
    means = np.array([x[0][values == v].mean(axis=0) for v in range(30)])
    means = means[values]
    wanted = {
        "within": np.cov((x[0] - means).T, bias=True),
        "between": np.cov(means.T, bias=True),
        "channel": sum(np.cov((y - x[0]).T, bias=True) for y in x[1:]) / 2,
    }
    for name, covariance in wanted.items():
        error = (getattr(found, name)["speaker"] - covariance) / np.outer(
            std, std
        )
        assert np.abs(error).max() < 1e-6


@pytest.mark.parametrize("layers", [None, {"speaker": [0], "content": [-1]}])
@pytest.mark.parametrize("chosen", [[0, 2], [-3, -1]])
def test_recordings_directly(layers, chosen):
    """Also with layers that are counted from the last one."""
    recorded, views = recordings()
    rows = np.random.default_rng(0).permutation(90)[:50]
    found = recordings_source(recorded, views, "speaker", chosen, layers, rows)
    assert np.allclose(found.mean, recorded[rows][:, [0, 2]].mean(axis=0))
    can = {"speaker", "content"} | ({*()} if layers else {"channel"})
    assert set(found.between) == set(found.within) == can
    for factor in can:
        kept = [[0, 2][i] for i in layers[factor]] if layers else [0, 2]

        def part(x, kept=kept):
            return x[rows][:, kept].reshape(50, -1)

        total = np.cov(part(recorded).T, bias=True)
        changed = {}
        for other, drawn in views.items():
            moved = [part(view) - part(recorded) for view in drawn]
            changed[other] = np.mean([d.T @ d / 50 for d in moved], axis=0)
        between = total if factor == "speaker" else changed[factor]
        within = sum(changed[other] for other in views if other != factor)
        assert np.allclose(found.between[factor], between)
        assert np.allclose(found.within[factor], within)


def test_saved_sources(tmp_path):
    recorded, views = recordings()
    sources = Sources(
        [
            grid_source(grid(), BOTH, layers={"content": [1]}, name="Gitter ä"),
            recordings_source(recorded, views, "speaker", [0, 2]),
        ]
    )
    sources.save(tmp_path / "a.ckpt")
    assert all(map(close, Sources().load(tmp_path / "a.ckpt"), sources))


@pytest.mark.parametrize(
    "states", [3, [3], [{"name": "a"}], {"a": torch.ones(1)}]
)
def test_files_that_hold_no_sources(tmp_path, states):
    torch.save(states, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="a.ckpt does not hold sources"):
        Sources().load(tmp_path / "a.ckpt")


def test_one_source_alone_is_a_special_case():
    """As if the other did not exist, whatever the features' units."""
    takes, (recorded, views) = grid(4), recordings(layers=2)
    sources = [
        grid_source(takes, BOTH),
        recordings_source(recorded, views, "speaker", [0, 1]),
    ]
    head = fit_sources(
        sources,
        {"speaker": [1, 0], "content": [0, 1]},
        {"speaker": 3, "content": 4},
        {"speaker": 0.0, "content": 0.3},
        channel_weight=1.0,
    )
    # Without shrinkage directions do not depend on how they are standardised.
    alone = channel_lda(takes, BOTH, 3, shrinkage=0.0)
    found = head.projections["speaker"].weight / head.standardiser.std.ravel()
    wanted = alone.projections["speaker"].weight
    wanted = wanted / alone.standardiser.std.ravel()
    assert same_axes(found.numpy(), wanted.numpy())
    alone = source_directions(sources[1:], [1], "content", None, 4, 0.3)
    assert same_axes(head.projections["content"].weight.numpy(), alone)


def test_sources_add_up():
    """The same twice is the same; otherwise their weighted sum counts."""
    takes, (recorded, views) = grid(4), recordings(layers=2)
    one = grid_source(takes, BOTH)
    own = recordings_source(recorded, views, "speaker", [0, 1])
    twice = source_directions([one, one], [0.7, 0.3], "speaker", None, 3, 0.3)
    once = source_directions([one], [1], "speaker", None, 3, 0.3)
    assert same_axes(twice, once)
    scale = np.outer(own.std, own.std)
    found = source_directions([one, own], [0.5, 1], "speaker", None, 3, 0.3)
    between, within = (
        (0.5 * getattr(one, name)["speaker"] + getattr(own, name)["speaker"])
        / scale
        for name in COVARIANCES
    )
    assert same_axes(found, axes(between, within, 3, 0.3))


def test_what_is_refused():
    recorded, views = recordings()
    with pytest.raises(InputError, match=r"layers \[2\] of factor 'content'"):
        columns_of("content", [2], (2, 3))
    recorded[5, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        recordings_source(recorded, views, "speaker", [0, 2])
    recorded, views = recordings()
    views["channel"][1][5, 2] = np.nan
    with pytest.raises(InputError, match="NaN"):
        recordings_source(recorded, views, "speaker", [0, 2])
    recorded[:] = 1
    with pytest.raises(InputError, match="same features"):
        recordings_source(recorded, views, "speaker", [0, 2])
    recorded, views = recordings()
    views["channel"] = [recorded, recorded]
    with pytest.raises(InputError, match="'channel' changes nothing"):
        recordings_source(recorded, views, "speaker", [0, 2])
    with pytest.raises(InputError, match="shrinkage must be .* got auto"):
        channel_lda(grid(), BOTH, shrinkage="auto")
