"""Figures as files. No window is opened, and no figure stays in memory."""

import contextlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_ext.evaluation.verification import (
    check_trials,
    equal_error_rate,
)
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import replacing

TARGET, NONTARGET = "#1b7837", "#762a83"
MAX_VIOLIN = 20_000


@contextlib.contextmanager
def _figure(path, width, height, title):
    """A figure with one axis that is written to ``path`` at the end."""
    # Not through pyplot: that keeps global state and every open figure.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    if title:
        axis.set_title(title)
    yield figure, axis
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
    with _figure(path, width, 4.5, title) as (_, axis):
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
        axis.set_ylabel("score")
        for color, text in ((NONTARGET, "non-target"), (TARGET, "target")):
            axis.fill_between([], [], color=color, alpha=0.6, label=text)
        axis.plot([], [], color="black", lw=1, label="EER threshold")
        axis.legend(loc="upper center", ncols=3, frameon=False,
                    bbox_to_anchor=(0.5, -0.12))  # fmt: skip


def _half_violin(axis, scores, place, side, color):
    """Density to one side of ``place``; a line where all scores are tied."""
    if np.ptp(scores) < 1e-9:
        shift = 0.4 if side == "high" else -0.4
        axis.hlines(scores[0], *sorted((place, place + shift)), color, lw=3)
        return
    from scipy.stats import gaussian_kde

    grid = np.linspace(scores.min(), scores.max(), 200)
    density = gaussian_kde(scores)(grid)
    edge = 0.4 * density / density.max() * (1 if side == "high" else -1)
    axis.fill_betweenx(grid, place, place + edge, color=color, alpha=0.6, lw=0)
    axis.hlines(np.median(scores), *sorted(
        (place, place + (0.2 if side == "high" else -0.2))), color)  # fmt: skip
