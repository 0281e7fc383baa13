"""LDA, channel LDA, PCA and random projections, and their export."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
from speechbrain_ext.processing.closed_form import (
    channel_lda,
    grid_lda,
    lda_directions,
    pca_subspaces,
    random_subspaces,
)
from speechbrain_ext.processing.discriminants import discriminants
from speechbrain_ext.processing.scatter import Rows, Scatter, shrunk
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(8 * 30), 30)
BOTH = {"speaker": SPEAKERS, "content": CONTENTS}


def grid(layers=2, dim=10):
    """Features with a part of each factor and noise of unequal size."""
    rng = np.random.default_rng(0)
    size = layers * dim
    x = rng.normal(size=(8, size))[SPEAKERS]
    x = x + rng.normal(size=(30, size))[CONTENTS]
    x = x + rng.normal(size=(240, size)) * np.logspace(-1, 0.5, size)
    return torch.tensor(x.reshape(240, layers, dim), dtype=torch.float32)


def centred():
    vectors = grid().flatten(1).double().numpy()
    return vectors - vectors.mean(axis=0)


def directions_of(vectors, values, dims, *shrinkage):
    scatter = Scatter(Rows(vectors), {"a": values})
    return lda_directions(scatter, "a", dims, *shrinkage)


def equal_but_for_signs(one, other, tolerance=1e-3):
    one, other = (np.abs(np.asarray(x)) for x in (one, other))
    return np.allclose(one, other, tolerance, tolerance)


def test_directions_span_what_scikit_learn_finds():
    """Also where some values have more utterances, and the mean is not 0."""
    kept = CONTENTS < 4 * (1 + SPEAKERS)
    vectors, speakers = 3 + centred()[kept], SPEAKERS[kept]
    ours = directions_of(vectors, speakers, 7, 0)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(vectors, speakers)
    for one, other in zip(ours, theirs.scalings_[:, :7].T, strict=True):
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert abs(cosine) == pytest.approx(1, abs=1e-4)


def test_covariance_is_that_of_ledoit_and_wolf():
    vectors = centred()
    scatter = Scatter(Rows(vectors), {"a": SPEAKERS})
    counts, means = scatter.counts["a"], scatter.means["a"]
    expected = [vectors[SPEAKERS == s].mean(axis=0) for s in range(8)]
    assert counts.tolist() == [30] * 8 and np.allclose(means, expected)
    within = vectors - means[SPEAKERS]
    expected, shrinkage = ledoit_wolf(within, assume_centered=True)
    assert np.allclose(scatter.shrunk("a"), expected)
    assert 0.001 < shrinkage < 0.5
    found = scatter.shrunk("a", 0.3)
    expected = within.T @ within / 240
    ridge = 0.3 * np.trace(expected) / 20 * np.eye(20)
    assert np.allclose(found, 0.7 * expected + ridge)


@pytest.mark.parametrize("shrinkage", [0, 0.1, 1])
def test_within_class_covariance_becomes_the_identity(shrinkage):
    vectors = centred()
    scatter = Scatter(Rows(vectors), {"a": SPEAKERS})
    means, covariance = scatter.means["a"], scatter.shrunk("a", shrinkage)
    directions = directions_of(vectors, SPEAKERS, 99, shrinkage)
    assert np.allclose(directions @ covariance @ directions.T, np.eye(7))
    # Most discriminative first.
    spread = np.linalg.norm(means @ directions.T, axis=0)
    assert spread.tolist() == sorted(spread, reverse=True)


def test_no_variance_within_values_and_few_utterances():
    exact = np.eye(8)[SPEAKERS]
    assert np.isfinite(directions_of(exact, SPEAKERS, 7)).all()
    rng = np.random.default_rng(0)
    values = np.repeat(np.arange(4), 4)
    wide = rng.normal(size=(16, 300)) + 3 * rng.normal(size=(4, 300))[values]
    projected = wide @ directions_of(wide, values, 10).T
    takes = projected.reshape(4, 4, 3)
    assert (
        np.ptp(takes.mean(axis=1), axis=0).min() > 5 * takes.std(axis=1).max()
    )


def test_grid_lda_is_an_lda_per_factor_of_standardised_features():
    features = 4 * grid() + 7
    network = grid_lda(features, BOTH, {"speaker": 512, "content": 12}, 0.2)
    assert network.widths == {"speaker": 7, "content": 12}
    vectors = network.standardiser(features.double()).flatten(1).numpy()
    assert np.allclose(vectors.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(vectors.std(axis=0), 1, atol=0.01)
    for factor, found in network(features).items():
        expected = vectors @ directions_of(vectors, BOTH[factor], 12, 0.2).T
        assert equal_but_for_signs(found, expected)
    # Statistics can be those of a target domain.
    expected = network(features)["speaker"]
    network.fit_statistics(3 * features + 5)
    moved = network(3 * features + 5)["speaker"]
    assert torch.allclose(moved, expected, atol=1e-3)


def test_pca():
    features = grid()
    network = pca_subspaces(features, {"a": 3, "b": 999})
    vectors = network(features)
    assert network.widths == {"a": 3, "b": 20}
    assert torch.allclose(vectors["a"], vectors["b"][:, :3], atol=1e-5)
    variance = torch.cov(vectors["b"].T).diagonal()
    expected = variance.sort(descending=True).values.diag()
    assert torch.allclose(torch.cov(vectors["b"].T), expected, atol=1e-3)
    # Of standardised dimensions, which are all kept.
    assert variance.sum().item() == pytest.approx(20, rel=0.01)
    assert vectors["b"].mean(dim=0).abs().max() < 1e-3


def test_random_projections_keep_distances_and_seeds():
    features = grid(1, 200)
    dims = {"a": 150, "b": 150}
    network, again, other = (
        random_subspaces(features, dims, seed=seed) for seed in (3, 3, 4)
    )
    vectors = network(features)
    assert torch.equal(vectors["a"], again(features)["a"])
    assert not torch.equal(vectors["a"], other(features)["a"])
    assert not torch.equal(vectors["a"], vectors["b"])
    near = torch.pdist(vectors["a"])
    far = torch.pdist(network.standardiser(features).flatten(1))
    assert 0.9 < float((near / far).mean()) < 1.1
    assert random_subspaces(features, {"a": 999}).widths == {"a": 200}


def test_exported_and_loaded_like_a_trained_head(tmp_path):
    encoder = load_encoder("log_mel")
    waves = torch.randn(24, 8000, generator=torch.manual_seed(0))
    features = encoder(waves, torch.ones(24))[:, [0]]
    labels = {"speaker": np.repeat(np.arange(6), 4)}
    network = grid_lda(features, labels, shrinkage=0.5)
    options = {"name": "lda", "thresholds": {"speaker": 0.5}}
    export_subspaces(tmp_path / "export", encoder, network, [0], **options)
    model = SubspaceEncoder.from_hparams(
        source=str(tmp_path / "export"), savedir=str(tmp_path / "saved")
    )
    assert model.subspaces == ["speaker"]
    assert options == {name: getattr(model.hparams, name) for name in options}
    found = model.encode_batch(waves[:3])[:, 0]
    assert torch.allclose(found, network(features[:3])["speaker"], atol=1e-4)


def channels():
    """A grid as recorded and in three takes, whose channel moves one axis."""
    takes = grid(1, 8).repeat(4, 1, 1, 1)
    moved = 5 * torch.randn(3, 240, generator=torch.manual_seed(0))
    takes[1:, :, 0, 0] += moved
    return takes


def test_channel_lda_adds_the_mean_covariance_of_the_differences():
    takes = channels()
    network = channel_lda(takes, BOTH, {"speaker": 4}, channel_weight=1.5)
    assert network.widths == {"speaker": 4, "content": 8}  # all there are
    vectors = network.standardiser(takes).flatten(2).double().numpy()
    moved = [np.cov((take - vectors[0]).T, bias=True) for take in vectors[1:]]
    nuisance = 1.5 * np.mean(moved, axis=0)
    for factor, values in BOTH.items():
        centred = vectors[0] - vectors[0].mean(axis=0)
        within = Scatter(Rows(centred), {"a": values}).within("a")
        between = centred.T @ centred / 240 - within
        dims = network.widths[factor]
        expected = discriminants(within + nuisance, between, dims, 0.3)
        found = network.projections[factor].weight
        assert equal_but_for_signs(found, expected)
    assert network(takes[0])["speaker"].mean(dim=0).abs().max() < 1e-4


def test_channel_lda_without_channels_is_lda():
    takes = channels()
    plain = grid_lda(takes[0], BOTH, 4, shrinkage=0.3)(takes[0])
    for factor, found in channel_lda(takes[:1], BOTH, 4)(takes[0]).items():
        assert equal_but_for_signs(found, plain[factor])


def test_channel_lda_reads_each_factor_from_its_layers():
    takes = channels()
    other = torch.randn(takes.shape, generator=torch.manual_seed(0))
    both = torch.cat([takes, other], dim=2)
    network = channel_lda(both, BOTH, 4, layers={"speaker": [0]})
    alone = channel_lda(takes, BOTH, 4)(takes[0])["speaker"]
    before = network(both[0])
    assert equal_but_for_signs(before["speaker"], alone)
    both[0, :, 1] += 1
    assert torch.equal(network(both[0])["speaker"], before["speaker"])
    assert not torch.allclose(network(both[0])["content"], before["content"])


@pytest.mark.parametrize(
    "labels, options, message",
    [
        ({}, {}, "no factor"),
        ({"speaker": np.zeros(240)}, {}, "got 1 values"),
        ({"speaker": np.arange(240)}, {}, "got 240 values"),
        ({"speaker": SPEAKERS[1:]}, {}, "values: expected"),
        (BOTH, {"shrinkage": 2}, "shrinkage must be in"),
        (BOTH, {"layers": {"speaker": [3]}}, r"layers \[3\] of factor 'speak"),
        (BOTH, {"channel_weight": -1}, "channel_weight .* got -1"),
    ],
)
def test_what_is_refused(labels, options, message):
    with pytest.raises(InputError, match=message):
        channel_lda(channels(), labels, **options)


def test_bad_features_and_widths():
    with pytest.raises(InputError, match="layers, dim"):
        grid_lda(grid().flatten(1), BOTH)
    with pytest.raises(InputError, match="no factor"):
        grid_lda(grid(), {})
    for make, features in ((grid_lda, grid()), (channel_lda, channels())):
        with pytest.raises(InputError, match="NaN"):
            make(features * np.nan, BOTH)
    for widths in ({}, {"speaker": 0}):
        with pytest.raises(InputError, match="at least one dimension"):
            LinearSubspaces([1, 4], widths)


def test_few_utterances_are_read_in_double_precision():
    """Of more than ten a dimension rounding shows in no direction."""
    for count, kind in ((49, "float64"), (50, "float32")):
        [block] = Rows(np.zeros((count, 5), dtype="float32"))
        assert block.dtype == kind


def test_what_never_changes_has_a_least_variance():
    assert np.array_equal(
        shrunk(np.diag([1.0, 0]), 0, 0.5), np.diag([1.5, 0.5])
    )
