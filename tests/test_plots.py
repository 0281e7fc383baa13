"""Figures are written, in any number of panels, or refused with a reason."""

import numpy as np
import pytest
from matplotlib.image import imread

from speechbrain_ext.evaluation import plots
from speechbrain_ext.evaluation.leakage import Leakage
from speechbrain_ext.evaluation.plots import (
    plot_det,
    plot_layers,
    plot_leakage,
    plot_score_distributions,
    plot_speakers,
)
from speechbrain_ext.evaluation.results import Subspace, make_row, select
from speechbrain_ext.evaluation.tasks import Embedded
from speechbrain_ext.utils.errors import InputError

SPEAKERS, CONTENTS = np.divmod(np.arange(60), 10)
LABELS = np.arange(200) % 2


def scored(count):
    scores = np.random.default_rng(0).normal(size=200)
    systems = {f"a_long_system_name_{i}\nspeaker": i / 3 for i in range(count)}
    systems = {n: (scores + d * LABELS, LABELS) for n, d in systems.items()}
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
    with pytest.raises(InputError, match="NaN"):
        plot({"a": ([np.nan, 1], [0, 1])}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_speakers_at_one_place(tmp_path, value):
    """Of an encoder that says nothing: t-SNE would end the process."""
    vectors = {"s": np.full((60, 4), value)}
    plot_speakers(vectors, SPEAKERS, tmp_path / "a.png")
    assert picture(tmp_path / "a.png").shape[0] > 100


def test_speakers_that_cannot_be_drawn(tmp_path):
    for vectors, message in (
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
    task = Leakage({"speaker": SPEAKERS, "content": CONTENTS})
    rows = task(Embedded("recorded", {"test": vectors}))

    def draw(rows):
        plot_leakage(rows, tmp_path / "leakage.png", "Leakage")
        return picture(tmp_path / "leakage.png")

    whole = draw(rows)
    # Of several seeds the mean is drawn.
    told, chance = select(rows, system="joint"), select(rows, system="")
    seeds = [row | {"seed": 2, "value": 0.1} for row in told]
    mean = [row | {"seed": "all"} for row in told]
    assert np.array_equal(draw(chance + mean + seeds), whole)
    # A probe that could not be trained, and a factor of one value.
    missing = [r for r in told if r["measure"] != "accuracy" or r["value"] < 1]
    assert not np.array_equal(draw(chance + missing), whole)
    with np.errstate(all="ignore"):
        draw([row | {"value": 1.0} for row in chance] + missing)
    with pytest.raises(InputError, match="no subspaces"):
        draw(chance)


def test_layers(tmp_path, monkeypatch):
    usual = {"condition": "recorded", "task": "verification", "system": "a"}
    rows = [
        make_row(None, (0.1, 0.2), **usual | {"measure": "eer"} | columns)
        for columns in (
            *({"layers": layer, "value": 0.3} for layer in ("10", "0", "2")),
            {"layers": "2", "value": 0.2, "seed": "all"},
            {"layers": "2", "value": 0.9, "group": "f-f"},
            {"layers": "0+2", "value": 0.9},
            {"layers": "0", "value": 0.4, "condition": "channels"},
        )
    ]
    drawn, draw = [], plots._curve

    def curve(axis, curve, style):
        drawn.append({layer: row["value"] for layer, row in curve.items()})
        return draw(axis, curve, style)

    monkeypatch.setattr(plots, "_curve", curve)
    plot_layers(rows, tmp_path / "a.png", "Layers")
    picture(tmp_path / "a.png")
    assert drawn == [{10: 0.3, 0: 0.3, 2: 0.2}, {0: 0.4}]
    with pytest.raises(InputError, match="no layers"):
        plot_layers(rows[4:6], tmp_path / "a.png")
