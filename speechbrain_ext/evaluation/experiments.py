"""Evaluations of many experiments in one table and one plot over layers."""

import csv
import json
from pathlib import Path

from speechbrain_ext.evaluation.exports import over_seeds, without_seed
from speechbrain_ext.evaluation.measure import MAIN
from speechbrain_ext.evaluation.plots import plot_layers
from speechbrain_ext.evaluation.report import format_number
from speechbrain_ext.evaluation.uncertainty import (
    format_interval,
    summarise_seeds,
)
from speechbrain_ext.utils.files import replacing

COLUMNS = (
    *("recordings", "encoder", "layers", "condition", "measure", "system"),
    *("seeds", "mean", "sd", "low", "high"),
    *("difference", "difference_low", "difference_high", "differs"),
)


def summary_rows(results):
    """Every measure of an evaluation as a flat row, seeds put together.

    Arguments
    ---------
    results : dict
        ``results.json`` of an evaluation.

    Returns
    -------
    rows : list of dict
        condition, measure (``EER``, ``content``, ``keywords``, or the factor
        that a probe reads), system (with its subspace), seeds (how many),
        mean and sd over them, low and high (95 % over speakers, of the mean),
        the same for the difference to the reference, and differs (whether
        that interval excludes 0). Rates are fractions; what is not known is
        None.

    Example
    -------
    >>> row = {"accuracy": 0.5, "interval": [0.4, 0.6], "difference": None,
    ...        "difference_interval": None, "significant": None}
    >>> rows = summary_rows({"conditions": {"clean": {
    ...     "content": {"baseline": row}, "seeds": {"content": {}}}}})
    >>> rows[0]["system"], rows[0]["mean"], rows[0]["low"], rows[0]["seeds"]
    ('baseline', 0.5, 0.4, 1)
    """
    rows = []
    for condition, measures in results["conditions"].items():
        for task, key in MAIN.items():
            if task not in measures:
                continue
            found = {
                name: {
                    "values": [row[key]],
                    "mean": row[key],
                    "sd": None,
                    **row,
                }
                for name, row in measures[task].items()
                if without_seed(name) == name
            } | measures["seeds"][task]
            measure = "EER" if task == "verification" else task
            rows += [
                _row(condition, measure, name, row)
                for name, row in found.items()
            ]
        leakage = measures.get("leakage", {"subspaces": {}, "factors": {}})
        for factor in leakage["factors"]:
            known = {
                name: entry["probe"][factor]["accuracy"]
                for name, entry in leakage["subspaces"].items()
                if entry["probe"][factor]["accuracy"] is not None
            }
            found = {
                name: summarise_seeds([accuracy])
                for name, accuracy in known.items()
                if without_seed(name) == name
            } | over_seeds(known)
            rows += [
                _row(condition, f"{factor} probe", name, row)
                for name, row in found.items()
            ]
    return rows


def _row(condition, measure, system, found):
    low, high = found.get("interval") or (None, None)
    difference = found.get("difference_interval") or (None, None)
    return {
        "condition": condition,
        "measure": measure,
        "system": system,
        "seeds": len(found["values"]),
        "mean": found["mean"],
        "sd": found["sd"],
        "low": low,
        "high": high,
        "difference": found.get("difference"),
        "difference_low": difference[0],
        "difference_high": difference[1],
        "differs": found.get("significant"),
    }


def markdown_table(rows):
    """Systems by measures, of one encoder and choice of layers.

    Arguments
    ---------
    rows : list of dict
        Of :func:`summary_rows`.

    Returns
    -------
    str
        A Markdown table: mean +- deviation over seeds in percent, in brackets
        95 % over speakers, and a star where the difference to the reference
        excludes 0.

    Example
    -------
    >>> rows = [{"condition": "clean", "measure": "EER", "system": "joint",
    ...          "seeds": 2, "mean": 0.2, "sd": 0.01, "low": 0.1, "high": 0.3,
    ...          "differs": True}]
    >>> print(markdown_table(rows))
    | system | seeds | EER % |
    |---|---|---|
    | joint | 2 | 20.0 ± 1.0 (10.0 .. 30.0) * |
    """
    heads = list(dict.fromkeys((r["measure"], r["condition"]) for r in rows))
    heads.sort(key=lambda head: [r["measure"] for r in rows].index(head[0]))
    titles = [
        f"{measure} %" + (f", {condition}" if condition != "clean" else "")
        for measure, condition in heads
    ]
    lines = [
        f"| {' | '.join(['system', 'seeds', *titles])} |",
        "|" + "---|" * (len(titles) + 2),
    ]
    systems = {}
    for row in rows:
        cells = systems.setdefault((row["system"], row["seeds"]), {})
        cells[row["measure"], row["condition"]] = _cell(row)
    lines += [
        f"| {' | '.join([name, str(seeds), *(c.get(h, '-') for h in heads)])} |"
        for (name, seeds), c in systems.items()
    ]
    return "\n".join(lines)


def _cell(row):
    text = format_number(row["mean"], 100, 1)
    if row["sd"] is not None:
        text += f" ± {format_number(row['sd'], 100, 1)}"
    if row["low"] is not None:
        text += f" ({format_interval([row['low'], row['high']])})"
    return text + (" *" if row["differs"] else "")


def layer_panels(rows):
    """Curves over the layers, for :func:`~speechbrain_ext.evaluation.plots.\
plot_layers`.

    Arguments
    ---------
    rows : list of dict
        Of :func:`summary_rows`, with ``layers``.

    Returns
    -------
    dict
        Condition -> measure -> system -> {layer: (mean, interval)}; choices
        of several layers are left out.

    Example
    -------
    >>> row = {"layers": [3], "measure": "EER", "condition": "clean",
    ...        "system": "joint", "mean": 0.2, "low": None, "high": None}
    >>> layer_panels([row])
    {'clean': {'EER': {'joint': {3: (0.2, None)}}}}
    """
    panels = {}
    for row in rows:
        if len(row["layers"]) != 1:
            continue
        panel = panels.setdefault(row["condition"], {})
        curves = panel.setdefault(row["measure"], {})
        interval = None if row["low"] is None else [row["low"], row["high"]]
        curve = curves.setdefault(row["system"], {})
        curve[row["layers"][0]] = (row["mean"], interval)
    return panels


def write_summary(folder, cells, evaluations):
    """``summary.csv``, ``summary.md`` and a plot over the layers.

    Arguments
    ---------
    folder : str or Path
        Where to.
    cells : list of speechbrain_ext.utils.experiments.Cell
        Encoders and layers.
    evaluations : dict
        (name of the recordings, number of the cell) -> job whose folder has
        ``results.json``.
    """
    folder = Path(folder)
    groups = {}
    text = [
        "Mean ± deviation over the seeds; in brackets 95 % over resampled "
        "speakers, of the mean; * where the paired difference to the "
        "reference (the first system) excludes 0."
    ]
    for (recordings, number), job in evaluations.items():
        cell = cells[number]
        path = Path(job.folder) / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = summary_rows(results)
        labels = {
            "recordings": recordings,
            "encoder": cell.encoder,
            "layers": cell.layers,
        }
        rows = [labels | row for row in rows]
        groups.setdefault((recordings, cell.encoder), []).extend(rows)
        layers = ", ".join(map(str, cell.layers))
        text.append(f"## {recordings}: {cell.encoder}, layers {layers}")
        protocol = results.get("protocol") or "ours"
        text.append(
            f"statistics: {results['domain_statistics']}; protocol: {protocol}"
        )
        text.append(markdown_table(rows))
    for (recordings, encoder), rows in groups.items():
        panels = layer_panels(rows)
        if len({tuple(row["layers"]) for row in rows}) > 1 and panels:
            plot_layers(
                panels,
                folder / f"layers_{recordings}_{encoder}.png",
                f"{encoder}, {recordings}",
            )
    with replacing(folder / "summary.csv") as temporary:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            for rows in groups.values():
                for row in rows:
                    layers = "+".join(map(str, row["layers"]))
                    writer.writerow(row | {"layers": layers})
    with replacing(folder / "summary.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n\n".join(text))
