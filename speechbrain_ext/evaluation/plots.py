"""Figures as files. No window is opened, and no figure stays in memory."""

import contextlib
import itertools
import logging
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import ndtri
from sklearn.metrics import DetCurveDisplay
from threadpoolctl import threadpool_limits

from speechbrain_ext.evaluation.report import (
    CONDITIONS,
    MAIN,
    heading,
    trial_lists,
)
from speechbrain_ext.evaluation.results import format_number, over_seeds, select
from speechbrain_ext.metrics.arrays import to_codes, to_matrix, unit_rows
from speechbrain_ext.metrics.verification import sort_trials
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

# Their debugging would fill the log of a run.
for library in ("matplotlib", "PIL"):
    logging.getLogger(library).setLevel(logging.INFO)
TARGET, NONTARGET = "#1b7837", "#762a83"
MAX_VIOLIN = 20_000


def _style(number):
    """Colour and line of one of many curves."""
    return {
        "color": colormaps["tab10"].colors[number % 10],
        "linestyle": ("-", "--", ":")[number // 10 % 3],
    }


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


def plot_scores(verification, folder, title="", det=False, name=""):
    """Scores of each condition, of several seeds those of the first.

    Arguments
    ---------
    verification : speechbrain_ext.evaluation.tasks.Verification
        After its call.
    folder : str or pathlib.Path
        Gets ``scores_<condition>.png`` and, with ``det``, also
        ``det_<condition>.png``.
    title : str
        Start of the titles.
    det : bool
        Draw DET curves too.
    name : str
        Stands before the condition in the names of the files.
    """
    labels = verification.trials.label
    for condition, scores in verification.scores.items():
        scored = {
            label: (one, labels) for label, one in first_seeds(scores).items()
        }
        words = ", ".join(filter(None, (title, CONDITIONS[condition])))
        end = f"{name}_{condition}.png" if name else f"{condition}.png"
        plot_score_distributions(scored, f"{folder}/scores_{end}", words)
        if det:
            plot_det(scored, f"{folder}/det_{end}", words)


def plot_condition(embedded, rows, speakers, folder):
    """Maps of the speakers, and leakage, in one condition.

    Arguments
    ---------
    embedded : speechbrain_ext.evaluation.tasks.Embedded
        Of several seeds of a system the first is drawn.
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.
    speakers : sequence
        [N] speakers of the test utterances.
    folder : str or pathlib.Path
        Gets ``speakers_<condition>.png`` and, where there are rows of it,
        ``leakage_<condition>.png``.
    """
    condition = embedded.condition
    end, title = f"{condition}.png", CONDITIONS[condition]
    vectors = first_seeds(embedded.vectors["test"])
    plot_speakers(vectors, speakers, f"{folder}/speakers_{end}", title)
    leakage = select(rows, task="leakage", condition=condition)
    if select(leakage, measure=("accuracy", "eer")):
        plot_leakage(leakage, f"{folder}/leakage_{end}", title)


def first_seeds(named):
    """Label -> value, of several seeds of a system the first.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace
    >>> first_seeds({Subspace("a", seed=1): 3, Subspace("a", seed=2): 4})
    {'a': 3}
    """
    first = {}
    for origin, value in named.items():
        first.setdefault(origin.label, value)
    return first


def plot_score_distributions(scored, path, title=""):
    """Violins of target and non-target scores, one pair per system.

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
        NaN scores, or only one kind of trials.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.png"
    >>> plot_score_distributions(
    ...     {"speaker": ([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0])}, path
    ... )
    >>> path.exists()
    True
    """
    rng = np.random.default_rng(0)
    width = max(4.5, 1.5 + 1.3 * len(scored))
    with _figure(path, width, 4.8, title) as (figure, axis):
        labels = []
        for place, (name, (scores, label)) in enumerate(scored.items()):
            trials = sort_trials(scores, label)
            eer, threshold = trials.equal_error_rate()
            labels.append(f"{name}\nEER {100 * eer:.1f} %")
            for part, side, color in (
                (trials.targets, "high", TARGET),
                (trials.nontargets, "low", NONTARGET),
            ):
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
    drawn = axis.violinplot(
        scores, [place], widths=0.8, side=side, showextrema=False,
        showmedians=True,
    )  # fmt: skip
    drawn["bodies"][0].set(color=color, alpha=0.6, linewidth=0)
    drawn["cmedians"].set(color=color)


def plot_det(scored, path, title=""):
    """Detection error trade-off curves, a dot at the equal error rate.

    A. Martin et al., "The DET curve in assessment of detection task
    performance", Eurospeech 1997.

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
        NaN scores, or only one kind of trials.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "det.png"
    >>> plot_det({"speaker": ([0.9, 0.2, 0.3, 0.1], [1, 1, 0, 0])}, path)
    >>> path.exists()
    True
    """
    with _figure(path, 8.1, 5.2, title) as (_, axis):
        for number, (name, (scores, labels)) in enumerate(scored.items()):
            trials, style = sort_trials(scores, labels), _style(number)
            sides, eer = trials.sides, trials.equal_error_rate()[0]
            name = f"{name}: {100 * eer:.1f} %"
            # Its stable sort only merges what is in order.
            DetCurveDisplay.from_predictions(
                np.repeat([0, 1], [len(side) for side in sides]),
                np.concatenate(sides), name=name, ax=axis, **style,
            )  # fmt: skip
            axis.plot(*[ndtri(eer)] * 2, "o", color=style["color"], ms=4)
        axis.axline((0, 0), slope=1, color="0.7", lw=0.8, zorder=0)
        axis.set(xlabel="false alarms", ylabel="misses", aspect="equal")
        axis.grid(color="0.9", lw=0.6)
        axis.legend(
            title="equal error rate", loc="upper left", frameon=False,
            bbox_to_anchor=(1.02, 1), fontsize=8,
        )  # fmt: skip


def plot_speakers(
    embedded, speakers, path, title="", max_speakers=10, max_utterances=600,
    seed=0,
):  # fmt: skip
    """t-SNE maps of the utterances of some speakers, one panel per subspace.

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
        NaN, labels that do not fit, or fewer than four utterances.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "speakers.png"
    >>> vectors = np.random.default_rng(0).normal(size=(12, 4))
    >>> plot_speakers({"speaker": vectors}, list("abc") * 4, path)
    >>> path.exists()
    True
    """
    embedded = {n: to_matrix(v, n) for n, v in embedded.items()}
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
            directions = unit_rows(vectors[rows])
            points = np.zeros((len(rows), 2))
            # Of equal ones t-SNE would crash.
            if np.ptp(directions, axis=0).any():
                # At this size threads wait longer than they compute.
                with threadpool_limits(1):
                    points = TSNE(
                        perplexity=min(30, (len(rows) - 1) / 3),
                        # Of one dimension there are not two components.
                        init="pca" if directions.shape[1] > 1 else "random",
                        random_state=seed,
                    ).fit_transform(directions)
            for number, code in enumerate(chosen):
                part = points[codes[rows] == code]
                axis.scatter(
                    *part.T, s=9, color=colors[number], lw=0,
                    label=str(names[code]),
                )  # fmt: skip
            axis.set(xticks=[], yticks=[])
            axis.set_title(name, fontsize=10)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right upper", frameon=False,
            fontsize=8, markerscale=1.5,
        )  # fmt: skip


def plot_leakage(rows, path, title=""):
    """Heat map of the leakage matrix: what a probe reads from where.

    The cell of a probe that cannot be trained is blank, with "-".

    Arguments
    ---------
    rows : list of dict
        Rows of :class:`~speechbrain_ext.evaluation.leakage.Leakage` in one
        condition.
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.

    Example
    -------
    >>> import tempfile, pathlib
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "leakage.png"
    >>> row = make_row(target="speaker", measure="chance", value=0.25)
    >>> probe = make_row(
    ...     Subspace("joint", "content"),
    ...     target="speaker",
    ...     measure="accuracy",
    ...     value=0.3,
    ... )
    >>> plot_leakage([row, probe], path)
    >>> path.exists()
    True
    """
    chance = {
        row["target"]: row["value"] for row in select(rows, measure="chance")
    }
    cells = {"accuracy": {}, "eer": {}}
    labels = {}
    # Of several seeds their mean.
    drawn = select(over_seeds(rows), measure=tuple(cells))
    # A speaker encoder, which is called like its system, has no layers.
    heads = {(row["encoder"], row["layers"]) for row in drawn if row["layers"]}
    for row in drawn:
        line = row["system"], row["subspace"]
        if len(heads) > 1 and row["layers"]:
            line += row["encoder"], row["layers"]
        labels[line] = " ".join(filter(None, line))
        cells[row["measure"]][line, row["target"]] = row["value"]
    if not labels:
        raise InputError("no subspaces to draw")
    accuracy = np.array(
        [[cells["accuracy"].get((line, f)) for f in chance] for line in labels],
        dtype=float,  # None becomes NaN
    )
    lowest = np.array(list(chance.values()))
    above = ((accuracy - lowest) / (1 - lowest)).clip(0, 1)
    size = (1.9 * len(chance) + 3.2, 0.5 * len(labels) + 1.6)
    with _figure(path, *size, title) as (figure, axis):
        image = axis.imshow(above, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for (i, line), (j, factor) in itertools.product(
            enumerate(labels), enumerate(chance)
        ):
            text = f"{format_number(accuracy[i, j])} %"
            if (eer := cells["eer"].get((line, factor))) is not None:
                text += f"\nEER {format_number(eer)} %"
            axis.text(
                j, i, text, ha="center", va="center", fontsize=8,
                color="white" if above[i, j] > 0.6 else "black",
            )  # fmt: skip
        axis.set_xticks(
            range(len(chance)),
            [f"{f}\nchance {100 * c:.1f} %" for f, c in chance.items()],
        )
        axis.set_yticks(range(len(labels)), labels.values())
        axis.xaxis.tick_top()
        axis.set_xlabel("factor read by a linear probe")
        bar = figure.colorbar(image, ax=axis)
        bar.set_label("accuracy from chance (0) to perfect (1)", fontsize=8)


def plot_layers(rows, path, title=""):
    """Main measures over the layers of an encoder, one panel per measure.

    Arguments
    ---------
    rows : list of dict
        Rows of :mod:`~speechbrain_ext.evaluation.results` of one encoder;
        those of several layers together are left out.
    path : str or pathlib.Path
        Image to write, format by suffix (png, pdf, svg).
    title : str
        Title of the figure.

    Example
    -------
    >>> import tempfile, pathlib
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "layers.png"
    >>> plot_layers(
    ...     [
    ...         make_row(
    ...             Subspace("baseline", layers=str(layer)),
    ...             task="verification",
    ...             condition="recorded",
    ...             measure="eer",
    ...             value=0.2,
    ...         )
    ...         for layer in (0, 6)
    ...     ],
    ...     path,
    ... )
    >>> path.exists()
    True
    """
    rows = [row for row in rows if str(row["layers"]).isdigit()]
    panels, several = {}, len(trial_lists(rows)) > 1
    for row in select(rows, measure=("eer", "accuracy"), group=""):
        if row["task"] in MAIN and row["measure"] == MAIN[row["task"]]:
            name = heading(row)
            name += f", {Path(row['list']).stem}" if several else ""
        elif row["task"] == "leakage" and row["measure"] == "accuracy":
            name = f"{row['target']} probe %, {CONDITIONS[row['condition']]}"
        else:
            continue
        curves = panels.setdefault(row["condition"], {}).setdefault(name, {})
        label = f"{row['system']} {row['subspace']}".strip()
        curve = curves.setdefault(label, {})
        # The mean over seeds comes after the seeds.
        curve[int(row["layers"])] = row
    if not panels:
        raise InputError("no layers to draw")
    labels = dict.fromkeys(
        label
        for measures in panels.values()
        for curves in measures.values()
        for label in curves
    )
    styles = {label: _style(number) for number, label in enumerate(labels)}
    columns = max(map(len, panels.values()))
    size = (2.7 * columns + 2.2, 2.5 * len(panels) + 0.5)
    with _figure(path, *size, title, (len(panels), columns)) as (figure, axes):
        handles = {}
        axes = axes.reshape(len(panels), columns)
        for line, measures in zip(axes, panels.values()):
            for axis in line[len(measures) :]:
                axis.set_axis_off()
            for axis, (name, curves) in zip(line, measures.items()):
                axis.set_title(name, fontsize=9)
                axis.set_xlabel("layer", fontsize=8)
                axis.xaxis.get_major_locator().set_params(integer=True)
                for label, curve in curves.items():
                    handles[label] = _curve(axis, curve, styles[label])
        figure.legend(
            handles.values(), handles, loc="outside right upper",
            frameon=False, fontsize=8,
        )  # fmt: skip


def _curve(axis, curve, style):
    """Values over the layers, with their intervals; the line of the legend."""
    layers = sorted(curve)
    values = [100 * curve[layer]["value"] for layer in layers]
    (line,) = axis.plot(layers, values, marker="o", ms=3, **style)
    for layer in layers:
        if curve[layer]["low"] != "":
            bounds = [100 * curve[layer][name] for name in ("low", "high")]
            axis.plot([layer] * 2, bounds, color=style["color"], alpha=0.25)
    return line
