"""Variance decomposition and CKA on cases with known answers."""

import numpy as np
import pytest
from helpers import CONTENTS, SPEAKERS, parts

from speechbrain_ext.metrics.variance import linear_cka, variance_shares
from speechbrain_ext.utils.errors import InputError


@pytest.mark.parametrize("kept", [1.0, 0.6])
@pytest.mark.parametrize("takes", [1, 3])
def test_shares_equal_least_squares(kept, takes):
    """On a grid with and without holes, of one take and of several."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.flatnonzero(rng.random(240) < kept), takes)
    speakers, contents = SPEAKERS[rows], CONTENTS[rows]
    vectors = 7 + sum(part[rows] for part in parts(3))
    vectors += rng.normal(size=vectors.shape)

    def explained(*codes):
        """Sum of squares of a model of these factors, and its rank."""
        design = np.hstack([code[:, None] == np.unique(code) for code in codes])
        centred = vectors - vectors.mean(axis=0)
        fit = design @ np.linalg.lstsq(design, centred, rcond=None)[0]
        return np.array([np.sum(fit**2), np.linalg.matrix_rank(design) - 1])

    speaker, content = explained(speakers), explained(contents)
    both, cells = explained(speakers, contents), explained(rows)
    total = explained(np.arange(len(rows)))
    expected = {
        "speaker": both - content,
        "content": both - speaker,
        "confounded": speaker + content - both,
        "interaction_and_residual": total - both,
        "interaction": cells - both,
        "residual": total - cells,
    }
    shares = variance_shares(vectors, speakers, contents)
    chance = shares.pop("chance")
    if takes == 1:
        for one in (shares, chance):
            assert one.pop("interaction") is one.pop("residual") is None
    for name, share in shares.items():
        found = [share, chance[name]]
        assert found == pytest.approx(expected[name] / total, abs=1e-9), name
    swapped = variance_shares(vectors, contents, speakers, ("c", "s"))
    assert swapped["s"] == pytest.approx(shares["speaker"])
    assert swapped["chance"]["s"] == chance["speaker"]


def test_shares_of_contents_said_once_and_of_a_constant():
    """Text-independent speech: the content holds all that the speaker does."""
    shares = variance_shares(parts(3)[0], SPEAKERS, np.arange(240))
    assert shares["speaker"] == pytest.approx(0, abs=1e-9)
    assert shares["confounded"] == pytest.approx(1)
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
