"""Figures as files. No window is opened, and no figure stays in memory."""

import contextlib

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import ndtri
from scipy.stats import gaussian_kde
from threadpoolctl import threadpool_limits

from speechbrain_ext.evaluation.arrays import to_codes, to_matrix, unit_rows
from speechbrain_ext.evaluation.verification import (
    check_trials,
    det_curve,
    equal_error_rate,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

TARGET, NONTARGET = "#1b7837", "#762a83"
MAX_VIOLIN = 20_000


@contextlib.contextmanager
def _figure(path, width, height, title, grid=None):
    """A figure with one axis (or a grid) that is written at the end."""
    # Not through pyplot: that keeps global state and every open figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*(grid or (1, 1)), squeeze=False).ravel()
    if title:
        figure.suptitle(title, fontsize=11)
    yield figure, axes if grid else axes[0]
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def plot_score_distributions(scored, path, title=""):
    """Violins of target and non-target scores, one pair a system.

    Arguments
    ---------
    scored : dict of str to tuple
        Name (of a system or subspace) to (scores [T], labels [T]).
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.

    Raises
    ------
    InputError
        Nothing to draw, NaN scores, or only one kind of trials.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.png"
    >>> plot_score_distributions({"speaker": ([0.9, 0.8, 0.1, 0.2],
    ...                                       [1, 1, 0, 0])}, path)
    >>> path.exists()
    True
    """
    if not scored:
        raise InputError("no scores to draw")
    rng = np.random.default_rng(0)
    width = max(4.5, 1.5 + 1.3 * len(scored))
    with _figure(path, width, 4.8, title) as (figure, axis):
        labels = []
        for place, (name, (scores, label)) in enumerate(scored.items()):
            scores, targets = check_trials(scores, label)
            eer, threshold = equal_error_rate(scores, targets)
            labels.append(f"{name}\nEER {100 * eer:.1f} %")
            for chosen, side, color in (
                (targets, "high", TARGET),
                (~targets, "low", NONTARGET),
            ):
                part = scores[chosen]
                if len(part) > MAX_VIOLIN:  # the kernel estimate is slow
                    part = rng.choice(part, MAX_VIOLIN, replace=False)
                _half_violin(axis, part, place, side, color)
            axis.hlines(threshold, place - 0.4, place + 0.4, "black", lw=1)
        axis.set_xticks(range(len(labels)), labels)
        if max(len(line) for label in labels for line in label.split()) > 12:
            axis.tick_params(axis="x", labelrotation=35)
            for label in axis.get_xticklabels():
                label.set(ha="right", va="top", rotation_mode="anchor")
        axis.set_ylabel("score")
        for color, text in ((NONTARGET, "non-target"), (TARGET, "target")):
            axis.fill_between([], [], color=color, alpha=0.6, label=text)
        axis.plot([], [], color="black", lw=1, label="EER threshold")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)


def _half_violin(axis, scores, place, side, color):
    """Density to one side of ``place``; a line where all scores are tied."""
    if np.ptp(scores) < 1e-9:
        shift = 0.4 if side == "high" else -0.4
        axis.hlines(scores[0], *sorted((place, place + shift)), color, lw=3)
        return
    grid = np.linspace(scores.min(), scores.max(), 200)
    density = gaussian_kde(scores)(grid)
    edge = 0.4 * density / density.max() * (1 if side == "high" else -1)
    axis.fill_betweenx(grid, place, place + edge, color=color, alpha=0.6, lw=0)
    axis.hlines(np.median(scores), *sorted(
        (place, place + (0.2 if side == "high" else -0.2))), color)  # fmt: skip


def plot_det(scored, path, title="", max_points=2000):
    """Detection error trade-off curves on normal-deviate axes.

    A. Martin et al., "The DET curve in assessment of detection task
    performance", Eurospeech 1997. A dot marks the equal error rate.

    Arguments
    ---------
    scored : dict of str to tuple
        Name (of a system or subspace) to (scores [T], labels [T]).
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.
    max_points : int
        Points drawn of each curve.

    Raises
    ------
    InputError
        Nothing to draw, NaN scores, or only one kind of trials.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "det.png"
    >>> plot_det({"speaker": ([0.9, 0.2, 0.3, 0.1], [1, 1, 0, 0])}, path)
    >>> path.exists()
    True
    """
    if not scored:
        raise InputError("no scores to draw")
    low, high = 0.001, 0.8
    ticks = [0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8]
    colors = colormaps["tab10"].colors
    with _figure(path, 5.5 + 2.6, 5.2, title) as (_, axis):
        for number, (name, (scores, labels)) in enumerate(scored.items()):
            false_alarm, miss, _ = det_curve(scores, labels, max_points)
            eer = equal_error_rate(scores, labels)[0]
            style = {
                "color": colors[number % len(colors)],
                "linestyle": ["-", "--", ":"][number // len(colors) % 3],
            }
            rates = np.clip([false_alarm, miss], low / 10, 1 - low / 10)
            axis.plot(
                *ndtri(rates),
                label=f"{_one_line(name)}: {100 * eer:.1f} %", lw=1.5, **style,
            )  # fmt: skip
            if low < eer < high:
                axis.plot(*[ndtri(eer)] * 2, "o", color=style["color"], ms=4)
        axis.plot(*[ndtri([low, high])] * 2, color="0.7", lw=0.8, zorder=0)
        for where in (axis.xaxis, axis.yaxis):
            where.set_ticks(ndtri(ticks), [f"{100 * t:g}" for t in ticks])
        axis.set(
            xlim=ndtri([low, high]), ylim=ndtri([low, high]),
            xlabel="false alarms, %", ylabel="misses, %", aspect="equal",
        )  # fmt: skip
        axis.grid(color="0.9", lw=0.6)
        axis.legend(
            title="equal error rate", loc="upper left", frameon=False,
            bbox_to_anchor=(1.02, 1), fontsize=8,
        )  # fmt: skip


def plot_speakers(
    embedded, speakers, path, title="", max_speakers=10, max_utterances=600,
    seed=0,
):  # fmt: skip
    """t-SNE maps of the utterances of some speakers, one panel a subspace.

    L. van der Maaten and G. Hinton, "Visualizing data using t-SNE", JMLR 2008
    (scikit-learn's, on cosine distances). Distances between clusters and their
    sizes mean nothing; whether colours mix does.

    Arguments
    ---------
    embedded : dict of str to array or torch.Tensor
        Name to vectors [N, D].
    speakers : sequence
        [N] speaker (or value of another factor) of each utterance.
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.
    max_speakers : int
        Speakers drawn (those with most utterances); colours end at 20.
    max_utterances : int
        Utterances drawn, chosen at random.
    seed : int
        Seed of the choice and of the map.

    Raises
    ------
    InputError
        Nothing to draw, NaN, labels that do not fit, or fewer than four
        utterances.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "speakers.png"
    >>> vectors = np.random.default_rng(0).normal(size=(12, 4))
    >>> plot_speakers({"speaker": vectors}, list("abc") * 4, path)
    >>> path.exists()
    True
    """
    if not embedded:
        raise InputError("no embeddings to draw")
    embedded = {n: to_matrix(v, _one_line(n)) for n, v in embedded.items()}
    count = len(next(iter(embedded.values())))
    names, codes = to_codes(speakers, count, "speakers")
    chosen = np.argsort(-np.bincount(codes), kind="stable")
    chosen = np.sort(chosen[: min(max_speakers, 20)])
    rows = np.flatnonzero(np.isin(codes, chosen))
    rng = np.random.default_rng(seed)
    if len(rows) > max_utterances:
        rows = np.sort(rng.choice(rows, max_utterances, replace=False))
    if len(rows) < 4:
        raise InputError(f"t-SNE needs 4 utterances or more, got {len(rows)}")
    from sklearn.manifold import TSNE

    columns = min(len(embedded), 4)
    lines = -(-len(embedded) // columns)
    colors = colormaps["tab10" if len(chosen) <= 10 else "tab20"].colors
    size = (3 * columns + 1.5, 3.2 * lines + 0.3)
    with _figure(path, *size, title, (lines, columns)) as (figure, axes):
        for axis in axes[len(embedded) :]:
            axis.set_visible(False)
        for axis, (name, vectors) in zip(axes, embedded.items()):
            # At this size threads wait longer than they compute.
            with threadpool_limits(1):
                points = TSNE(
                    perplexity=min(30, (len(rows) - 1) / 3),
                    init="pca",
                    random_state=seed,
                ).fit_transform(unit_rows(vectors[rows]))
            for number, code in enumerate(chosen):
                part = points[codes[rows] == code]
                axis.scatter(
                    *part.T, s=9, color=colors[number], lw=0,
                    label=str(names[code]),
                )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            axis.set_title(_one_line(name), fontsize=10)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right upper", frameon=False,
            fontsize=8, markerscale=1.5,
        )  # fmt: skip


def plot_leakage(report, path, title=""):
    """Heat map of the leakage matrix: what a probe reads from where.

    The cell of a probe that cannot be trained is blank, with "-".

    Arguments
    ---------
    report : dict
        Of :func:`speechbrain_ext.evaluation.probes.leakage_report`.
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.

    Raises
    ------
    InputError
        If the report has no subspaces.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "leakage.png"
    >>> plot_leakage({
    ...     "factors": {"speaker": {"chance": 0.25}},
    ...     "subspaces": {"content": {"probe": {"speaker": {"accuracy": 0.3}},
    ...                               "eer": {"speaker": 0.5}, "dim": 8}},
    ...     "controls": {}}, path)
    >>> path.exists()
    True
    """
    rows = {**report["subspaces"], **report["controls"]}
    if not rows:
        raise InputError("no subspaces to draw")
    factors = report["factors"]
    accuracy = np.array(
        [
            [row["probe"][f]["accuracy"] for f in factors]
            for row in rows.values()
        ],
        dtype=float,  # None becomes NaN
    )
    chance = np.array([factor["chance"] for factor in factors.values()])
    above = ((accuracy - chance) / (1 - chance)).clip(0, 1)
    size = (1.9 * len(factors) + 3.2, 0.5 * len(rows) + 1.6)
    with _figure(path, *size, title) as (figure, axis):
        image = axis.imshow(above, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for i, row in enumerate(rows.values()):
            for j, factor in enumerate(factors):
                known = np.isfinite(accuracy[i, j])
                text = f"{100 * accuracy[i, j]:.1f} %" if known else "-"
                if row["eer"].get(factor) is not None:
                    text += f"\nEER {100 * row['eer'][factor]:.1f} %"
                axis.text(
                    j, i, text, ha="center", va="center", fontsize=8,
                    color="white" if above[i, j] > 0.6 else "black",
                )  # fmt: skip
        axis.axhline(len(report["subspaces"]) - 0.5, color="black", lw=1.5)
        axis.set_xticks(
            range(len(factors)),
            [f"{f}\nchance {100 * c:.1f} %" for f, c in zip(factors, chance)],
        )
        axis.set_yticks(
            range(len(rows)),
            [f"{_one_line(n)} ({row['dim']}-d)" for n, row in rows.items()],
        )
        axis.xaxis.tick_top()
        axis.set_xlabel("factor read by a linear probe")
        bar = figure.colorbar(image, ax=axis)
        bar.set_label("accuracy from chance (0) to perfect (1)", fontsize=8)


def plot_layers(rows, path, title=""):
    """Measures over the layers of an encoder, one panel a measure.

    Arguments
    ---------
    rows : dict
        Condition (a row of panels) -> measure -> name of a system ->
        {layer: (value, interval)}, as fractions; the interval is a pair of
        bounds or None.
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.

    Raises
    ------
    InputError
        Nothing to draw.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "layers.png"
    >>> curve = {0: (0.2, [0.1, 0.3]), 6: (0.4, None)}
    >>> plot_layers({"clean": {"EER": {"baseline": curve}}}, path)
    >>> path.exists()
    True
    """
    panels = {
        (condition, measure): curves
        for condition, measures in rows.items()
        for measure, curves in measures.items()
    }
    names = list(dict.fromkeys(name for one in panels.values() for name in one))
    if not names:
        raise InputError("no layers to draw")
    styles = {
        name: {
            "color": colormaps["tab10"].colors[i % 10],
            "linestyle": ("-", "--", ":")[i // 10 % 3],
        }
        for i, name in enumerate(names)
    }
    columns = max(map(len, rows.values()))
    size = (2.7 * columns + 2.2, 2.5 * len(rows) + 0.5)
    with _figure(path, *size, title, (len(rows), columns)) as (figure, axes):
        axes = axes.reshape(len(rows), columns)
        places = {
            (condition, measure): axes[i, j]
            for i, condition in enumerate(rows)
            for j, measure in enumerate(rows[condition])
        }
        handles = {}
        for (condition, measure), curves in panels.items():
            axis = places[condition, measure]
            for name, curve in curves.items():
                layers = sorted(curve)
                values = [100 * curve[layer][0] for layer in layers]
                (line,) = axis.plot(
                    layers, values, marker="o", ms=3, **styles[name]
                )
                handles.setdefault(name, line)
                for layer in layers:
                    if curve[layer][1] is not None:
                        axis.plot(
                            [layer] * 2,
                            [100 * bound for bound in curve[layer][1]],
                            color=styles[name]["color"],
                            alpha=0.25,
                        )
            axis.set_title(f"{measure} %, {condition}", fontsize=9)
            axis.set_xlabel("layer", fontsize=8)
            axis.xaxis.get_major_locator().set_params(integer=True)
        for axis in set(axes.ravel()) - set(places.values()):
            axis.set_axis_off()
        figure.legend(
            handles.values(), handles, loc="outside right upper",
            frameon=False, fontsize=8,
        )  # fmt: skip


def _one_line(name):
    return " ".join(str(name).split())
