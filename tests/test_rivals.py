"""Rivals: factors that live in known directions, and formulas of the papers."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from speechbrain_ext.metrics.probes import linear_probe
from speechbrain_ext.processing.rivals import (
    OF_CONTENT,
    OF_EACH,
    RIVALS,
    collapse,
    content_map,
    erasure,
    leace,
    regression_removal,
    rival_heads,
    wccn,
)
from speechbrain_ext.processing.scatter import Rows, Scatter

SPEAKERS, CONTENTS = np.divmod(np.arange(12 * 20), 20)


def mixed(noise=0.0, dim=10, seed=0):
    """Speakers in three directions, contents in four, rotated together.

    Returns
    -------
    vectors : numpy.ndarray
        [240, dim], with mean zero.
    speaker, content : numpy.ndarray
        Their orthonormal directions, [3, dim] and [4, dim].
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    x = 2 * rng.normal(size=(12, 3))[SPEAKERS] @ axes[:3]
    x = x + rng.normal(size=(20, 4))[CONTENTS] @ axes[3:7]
    x = x + noise * rng.normal(size=(len(SPEAKERS), dim))
    return x - x.mean(axis=0), axes[:3], axes[3:7]


def scatter(vectors, speaker=SPEAKERS, **labels):
    return Scatter(Rows(vectors), {"speaker": speaker, **labels})


def between(vectors, values):
    """Largest difference of the mean of a value from that of all."""
    means = [vectors[values == value].mean(axis=0) for value in set(values)]
    return abs(np.array(means) - vectors.mean(axis=0)).max()


def test_collapse_leaves_what_is_orthogonal_to_the_means():
    x, speaker, content = mixed()
    left = collapse(scatter(x).means["speaker"], 1.0)
    np.testing.assert_allclose(left @ left.T, np.eye(7), atol=1e-9)
    assert abs(left @ speaker.T).max() < 1e-9
    projected = x @ left.T
    assert between(projected, SPEAKERS) < 1e-9
    # All that is told of the content is still there.
    said = x @ content.T
    np.testing.assert_allclose(
        projected @ projected.T, said @ said.T, atol=1e-9
    )


def test_collapse_takes_components_up_to_a_share_of_the_variance():
    spread = np.array([3.0, 1.0, 0.1])
    x = np.concatenate([np.diag(spread), -np.diag(spread)])
    counts = [
        3 - len(collapse(x, share)) for share in (0.5, 0.89, 0.9, 0.99, 1.0)
    ]
    # 9, 10 and 10.01 of 10.01
    assert counts == [1, 1, 2, 2, 3]


def test_leace_is_the_published_projection():
    x, *_ = mixed(noise=0.5, dim=20)
    total = x.T @ x / len(x)
    onehot = np.eye(12)[SPEAKERS] - 1 / 12
    root = np.real(sqrtm(total))
    whiten = np.linalg.inv(root)
    axes = np.linalg.svd(whiten @ (x.T @ onehot), full_matrices=False)
    axes = axes[0][:, axes[1] > 1e-9 * axes[1][0]]
    expected = np.eye(20) - root @ axes @ axes.T @ whiten
    np.testing.assert_allclose(
        leace(scatter(x), ["speaker"]), expected, atol=1e-8
    )


def test_leace_erases_several_factors_and_nothing_else():
    x, _, content = mixed()
    parity = CONTENTS % 2
    erased = x @ leace(scatter(x, parity=parity), ["speaker", "parity"]).T
    assert between(erased, SPEAKERS) < 1e-8
    assert between(erased, parity) < 1e-8
    left = x @ leace(scatter(x), ["speaker"]).T
    said = x @ content.T @ content
    np.testing.assert_allclose(left, said, atol=1e-8)


def test_no_linear_probe_reads_what_leace_erased():
    x, *_ = mixed(noise=0.5, dim=20)
    erased = x @ leace(scatter(x), ["speaker"]).T
    assert linear_probe(x, SPEAKERS, CONTENTS).mean() > 0.7
    # Across folds the means of the training differ by chance, no more.
    assert linear_probe(erased, SPEAKERS, CONTENTS).mean() < 0.1
    # Of 20 dimensions the means of 12 speakers take 11.
    assert np.linalg.matrix_rank(erased) == 9


def test_leace_of_fewer_vectors_than_dimensions():
    """What the training never showed stays as it is, as in the paper."""
    x, speaker, content = mixed()
    assert np.linalg.matrix_rank(x) == 7
    found = leace(scatter(x), ["speaker"])
    kept = np.eye(10) - speaker.T @ speaker
    np.testing.assert_allclose(found, kept, atol=1e-8)


def test_erasure_without_differences():
    left, unseen = erasure(np.diag([4.0, 1]), np.zeros((2, 2)))
    assert left.shape == (2, 2) and unseen.shape == (0, 2)


def removal(vectors, kept, speakers):
    """By covariances with speaker vectors, which need not be centred."""
    shared = np.cov(speakers.T, vectors.T)[: speakers.shape[1]]
    total = np.cov(vectors.T)
    return regression_removal(total, kept, shared[:, -len(total) :])


@pytest.mark.parametrize("given", ["a subspace", "another encoder's"])
def test_regression_removal_leaves_nothing_that_goes_with_the_speaker(given):
    x, speaker, content = mixed()
    vectors = x @ speaker.T
    if given != "a subspace":  # in other units, and not centred
        vectors = vectors @ np.random.default_rng(1).normal(size=(3, 5)) + 7
    left = x @ removal(x, np.arange(10), vectors).T
    assert abs((vectors - vectors.mean(0)).T @ left).max() < 1e-7
    np.testing.assert_allclose(left, x @ content.T @ content, atol=1e-8)


def test_regression_removal_reads_the_speaker_from_other_columns():
    x, speaker, _ = mixed()
    kept = np.array([1, 4, 6])
    directions = removal(x, kept, x @ speaker.T)
    every = removal(x, np.arange(10), x @ speaker.T)
    np.testing.assert_allclose(directions, every[kept], atol=1e-9)


@pytest.mark.parametrize("missing", [0, 30])
def test_content_map_is_the_same_for_all_speakers(missing):
    x, speaker, content = mixed()
    there = np.ones(len(x), bool)
    there[:missing] = False
    there[np.random.default_rng(1).integers(len(x), size=missing)] = False
    rows = x[there] - x[there].mean(axis=0)
    some = scatter(rows, SPEAKERS[there], content=CONTENTS[there])
    found = content_map(some, "content", "speaker")
    assert abs(found @ speaker.T).max() < 1e-6
    # Distances between contents stay: the map scales like the features.
    mapped, said = x @ found.T, x @ content.T
    np.testing.assert_allclose(mapped @ mapped.T, said @ said.T, atol=1e-6)
    assert len(content_map(some, "content", "speaker", 2)) == 2


def test_wccn_makes_the_covariance_within_the_identity():
    rng = np.random.default_rng(0)
    scale = rng.normal(size=(3, 3))
    x = rng.normal(size=(12, 3))[SPEAKERS] + rng.normal(size=(240, 3)) @ scale
    x = x - x.mean(axis=0)
    axes = wccn(scatter(x), "speaker")
    shrunk = scatter(x).shrunk("speaker")
    np.testing.assert_allclose(axes @ shrunk @ axes.T, np.eye(3), atol=1e-9)
    # The shrinkage of 240 vectors in 3 dimensions is small.
    y = x @ axes.T
    within = y - np.array([y[SPEAKERS == s].mean(0) for s in SPEAKERS])
    assert abs(within.T @ within / len(x) - np.eye(3)).max() < 0.15


def test_heads_read_the_layers_of_their_factor():
    rng = np.random.default_rng(0)
    features = torch.tensor(rng.normal(size=(240, 3, 24)), dtype=torch.float32)
    labels = {"speaker": SPEAKERS, "content": CONTENTS}
    layers = {"speaker": [0], "content": [1, 2]}
    heads = rival_heads(RIVALS, features, labels, "speaker", "content", layers)
    assert list(heads) == [name for name in RIVALS if name != "plda"]
    changed = features.clone()
    changed[:, 0] += 1
    for name, head in heads.items():
        before, after = head(features), head(changed)
        both = ["speaker", "content"] if name in OF_EACH else ["content"]
        assert sorted(before) == sorted(both)
        assert before["content"].std() > 0.01  # not all is erased
        same = torch.equal(before["content"], after["content"])
        # The regression alone reads the speaker to take it away.
        assert same == (name != "regression_removal")
        if name in OF_EACH:
            changed_more = changed.clone()
            changed_more[:, 1:] += 1
            assert torch.equal(head(changed_more)["speaker"], after["speaker"])


def test_products_in_float32_and_blocks(monkeypatch):
    """Of many vectors, against products in float64 of all at a time."""
    x = torch.tensor(mixed(noise=0.5, dim=20)[0] + 3).reshape(240, 2, 10)
    labels = {"speaker": SPEAKERS, "content": CONTENTS}
    speakers = x[:, 0, :4].numpy()
    given = labels, "speaker", "content", {"speaker": [0]}, speakers
    exact = rival_heads(RIVALS, x.float().double(), *given)
    monkeypatch.setattr("speechbrain_ext.processing.scatter.BLOCK", 50)
    for name, head in rival_heads(RIVALS, x.float(), *given).items():
        for factor, found in head(x.float()).items():
            wanted = exact[name](x.float())[factor]
            one, other = found @ found.T, wanted @ wanted.T
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_three_factors():
    rng = np.random.default_rng(0)
    style = np.arange(240) % 3
    features = torch.tensor(rng.normal(size=(240, 1, 40)), dtype=torch.float32)
    labels = {"speaker": SPEAKERS, "content": CONTENTS, "style": style}
    names = [*OF_CONTENT, *OF_EACH]
    heads = rival_heads(names, features, labels, "speaker", "content")
    assert list(heads["wccn"](features)) == ["speaker", "content", "style"]
    style_only = heads["leace"](features)["style"].double().numpy()
    assert between(style_only, SPEAKERS) < 1e-5
    assert between(style_only, CONTENTS) < 1e-5
    # Of 40 dimensions 12 speakers and 20 contents take 30.
    assert np.linalg.matrix_rank(style_only, tol=1e-3) == 10
    assert list(heads["content_map"](features)) == ["content"]
