"""Variance decomposition and CKA on cases with known answers."""

import numpy as np
import pytest

from speechbrain_ext.metrics.variance import linear_cka, variance_shares
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(12 * 20), 20)


def parts(dim):
    """A vector per speaker, one per content, and noise, [N, dim] each."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(12, dim))[SPEAKERS],
        rng.normal(size=(20, dim))[CONTENTS],
        rng.normal(size=(240, dim)),
    )


@pytest.mark.parametrize("takes", [1, 3])
def test_variance_of_known_parts(takes):
    """Effects orthogonal on the grid have the shares they were given."""
    speaker, content, noise = parts(4)
    interaction = noise.reshape(12, 20, 4)
    interaction = interaction - interaction.mean(axis=1, keepdims=True)
    interaction = interaction - interaction.mean(axis=0, keepdims=True)
    residual = np.random.default_rng(5).normal(size=(240, takes, 4))
    residual -= residual.mean(axis=1, keepdims=True)
    expected = np.array([0.5, 0.3, 0.15, 0.05 if takes > 1 else 0.0])
    vectors = 7
    for part, share in zip(
        (speaker, content, interaction.reshape(240, 4), residual), expected
    ):
        part = part.reshape(240, -1, 4)  # takes in the middle
        part = part - part.mean(axis=(0, 1))
        if share:
            vectors = vectors + np.sqrt(share / np.mean(part**2)) * part
    shares = variance_shares(
        vectors.reshape(-1, 4),
        np.repeat(SPEAKERS, takes),
        np.repeat(CONTENTS, takes),
    )
    expected /= expected.sum()
    assert shares["speaker"] == pytest.approx(expected[0])
    assert shares["content"] == pytest.approx(expected[1])
    assert shares["confounded"] == pytest.approx(0, abs=1e-9)
    rest = shares["interaction_and_residual"]
    assert rest == pytest.approx(expected[2] + expected[3])
    if takes == 1:
        assert shares["interaction"] is shares["residual"] is None
    else:
        assert shares["interaction"] == pytest.approx(expected[2])
        assert shares["residual"] == pytest.approx(expected[3])


def test_variance_of_noise_is_its_degrees_of_freedom():
    vectors = np.random.default_rng(0).normal(size=(480, 400))
    shares = variance_shares(
        vectors, np.tile(SPEAKERS, 2), np.tile(CONTENTS, 2)
    )
    chance = shares.pop("chance")
    freedom = {
        "speaker": 11, "content": 19, "interaction": 11 * 19, "residual": 240,
        "interaction_and_residual": 449, "confounded": 0,
    }  # fmt: skip
    for name, share in shares.items():
        assert chance[name] == pytest.approx(freedom[name] / 479), name
        assert share == pytest.approx(chance[name], rel=0.1, abs=1e-9), name


def test_variance_with_missing_cells_equals_least_squares():
    rng = np.random.default_rng(0)
    kept = rng.random(240) < 0.6
    speakers, contents = SPEAKERS[kept], CONTENTS[kept]
    speaker, content, noise = (part[kept] for part in parts(3))
    vectors = speaker + content + 0.3 * noise

    def explained(*codes):
        design = np.hstack([np.eye(c.max() + 1)[c] for c in codes])
        centred = vectors - vectors.mean(axis=0)
        fit = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
        return np.sum(fit**2) / np.sum(centred**2)

    shares = variance_shares(vectors, speakers, contents)
    both = explained(speakers, contents)
    assert shares["speaker"] == pytest.approx(both - explained(contents))
    assert shares["content"] == pytest.approx(both - explained(speakers))
    names = ("speaker", "content", "confounded", "interaction_and_residual")
    assert sum(shares[name] for name in names) == pytest.approx(1)
    swapped = variance_shares(vectors, contents, speakers, ("c", "s"))
    assert swapped["s"] == pytest.approx(shares["speaker"])
    assert swapped["chance"]["s"] == shares["chance"]["speaker"]


def test_variance_of_contents_said_once_is_confounded():
    """Text-independent speech: the content holds all that the speaker does."""
    shares = variance_shares(parts(3)[0], SPEAKERS, np.arange(240))
    assert shares["speaker"] == pytest.approx(0, abs=1e-9)
    assert shares["confounded"] == pytest.approx(1)


def test_variance_of_a_constant():
    shares = variance_shares(np.ones((240, 2)), SPEAKERS, CONTENTS)
    assert shares["speaker"] is None and shares["chance"]["speaker"] > 0


def test_cka():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 5)), rng.normal(size=(2000, 7))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert linear_cka(x, 3 * x @ rotation - 2) == pytest.approx(1)
    assert linear_cka(x, y) < 0.01
    # Kernel form: <K, L> of centred Gram matrices.
    x, y = x[:40] - x[:40].mean(axis=0), y[:40] - y[:40].mean(axis=0)
    k, m = x @ x.T, y @ y.T
    gram = np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m)
    assert linear_cka(x + 5, y - 3) == pytest.approx(gram)
    assert np.isnan(linear_cka(np.ones((3, 2)), x[:3]))


def test_what_is_refused():
    vectors = np.ones((4, 2))
    with pytest.raises(InputError, match="'content' has one value"):
        variance_shares(vectors, [1, 1, 2, 2], [1, 1, 1, 1])
    with pytest.raises(InputError, match="speaker: expected"):
        variance_shares(vectors, [1, 2], [1, 2, 1, 2])
    with pytest.raises(InputError, match="3 and 4 utterances"):
        linear_cka(vectors[:3], vectors)
