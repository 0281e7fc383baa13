"""Probes, variance decomposition and CKA on cases with known answers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from speechbrain_ext.evaluation.probes import (
    LdaProbe,
    control_projections,
    format_leakage,
    leakage_report,
    linear_cka,
    linear_probe,
    variance_shares,
)
from speechbrain_ext.evaluation.uncertainty import SpeakerResamples
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(12 * 20), 20)


def parts(dim=16, seed=0):
    """A vector a speaker, a vector a content, and noise, [N, dim] each."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(12, dim))[SPEAKERS],
        rng.normal(size=(20, dim))[CONTENTS],
        rng.normal(size=(240, dim)),
    )


def test_leakage_of_pure_and_copied_subspaces():
    speaker, content, noise = parts()
    features = np.hstack([speaker, content]) + 0.1 * np.hstack([noise, noise])
    report = leakage_report(
        {
            "speaker": np.eye(12)[SPEAKERS],
            "content": content,
            "noise": parts(seed=1)[2],
            "copy": features,
        },
        {"speaker": SPEAKERS, "content": CONTENTS},
        torch.tensor(features).reshape(240, 2, 16),
    )

    def accuracy(part, name, factor):
        return report[part][name]["probe"][factor]["accuracy"]

    assert accuracy("subspaces", "speaker", "speaker") == 1
    assert accuracy("subspaces", "content", "content") == 1
    # What holds only the other factor is at chance: 1/20 and 1/12.
    assert accuracy("subspaces", "speaker", "content") <= 0.05 + 1e-9
    assert accuracy("subspaces", "content", "speaker") <= 1 / 12 + 1e-9
    for factor, values in (("speaker", 12), ("content", 20)):
        deviation = np.sqrt(1 / values / 240)
        noise = accuracy("subspaces", "noise", factor)
        assert abs(noise - 1 / values) < 4 * deviation
        assert accuracy("subspaces", "copy", factor) == accuracy(
            "controls", "input", factor
        )
        assert report["factors"][factor]["chance"] == 1 / values
    assert report["subspaces"]["speaker"]["eer"]["speaker"] == 0
    assert report["subspaces"]["speaker"]["eer"]["content"] == 0.5
    assert set(report["controls"]) == {
        "input", "PCA 12", "random 12", "PCA 16", "random 16", "PCA 32",
        "random 32",
    }  # fmt: skip
    assert report["cka"]["copy"]["copy"] == pytest.approx(1)
    table = format_leakage(report)
    assert len(table.splitlines()) == (2 + 11 + 3) + (1 + 2 + 11) + (1 + 2 + 4)
    assert "95 %" not in table
    assert table.splitlines()[-1].split() == [
        "4", "copy", *(f"{v:.2f}" for v in report["cka"]["copy"].values())
    ]  # fmt: skip
    assert "chance 8.3 %" in table


def test_a_probe_finds_what_the_cosine_does_not_show():
    """The speaker in a direction of little variance."""
    speaker, content, noise = parts()
    vectors = np.hstack([20 * content, 0.1 * np.eye(12)[SPEAKERS]])
    vectors[:, :16] += noise
    report = leakage_report(
        {"content": vectors}, {"speaker": SPEAKERS, "content": CONTENTS}
    )["subspaces"]["content"]
    assert report["eer"]["speaker"] > 0.4
    assert report["probe"]["speaker"]["accuracy"] > 0.95


def test_probe_is_tested_on_groups_that_it_has_not_seen():
    """A vector that names the cell says nothing of the speaker elsewhere."""
    cells = np.random.default_rng(0).normal(size=(240, 8))
    vectors = np.repeat(cells, 5, axis=0)  # five equal takes a cell
    speakers, contents = np.repeat(SPEAKERS, 5), np.repeat(CONTENTS, 5)
    result = linear_probe(vectors, speakers, contents)
    assert result["accuracy"] < 0.2
    leaky = linear_probe(vectors, speakers, np.tile(np.arange(5), 240))
    assert leaky["accuracy"] > 2 * result["accuracy"]


def test_probe_agrees_with_logistic_regression():
    speaker, content, noise = parts()
    vectors = 0.5 * speaker + content + noise
    closed = linear_probe(vectors, SPEAKERS, CONTENTS)["accuracy"]
    logistic = linear_probe(
        vectors, SPEAKERS, CONTENTS,
        make_classifier=lambda: LogisticRegression(max_iter=300),
    )["accuracy"]  # fmt: skip
    assert 0.3 < logistic < 0.99
    assert closed > logistic - 0.05


def test_probe_results_are_seeded_and_complete():
    vectors = parts()[0] + parts()[2]
    result = linear_probe(vectors, SPEAKERS, CONTENTS, folds=4)
    assert len(result["folds"]) == 4
    assert result["accuracy"] == result["correct"].mean()
    assert (result["chance"], result["majority"]) == (1 / 12, 20 / 240)
    again = linear_probe(vectors.tolist(), SPEAKERS, CONTENTS, folds=4)
    assert np.array_equal(again["correct"], result["correct"])
    assert len(linear_probe(vectors, CONTENTS, SPEAKERS, 99)["folds"]) == 12


def test_probe_of_vectors_that_do_not_vary():
    result = linear_probe(np.ones((240, 3)), SPEAKERS, CONTENTS)
    assert result["accuracy"] == pytest.approx(1 / 12)


def test_probe_with_more_dimensions_than_utterances():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12, 600))[SPEAKERS]
    vectors += rng.normal(size=vectors.shape)
    assert linear_probe(vectors, SPEAKERS, CONTENTS)["accuracy"] == 1


def test_lda_probe_is_the_optimal_rule_of_its_model():
    """Equal covariances: the boundary is the plane half-way, whitened."""
    rng = np.random.default_rng(0)
    values = np.repeat([0, 1], 20000)
    mixing = np.array([[1.0, 0], [0.9, 0.3]])
    vectors = rng.normal(size=(40000, 2)) @ mixing.T
    vectors += np.array([[0, 0], [1, 0]])[values] + 5
    probe = LdaProbe().fit(vectors, values)
    direction = probe.weight[:, 1] - probe.weight[:, 0]
    ideal = np.linalg.solve(mixing @ mixing.T, [1, 0])
    cosine = direction @ ideal
    cosine /= np.linalg.norm(direction) * np.linalg.norm(ideal)
    assert cosine > 0.9995


def test_intervals_in_the_report():
    report = leakage_report(
        {"s": parts()[0] + parts()[2]},
        {"speaker": SPEAKERS, "content": CONTENTS},
        resamples=SpeakerResamples(SPEAKERS, 50),
    )
    probe = report["subspaces"]["s"]["probe"]["speaker"]
    low, high = probe["interval"]
    assert low <= probe["accuracy"] <= high
    header, _, row = format_leakage(report).splitlines()[:3]
    assert header.count("95 %") == 2
    assert f"{100 * low:.1f} .. {100 * high:.1f}" in row


def test_three_factors_and_factors_without_pairs():
    take = np.arange(240) % 3
    report = leakage_report(
        {"s": np.eye(12)[SPEAKERS]},
        {"speaker": SPEAKERS, "content": CONTENTS, "channel": take},
    )
    assert "variance" not in report["subspaces"]["s"]
    assert report["subspaces"]["s"]["probe"]["channel"]["accuracy"] < 0.5
    assert "var. %" not in format_leakage(report)


def test_a_third_factor_does_not_let_cells_leak():
    """A vector that only names its (speaker, content), in three styles."""
    cells = np.random.default_rng(0).normal(size=(240, 32))
    vectors = np.repeat(cells, 3, axis=0)
    factors = {
        "speaker": np.repeat(SPEAKERS, 3),
        "content": np.repeat(CONTENTS, 3),
        "style": np.tile(np.arange(3), 240),
    }
    report = leakage_report({"cell": vectors}, factors)
    cell = report["subspaces"]["cell"]
    for factor, known in report["factors"].items():
        chance = known["chance"]
        # All takes of a cell are alike: 240 independent utterances.
        deviation = np.sqrt(chance * (1 - chance) / 240)
        excess = cell["probe"][factor]["accuracy"] - chance
        assert excess < 3 * deviation, factor
        assert cell["eer"][factor] > 0.45, factor
    # The order says which factor is held apart: by style, no cell is new.
    order = ("style", "speaker", "content")
    report = leakage_report({"cell": vectors}, {f: factors[f] for f in order})
    assert report["subspaces"]["cell"]["probe"]["speaker"]["accuracy"] > 0.3


@pytest.mark.parametrize(
    "content, reason",
    [
        (np.arange(240), "occurs in 2 groups"),
        (np.zeros(240), "got 1 and 12"),
    ],
)
def test_a_probe_that_is_impossible_has_a_reason(content, reason):
    vectors = parts()[0] + parts()[2]
    report = leakage_report(
        {"s": vectors},
        {"speaker": SPEAKERS, "content": content, "style": CONTENTS % 2},
        vectors[:, None],
        resamples=SpeakerResamples(SPEAKERS, 20),
    )
    for part in ("subspaces", "controls"):
        for entry in report[part].values():
            probe = entry["probe"]["content"]
            assert probe["accuracy"] is None and reason in probe["reason"]
            assert entry["eer"]["content"] is None
            assert entry["probe"]["style"]["accuracy"] is not None
    row = format_leakage(report).splitlines()[2].split()
    assert "-" in row
    two = leakage_report(
        {"s": vectors}, {"speaker": SPEAKERS, "content": content}
    )
    assert two["subspaces"]["s"]["probe"]["content"]["accuracy"] is None
    assert " - " in format_leakage(two)


def test_controls():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 2, 20)) @ np.diag(np.arange(1, 21))
    controls = control_projections(features, [5])
    assert controls["input"].std(axis=0) == pytest.approx(np.ones(40))
    assert controls["PCA 5"].shape == controls["random 5"].shape == (300, 5)
    covariance = np.cov(controls["PCA 5"].T)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6)
    wide = control_projections(rng.normal(size=(30, 1, 1200)), [4])
    assert wide["input"].shape == (30, 29)  # centred: a rank of 29


def test_controls_are_named_by_their_dimension():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 40))
    for vectors in (features, features.astype(np.float32)):
        controls = control_projections(vectors, [2, 16, 24])
        assert {n: c.shape[1] for n, c in controls.items()} == {
            "input": 40, "PCA 2": 2, "random 2": 2, "PCA 3": 3,
            "random 16": 16, "random 24": 24,
        }  # fmt: skip
    with np.errstate(invalid="ignore"):
        constant = control_projections(np.ones((5, 3)), [2])
    assert constant["PCA 1"].shape == (5, 1)


@pytest.mark.parametrize("takes", [1, 3])
def test_variance_of_known_parts(takes):
    """Effects orthogonal on the grid have the shares they were given."""
    speaker, content, noise = parts(4)

    def centre(table):  # [12, 20, 4], no main effect left
        table = table - table.mean(axis=1, keepdims=True)
        return table - table.mean(axis=0, keepdims=True)

    interaction = centre(noise.reshape(12, 20, 4)).reshape(240, 4)
    known = []
    rng = np.random.default_rng(5)
    residual = rng.normal(size=(240, takes, 4))
    residual -= residual.mean(axis=1, keepdims=True)
    for part in (speaker, content, interaction, residual):
        part = part - part.mean(axis=0) if part.ndim == 2 else part
        scale = np.sqrt(np.mean(part**2))
        known.append(part / scale if scale > 1e-9 else part)
    weights = np.sqrt([0.5, 0.3, 0.15, 0.05 if takes > 1 else 0.0])
    means = sum(w * p for w, p in zip(weights[:3], known[:3]))
    vectors = means[:, None] + weights[3] * known[3]
    shares = variance_shares(
        vectors.reshape(-1, 4) + 7,
        np.repeat(SPEAKERS, takes),
        np.repeat(CONTENTS, takes),
    )
    expected = weights**2 / np.sum(weights**2)
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
    assert chance["speaker"] == pytest.approx(11 / 479)
    assert chance["interaction"] == pytest.approx(11 * 19 / 479)
    for name, share in shares.items():
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
    speaker = parts(3)[0]
    shares = variance_shares(speaker, SPEAKERS, np.arange(240))
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
    k, l = x @ x.T, y @ y.T
    gram = np.sum(k * l) / np.linalg.norm(k) / np.linalg.norm(l)
    assert linear_cka(x, y) == pytest.approx(gram)
    assert np.isnan(linear_cka(np.ones((3, 2)), x[:3]))


def test_what_is_refused():
    vectors = np.ones((4, 2))
    with pytest.raises(InputError, match="2 values and 2 groups"):
        linear_probe(vectors, [1, 1, 1, 1], [1, 2, 1, 2])
    with pytest.raises(InputError, match="2 folds"):
        linear_probe(vectors, [1, 1, 2, 2], [1, 2, 1, 2], folds=1)
    with pytest.raises(InputError, match="occurs in 2 groups"):
        linear_probe(vectors, [1, 1, 2, 2], [1, 1, 2, 2])
    with pytest.raises(InputError, match="2 folds"):
        leakage_report(
            {"s": vectors}, {"a": [1, 1, 2, 2], "b": [1, 2, 1, 2]}, folds=1
        )
    with pytest.raises(InputError, match="two factors or more, got speaker"):
        leakage_report({"s": vectors}, {"speaker": [1, 1, 2, 2]})
    with pytest.raises(InputError, match="'content' has one value"):
        variance_shares(vectors, [1, 1, 2, 2], [1, 1, 1, 1])
    with pytest.raises(InputError, match="3 and 4 utterances"):
        linear_cka(vectors[:3], vectors)
    with pytest.raises(InputError, match="content: expected"):
        leakage_report(
            {"s": vectors}, {"speaker": [1, 1, 2, 2], "content": [1]}
        )
