"""Figures are written, in any number of panels, or refused with a reason."""

import numpy as np
import pytest
from matplotlib.image import imread

from speechbrain_ext.evaluation import plots
from speechbrain_ext.evaluation.plots import (
    plot_det,
    plot_layers,
    plot_leakage,
    plot_score_distributions,
    plot_scores,
    plot_speakers,
)
from speechbrain_ext.evaluation.results import Subspace, make_row, select
from speechbrain_ext.evaluation.tasks import Embedded, Leakage, Verification
from speechbrain_ext.metrics.trials import generate_trials
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(60), 10)
LABELS = np.arange(200) % 2


def scored(count):
    rng = np.random.default_rng(0)
    systems = {
        f"a_rather_long_system_name_{i}\nspeaker": (
            rng.normal(size=200) + 0.3 * i * LABELS,
            LABELS,
        )
        for i in range(count)
    }
    return systems | {"perfect": (LABELS, LABELS), "tied": (0 * LABELS, LABELS)}


def picture(path):
    """Pixels of a figure that is not blank."""
    pixels = imread(path)
    assert pixels.std() > 0.01
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return pixels


@pytest.mark.parametrize("plot", [plot_score_distributions, plot_det])
@pytest.mark.parametrize("count", [0, 6, 14])
def test_scores_of_some_systems(tmp_path, plot, count):
    plot(scored(count), tmp_path / "a.png", "A title")
    picture(tmp_path / "a.png")


@pytest.mark.parametrize("plot", [plot_score_distributions, plot_det])
def test_scores_that_cannot_be_drawn(tmp_path, plot):
    with pytest.raises(InputError, match="no scores"):
        plot({}, tmp_path / "a.png")
    with pytest.raises(InputError, match="NaN"):
        plot({"a": ([np.nan, 1], [0, 1])}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_scores_of_a_task(monkeypatch):
    """A figure per condition, of several seeds the first."""
    task = Verification("speaker", generate_trials(SPEAKERS))
    vectors = {
        Subspace("joint", "speaker", seed=1): np.eye(6)[SPEAKERS],
        Subspace("joint", "speaker", seed=2): np.ones((60, 2)),
    }
    for condition in plots.CONDITIONS:
        task(Embedded(condition, {"test": vectors}))
    drawn = {}
    for name in ("plot_score_distributions", "plot_det"):
        monkeypatch.setattr(plots, name, lambda *a: drawn.update({a[1]: a}))
    plot_scores(task, "out", "Trials", det=True)
    assert {path: title for _, path, title in drawn.values()} == {
        f"out/{kind}_{condition}.png": f"Trials, {words}"
        for kind in ("scores", "det")
        for condition, words in plots.CONDITIONS.items()
    }
    for found, _, _ in drawn.values():
        assert list(found) == ["joint speaker"]
        assert np.array_equal(*found["joint speaker"])  # scores and labels


@pytest.mark.parametrize("panels", [1, 5])
def test_speakers(tmp_path, panels):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4))[SPEAKERS] + 0.1 * rng.normal(size=(60, 4))
    found = []
    for _ in range(2):
        plot_speakers(
            {f"s{i}": vectors for i in range(panels)}, SPEAKERS,
            tmp_path / "a.png", max_speakers=4, max_utterances=20,
        )  # fmt: skip
        found.append(picture(tmp_path / "a.png"))
    assert (found[0].shape[0] > 500) == (panels > 4)
    assert np.array_equal(*found)


def test_speakers_that_cannot_be_drawn(tmp_path):
    for vectors, message in (
        ({}, "no embeddings"),
        ({"s": np.eye(3)}, "4 utterances"),
        ({"s": np.eye(9)}, "speakers: expected"),
    ):
        with pytest.raises(InputError, match=message):
            plot_speakers(vectors, list("aab"), tmp_path / "a.png")


def test_leakage_heat_map(tmp_path):
    vectors = {
        Subspace("joint", "speaker"): np.eye(6)[SPEAKERS],
        Subspace("joint", "content"): np.eye(10)[CONTENTS],
    }
    labels = {"speaker": SPEAKERS, "content": CONTENTS}
    rows = Leakage(labels)(Embedded("recorded", {"test": vectors}))

    def draw(rows):
        plot_leakage(rows, tmp_path / "leakage.png", "Leakage")
        return picture(tmp_path / "leakage.png")

    whole = draw(rows)
    # Of several seeds the mean is drawn.
    seeds = [row | {"seed": 2, "value": 0.1} for row in rows if row["system"]]
    mean = [row | {"seed": "all"} if row["system"] else row for row in rows]
    assert np.array_equal(draw(mean + seeds), whole)
    # A probe that could not be trained, and a factor of one value.
    missing = [r for r in rows if r["measure"] != "accuracy" or r["value"] < 1]
    assert not np.array_equal(draw(missing), whole)
    chance = [row | {"value": 1.0} for row in select(rows, measure="chance")]
    with np.errstate(all="ignore"):
        draw(chance + missing)
    with pytest.raises(InputError, match="no subspaces"):
        plot_leakage(chance, tmp_path / "leakage.png")


def test_layers(tmp_path, monkeypatch):
    def told(layers, value, **columns):
        columns = {"condition": "recorded", "task": "verification"} | columns
        columns = {"layers": layers, "measure": "eer"} | columns
        return make_row(None, (0.1, 0.2), system="a", value=value, **columns)

    accuracy = {"measure": "accuracy", "target": "x"}
    rows = [
        *(told(layer, 0.3) for layer in ("10", "0", "2")),
        *(told("2", 0.2, seed=seed) for seed in (1, "all")),
        told("0", 0.5, task="content", **accuracy),
        told("0", 0.9, condition="channels"),
        told("0", 0.4, task="leakage", **accuracy),
    ]
    others = [
        told("0+2", 0.9),
        told("0", 0.9, group="f-f"),
        told("0", 0.9, measure="min_dcf"),
        told("0", 0.9, task="leakage"),
    ]
    drawn, draw = {}, plots._curve

    def curve(axis, curve, style):
        values = {layer: row["value"] for layer, row in curve.items()}
        drawn[axis.get_title()] = values
        return draw(axis, curve, style)

    monkeypatch.setattr(plots, "_curve", curve)
    plot_layers(rows + others, tmp_path / "a.png", "Layers")
    picture(tmp_path / "a.png")
    assert drawn == {
        "EER %": {10: 0.3, 0: 0.3, 2: 0.2},
        "content %": {0: 0.5},
        "x probe %, as recorded": {0: 0.4},
        "EER %, across channels": {0: 0.9},
    }
    with pytest.raises(InputError, match="no layers"):
        plot_layers(others, tmp_path / "a.png")
