"""Evaluations of many experiments in one table and one plot over layers."""

from pathlib import Path

from speechbrain_ext.evaluation.plots import plot_layers
from speechbrain_ext.evaluation.report import LEGEND, further_tables, main_table
from speechbrain_ext.evaluation.reported import reported_table
from speechbrain_ext.evaluation.results import COLUMNS, over_seeds, read_results
from speechbrain_ext.utils.files import write_csv, write_text


def write_summary(folder, evaluations):
    """``results.csv`` of all, ``summary.md`` and plots over the layers.

    Arguments
    ---------
    folder : str or Path
        Where to.
    evaluations : list of tuple
        (name of the recordings, folder with ``results.json``).

    Returns
    -------
    str
        The text of ``summary.md``: one line per system, of several seeds
        their mean.
    """
    folder = Path(folder)
    groups, every, text = {}, [], [LEGEND]
    for recordings, place in evaluations:
        found = read_results(place)
        rows, about = found["rows"], found["about"]
        every += rows
        # The first row is that of a baseline: all have its features.
        encoder, layers = rows[0]["encoder"], rows[0]["layers"]
        groups.setdefault((recordings, encoder), []).extend(rows)
        seeds = {row["seed"] for row in rows} - {"", "all"}
        rows = over_seeds(rows)
        text += [
            f"## {recordings}: {encoder}, layers {layers}",
            f"statistics: {about['domain_statistics']}; protocol: "
            f"{about['protocol'] or 'ours'}; seeds: "
            f"{', '.join(map(str, sorted(seeds)))}",
            main_table(rows),
            *further_tables(rows),
            *filter(None, [reported_table(rows, about)]),
        ]
    for (recordings, encoder), rows in groups.items():
        layers = {row["layers"] for row in rows}
        if sum(layer.isdigit() for layer in layers) > 1:
            path = folder / f"layers_{recordings}_{encoder}.png"
            plot_layers(rows, path, f"{encoder}, {recordings}")
    write_csv(folder / "results.csv", every, COLUMNS)
    text = "\n\n".join(text) + "\n"
    write_text(folder / "summary.md", text)
    return text
