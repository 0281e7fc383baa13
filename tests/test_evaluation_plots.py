"""Figures are written, in any number of panels, or refused with a reason."""

import numpy as np
import pytest
from matplotlib.image import imread

from speechbrain_ext.evaluation.plots import (
    plot_det,
    plot_leakage,
    plot_score_distributions,
    plot_speakers,
)
from speechbrain_ext.evaluation.probes import leakage_report
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(60), 10)
LABELS = np.arange(200) % 2


def scored(count):
    rng = np.random.default_rng(0)
    return {
        f"a_rather_long_system_name_{i}\nspeaker": (
            rng.normal(size=200) + 0.3 * i * LABELS,
            LABELS,
        )
        for i in range(count)
    }


def picture(path):
    """Pixels of a figure that is not blank."""
    pixels = imread(path)
    assert pixels.std() > 0.01
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return pixels


@pytest.mark.parametrize("plot", [plot_score_distributions, plot_det])
@pytest.mark.parametrize("count", [1, 8, 14])
def test_scores_of_some_systems(tmp_path, plot, count):
    plot(scored(count), tmp_path / "a.png", "A title")
    picture(tmp_path / "a.png")


@pytest.mark.parametrize("plot", [plot_score_distributions, plot_det])
def test_perfect_and_tied_scores(tmp_path, plot):
    plot(
        {"perfect": (1.0 * LABELS, LABELS), "tied": (0.0 * LABELS, LABELS)},
        tmp_path / "a.png",
    )
    picture(tmp_path / "a.png")


@pytest.mark.parametrize("plot", [plot_score_distributions, plot_det])
def test_scores_that_cannot_be_drawn(tmp_path, plot):
    with pytest.raises(InputError, match="no scores"):
        plot({}, tmp_path / "a.png")
    with pytest.raises(InputError, match="NaN"):
        plot({"a": ([np.nan, 1], [0, 1])}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("panels", [1, 5])
def test_speakers(tmp_path, panels):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4))[SPEAKERS] + 0.1 * rng.normal(size=(60, 4))
    path = tmp_path / "a.png"
    plot_speakers(
        {f"s{i}": vectors for i in range(panels)}, SPEAKERS, path,
        max_speakers=4, max_utterances=20,
    )  # fmt: skip
    first = picture(path)
    assert (first.shape[0] > 500) == (panels > 4)
    plot_speakers(
        {f"s{i}": vectors for i in range(panels)}, SPEAKERS, path,
        max_speakers=4, max_utterances=20,
    )  # fmt: skip
    assert np.array_equal(imread(path), first)


def test_speakers_that_cannot_be_drawn(tmp_path):
    with pytest.raises(InputError, match="no embeddings"):
        plot_speakers({}, [], tmp_path / "a.png")
    with pytest.raises(InputError, match="4 utterances"):
        plot_speakers({"s": np.eye(3)}, list("aab"), tmp_path / "a.png")
    with pytest.raises(InputError, match="speakers: expected"):
        plot_speakers({"s": np.eye(9)}, list("aab"), tmp_path / "a.png")


def test_leakage_heat_map(tmp_path):
    rng = np.random.default_rng(0)
    report = leakage_report(
        {"speaker": np.eye(6)[SPEAKERS], "content": np.eye(10)[CONTENTS]},
        {"speaker": SPEAKERS, "content": CONTENTS},
        rng.normal(size=(60, 1, 12)),
    )
    plot_leakage(report, tmp_path / "leakage.png", "Leakage")
    picture(tmp_path / "leakage.png")
    probe = report["subspaces"]["content"]["probe"]
    probe["speaker"] = {"accuracy": None, "folds": [], "reason": "one group"}
    before = imread(tmp_path / "leakage.png")
    plot_leakage(report, tmp_path / "leakage.png", "Leakage")
    assert not np.array_equal(picture(tmp_path / "leakage.png"), before)
    report["factors"]["speaker"]["chance"] = 1.0  # of one value
    for entry in (*report["subspaces"].values(), *report["controls"].values()):
        entry["probe"]["speaker"]["accuracy"] = None
        entry["eer"]["speaker"] = None
    plot_leakage(report, tmp_path / "leakage.png", "Leakage")
    picture(tmp_path / "leakage.png")
    with pytest.raises(InputError, match="no subspaces"):
        plot_leakage({**report, "subspaces": {}, "controls": {}}, "a.png")
