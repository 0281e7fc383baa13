"""LDA, PCA and random projections, and their export."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from speechbrain_ext.evaluation.closed_form import (
    channel_lda,
    grid_lda,
    lda_directions,
    pca_subspaces,
    random_subspaces,
    within_covariance,
)
from speechbrain_ext.inference import SubspaceEncoder
from speechbrain_ext.inference.export import export_subspaces
from speechbrain_ext.lobes.encoders import load_encoder
from speechbrain_ext.lobes.linear_subspaces import LinearSubspaces
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(8 * 30), 30)


def grid(layers=2, dim=10, seed=0):
    """Features with a part of each factor and noise of unequal size."""
    rng = np.random.default_rng(seed)
    size = layers * dim
    x = rng.normal(size=(8, size))[SPEAKERS]
    x = x + rng.normal(size=(30, size))[CONTENTS]
    x = x + rng.normal(size=(240, size)) * np.logspace(-1, 0.5, size)
    return torch.tensor(x.reshape(240, layers, dim), dtype=torch.float32)


def test_direction_of_known_covariances():
    rng = np.random.default_rng(0)
    values = np.repeat([0, 1], 50000)
    covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
    vectors = rng.multivariate_normal([0, 0], covariance, size=100000)
    vectors += np.array([[0, 0], [1.0, 1.0]])[values]
    direction = lda_directions(vectors, values, 5, shrinkage=0)
    assert direction.shape == (1, 2)
    ideal = np.linalg.solve(covariance, [1, 1])
    ideal /= np.sqrt(ideal @ covariance @ ideal)  # within-class variance one
    assert np.abs(direction[0] @ [1, 1]) == pytest.approx(
        ideal @ [1, 1], rel=0.02
    )
    assert np.allclose(np.abs(direction[0]), np.abs(ideal), atol=0.05)


def test_directions_span_what_scikit_learn_finds():
    vectors = grid().flatten(1).double().numpy()
    ours = lda_directions(vectors, SPEAKERS, 7, shrinkage=0)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(vectors, SPEAKERS)
    scalings = theirs.scalings_[:, :7].T
    for one, other in zip(ours, scalings):
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert abs(cosine) == pytest.approx(1, abs=1e-4)


def test_within_class_covariance_becomes_the_identity():
    vectors = grid().flatten(1).double().numpy()
    vectors -= vectors.mean(axis=0)
    _, _, covariance = within_covariance(vectors, SPEAKERS, 0.1)
    directions = lda_directions(vectors, SPEAKERS, 7, 0.1)
    assert np.allclose(directions @ covariance @ directions.T, np.eye(7))


def test_shrinkage_goes_from_lda_to_the_class_means():
    vectors = grid().flatten(1).double().numpy()
    vectors -= vectors.mean(axis=0)
    _, means, covariance = within_covariance(vectors, SPEAKERS, 1.0)
    size = len(covariance)
    assert np.allclose(covariance, covariance[0, 0] * np.eye(size))
    directions = lda_directions(vectors, SPEAKERS, 99, 1.0)
    assert len(directions) == 7
    # The subspace of the class means.
    span = np.linalg.svd(means, full_matrices=False)[2][:7]
    assert np.allclose(
        np.linalg.norm(directions @ span.T, axis=1),
        np.linalg.norm(directions, axis=1),
    )


def test_a_factor_that_leaves_no_variance_and_few_utterances():
    exact = np.eye(8)[SPEAKERS]
    assert np.isfinite(lda_directions(exact, SPEAKERS, 7)).all()
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(16, 300)) + 3 * np.repeat(
        rng.normal(size=(4, 300)), 4, axis=0
    )
    directions = lda_directions(wide, np.repeat(np.arange(4), 4), 10)
    projected = (wide @ directions.T).reshape(4, 4, 3)
    spread = projected.std(axis=1).max()
    assert np.linalg.norm(np.ptp(projected.mean(axis=1), axis=0)) > 5 * spread


def test_grid_lda_separates_the_factors():
    features = grid()
    network = grid_lda(
        features, {"speaker": SPEAKERS, "content": CONTENTS}, {
            "speaker": 512, "content": 12},
    )  # fmt: skip
    assert network.subspaces == ["speaker", "content"]
    assert network.widths == {"speaker": 7, "content": 12}
    vectors = network(features)

    def share(x, codes):
        x = x - x.mean(dim=0)
        means = torch.stack([x[codes == k].mean(dim=0) for k in set(codes)])
        return float((means**2).mean() / (x**2).mean())

    assert share(vectors["speaker"], SPEAKERS) > 0.5
    assert share(vectors["content"], SPEAKERS) < 0.1
    for part in vectors.values():
        assert part.mean(dim=0).abs().max() < 1e-3 * part.abs().max()


def test_statistics_can_be_those_of_the_target_domain():
    features = grid()
    network = grid_lda(features, {"speaker": SPEAKERS})
    moved = 3 * features + 5
    expected = network(features)["speaker"]
    network.fit_statistics(moved)
    assert torch.allclose(network(moved)["speaker"], expected, atol=1e-3)
    fixed = grid_lda(features, {"speaker": SPEAKERS}, standardise=False)
    before = fixed(features)["speaker"]
    fixed.fit_statistics(moved)
    assert torch.equal(fixed(features)["speaker"], before)
    assert before.mean(dim=0).abs().max() < 1e-2


@pytest.mark.parametrize("whiten", [False, True])
def test_pca(whiten):
    features = grid()
    network = pca_subspaces(features, ["a", "b"], {"a": 3, "b": 999}, whiten)
    vectors = network(features)
    assert network.widths == {"a": 3, "b": 20}
    assert torch.allclose(vectors["a"], vectors["b"][:, :3], atol=1e-5)
    covariance = torch.cov(vectors["b"].T)
    diagonal = torch.diagonal(covariance)
    assert torch.allclose(covariance, torch.diag(diagonal), atol=1e-3)
    assert (diagonal.diff() <= 1e-3).all()
    if whiten:
        assert torch.allclose(diagonal, torch.ones(20), atol=1e-3)


def test_random_projections_keep_distances_and_seeds():
    features = grid(1, 200)
    network = random_subspaces(features, ["a", "b"], 150, seed=3)
    again = random_subspaces(features, ["a", "b"], 150, seed=3)
    other = random_subspaces(features, ["a", "b"], 150, seed=4)
    vectors = network(features)
    assert torch.equal(vectors["a"], again(features)["a"])
    assert not torch.equal(vectors["a"], other(features)["a"])
    assert not torch.equal(vectors["a"], vectors["b"])
    near = torch.pdist(vectors["a"])
    far = torch.pdist(network.standardiser(features).flatten(1))
    assert 0.9 < float((near / far).mean()) < 1.1


@pytest.mark.parametrize(
    "make",
    [
        lambda x: grid_lda(x, {"speaker": SPEAKERS, "content": CONTENTS}),
        lambda x: pca_subspaces(x, ["speaker"], 4),
        lambda x: random_subspaces(x, ["speaker"], 4, standardise=False),
    ],
)
def test_built_empty_from_its_config_and_filled(make):
    features = grid()
    network = make(features)
    empty = LinearSubspaces(**network.config)
    assert all(not v.any() for v in empty(features).values())
    empty.load_state_dict(network.state_dict())
    for name, vectors in network(features).items():
        assert torch.equal(empty(features)[name], vectors)


def test_exported_and_loaded_like_a_trained_head(tmp_path):
    encoder = load_encoder("log_mel")
    waves = torch.randn(24, 8000, generator=torch.manual_seed(0))
    features = encoder(waves, torch.ones(24))[:, [0]]
    network = grid_lda(
        features, {"speaker": np.repeat(np.arange(6), 4)}, shrinkage=0.5
    )
    folder = tmp_path / "export"
    export_subspaces(folder, encoder, network, [0], None, {"speaker": 0.5})
    model = SubspaceEncoder.from_hparams(
        source=str(folder), savedir=str(tmp_path / "saved")
    )
    assert model.subspaces == ["speaker"]
    found = model.encode_batch(waves[:3])[:, 0]
    assert torch.allclose(found, network(features[:3])["speaker"], atol=1e-4)


def test_what_is_refused():
    features = grid()
    with pytest.raises(InputError, match="no factor"):
        grid_lda(features, {})
    with pytest.raises(InputError, match="got 1 values"):
        grid_lda(features, {"speaker": np.zeros(240)})
    with pytest.raises(InputError, match="got 240 values"):
        grid_lda(features, {"speaker": np.arange(240)})
    with pytest.raises(InputError, match="shrinkage"):
        grid_lda(features, {"speaker": SPEAKERS}, shrinkage=2)
    with pytest.raises(InputError, match="layers, dim"):
        grid_lda(features.flatten(1), {"speaker": SPEAKERS})
    with pytest.raises(InputError, match="NaN"):
        grid_lda(features * float("nan"), {"speaker": SPEAKERS})
    for widths in ({}, {"speaker": 0}):
        with pytest.raises(InputError, match="at least one dimension"):
            LinearSubspaces([1, 4], widths)


def channels(seed=0):
    """A grid as recorded and in three takes, whose channel moves one axis."""
    rng = np.random.default_rng(seed)
    speakers, contents = np.divmod(np.arange(240), 12)
    of_speakers = rng.standard_normal((20, 8)) * [1, 1, 1, 1, 0, 0, 0, 0]
    of_contents = rng.standard_normal((12, 8)) * [0, 0, 0, 0, 1, 1, 1, 1]
    recorded = of_speakers[speakers] + of_contents[contents]
    recorded = recorded + 0.1 * rng.standard_normal(recorded.shape)
    takes = np.repeat(recorded[None], 4, axis=0)
    takes[1:, :, 0] += 5 * rng.standard_normal((3, 240))
    labels = {"speaker": speakers, "content": contents}
    return torch.tensor(takes).float().unsqueeze(2), labels


def test_channel_lda_gives_up_what_the_channel_moves():
    takes, labels = channels()
    shares = {}
    for weight in (0.0, 1.0):
        network = channel_lda(takes, labels, 4, channel_weight=weight)
        rows = network.projections["speaker"].weight.numpy()
        shares[weight] = np.linalg.norm(rows[:, 0]) / np.linalg.norm(rows)
    assert shares[1.0] < 0.3 * shares[0.0]


def test_channel_lda_without_channels_is_lda():
    takes, labels = channels()
    plain = grid_lda(takes[0], labels, 4, shrinkage=0.3)
    for network in (
        channel_lda(takes[:1], labels, 4),
        channel_lda(takes, labels, 4, channel_weight=0.0),
    ):
        for factor, vectors in network(takes[0]).items():
            expected = plain(takes[0])[factor]
            # Directions are known up to their sign.
            assert torch.allclose(
                vectors.abs(), expected.abs(), rtol=1e-3, atol=1e-3
            )


def test_channel_lda_reads_each_factor_from_its_layers():
    takes, labels = channels()
    other = torch.randn(takes.shape, generator=torch.manual_seed(0))
    both = torch.cat([takes, other], dim=2)
    network = channel_lda(both, labels, 4, layers={"speaker": [0]})
    alone = channel_lda(takes, labels, 4)
    assert torch.allclose(
        network(both[0])["speaker"].abs(),
        alone(takes[0])["speaker"].abs(),
        rtol=1e-3,
        atol=1e-3,
    )
    changed = both[0].clone()
    changed[:, 1] += 1
    moved, before = network(changed), network(both[0])
    assert torch.equal(moved["speaker"], before["speaker"])
    assert not torch.allclose(moved["content"], before["content"])


def test_channel_lda_gives_all_dimensions_to_a_factor_without_a_number():
    takes, labels = channels()
    network = channel_lda(takes, labels, {"speaker": 2})
    assert network.widths == {"speaker": 2, "content": 8}


def test_channel_lda_refusals():
    takes, labels = channels()
    with pytest.raises(InputError, match="layers \\[3\\] of factor 'speaker'"):
        channel_lda(takes, labels, layers={"speaker": [3]})
    with pytest.raises(InputError, match="channel_weight .* got -1"):
        channel_lda(takes, labels, channel_weight=-1)
    with pytest.raises(InputError, match="no factor"):
        channel_lda(takes, {})
