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
from speechbrain_ext.evaluation.results import Subspace, make_row
from speechbrain_ext.evaluation.tasks import Embedded, Leakage, Verification
from speechbrain_ext.metrics.trials import generate_trials
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


def test_scores_of_a_task(tmp_path, monkeypatch):
    """A figure per condition, of several seeds the first."""
    task = Verification("speaker", generate_trials(SPEAKERS))
    vectors = {
        Subspace("joint", "speaker", seed=seed): np.eye(6)[SPEAKERS] + noise
        for seed, noise in ((1, 0.0), (2, 0.5))
    }
    for condition in ("recorded", "channels"):
        task(Embedded(condition, {"test": vectors}))
    drawn = {}
    for name in ("plot_score_distributions", "plot_det"):
        monkeypatch.setattr(plots, name, lambda *a: drawn.update({a[1]: a}))
    plot_scores(task, "out", "Trials", det=True)
    assert {path: args[2] for path, args in drawn.items()} == {
        f"out/{kind}_{condition}.png": f"Trials, {words}"
        for kind in ("scores", "det")
        for condition, words in plots.CONDITIONS.items()
    }
    (first,) = {tuple(args[0]) for args in drawn.values()}
    assert first == ("joint speaker",)
    scores, labels = drawn["out/det_recorded.png"][0]["joint speaker"]
    assert np.array_equal(scores, labels) and labels is task.trials.label


@pytest.mark.parametrize("panels", [1, 5])
def test_speakers(tmp_path, panels):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4))[SPEAKERS] + 0.1 * rng.normal(size=(60, 4))
    path = tmp_path / "a.png"
    found = []
    for _ in range(2):
        plot_speakers(
            {f"s{i}": vectors for i in range(panels)}, SPEAKERS, path,
            max_speakers=4, max_utterances=20,
        )  # fmt: skip
        found.append(picture(path))
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
    path = tmp_path / "leakage.png"

    def draw(rows):
        plot_leakage(rows, path, "Leakage")
        return picture(path)

    whole = draw(rows)
    # Of several seeds the mean is drawn.
    seeds = [row | {"seed": 2, "value": 0.1} for row in rows if row["system"]]
    mean = [row | {"seed": "all"} if row["system"] else row for row in rows]
    assert np.array_equal(draw(mean + seeds), whole)
    # A probe that could not be trained.
    blank = [
        row
        for row in rows
        if (row["subspace"], row["target"]) != ("content", "speaker")
    ]
    assert not np.array_equal(draw(blank), whole)
    # A factor of one value.
    chances = [
        row | {"value": 1.0} for row in rows if row["measure"] == "chance"
    ]
    with np.errstate(all="ignore"):
        draw(chances + blank)
    with pytest.raises(InputError, match="no subspaces"):
        plot_leakage(chances, path)


def test_layers(tmp_path, monkeypatch):
    columns = {"condition": "recorded", "task": "verification"}

    def told(system, layers, value, seed="", interval=None, **other):
        origin = Subspace(system, layers=layers, seed=seed)
        return make_row(
            origin,
            interval,
            **{"measure": "eer"} | columns | other,
            value=value,
        )

    rows = [
        *(told("base", str(layer), 0.3) for layer in (10, 0, 2)),
        *(
            told("joint", "2", v, s)
            for s, v in ((1, 0.1), (2, 0.3), ("all", 0.2))
        ),
        told("joint", "10", 0.15, interval=(0.1, 0.2)),
        told("base", "0", 0.5, task="content", measure="accuracy"),
        told("base", "0", 0.9, condition="channels"),
        told("base", "0", 0.4, task="leakage", measure="accuracy", target="x"),
        # Not drawn: several layers, groups, other measures.
        told("base", "0+2", 0.9),
        told("base", "0", 0.9, group="f-f"),
        told("base", "0", 0.9, measure="min_dcf"),
        told("base", "0", 0.9, task="leakage"),
    ]
    drawn = []

    def curve(axis, curve, style):
        drawn.append(
            (axis.get_title(), {k: r["value"] for k, r in curve.items()})
        )
        return plots_curve(axis, curve, style)

    plots_curve = plots._curve
    monkeypatch.setattr(plots, "_curve", curve)
    plot_layers(rows, tmp_path / "a.png", "Layers")
    picture(tmp_path / "a.png")
    assert drawn == [
        ("EER %", {10: 0.3, 0: 0.3, 2: 0.3}),
        ("EER %", {2: 0.2, 10: 0.15}),
        ("content %", {0: 0.5}),
        ("x probe %, as recorded", {0: 0.4}),
        ("EER %, across channels", {0: 0.9}),
    ]
    with pytest.raises(InputError, match="no layers"):
        plot_layers(rows[-4:], tmp_path / "a.png")
