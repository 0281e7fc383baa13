"""Results as rows of one long table, and tables for readers as its pivots.

Whatever is measured becomes rows with the columns of :data:`COLUMNS`, an empty
string where one does not apply:

- ``run``: folder of the run; ``data``: the recordings; ``list``: their trial
  list, where one was given.
- ``system``, ``subspace``, ``encoder``, ``layers`` (``2+4``), ``seed``: what
  was measured. The seed ``all`` is the mean over the seeds of a system.
- ``condition``: ``recorded``, or ``channels``, where each clip went through a
  random channel of its own.
- ``task``, ``backend``: what was asked, and what scored or classified;
  ``target``: the factor that was to be told; ``group``: a part of the trials
  or utterances.
- ``measure``, ``value``: rates are fractions; ``low``, ``high``: 95 % interval
  over speakers; ``n``: trials or utterances. ``<measure>_difference`` is the
  paired difference to the reference, ``<measure>_sd`` the deviation over the
  seeds; ``mcnemar_p`` is the probability of McNemar's test against it.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from speechbrain.utils.logger import get_logger
from speechbrain_ext.metrics.uncertainty import SpeakerResamples
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import write_csv, write_json

logger = get_logger(__name__)

COLUMNS = (
    *("run", "system", "encoder", "layers", "seed", "data", "subspace"),
    *("condition", "task", "list", "backend", "target", "group"),
    *("measure", "value", "low", "high", "n"),
)
DIFFERENCE, DEVIATION = "_difference", "_sd"
# How tables show a measure: heading, factor, digits. Others: percent.
SHOWN = {
    "eer": ("EER %", 100, 2),
    "min_dcf": ("minDCF", 1, 3),
    "actual_dcf": ("actual DCF", 1, 3),
    "min_cllr": ("minCllr, bits", 1, 3),
    "cllr": ("Cllr, bits", 1, 3),
    "dimension": ("dimension", 1, 0),
    "parameters": ("million parameters", 1e-6, 2),
    "megabytes": ("MB in half precision", 1, 1),
    "times_real_time": ("times real time", 1, 0),
}


class Subspace(NamedTuple):
    """What a vector comes from: a subspace of a system."""

    system: str
    subspace: str = ""
    encoder: str = ""
    layers: str = ""
    seed: object = ""

    @property
    def label(self):
        """System and subspace, for headings and the option ``reference``."""
        return f"{self.system} {self.subspace}".strip()


def make_row(origin=None, interval=None, **columns):
    """One row of the table.

    Arguments
    ---------
    origin : Subspace
        What was measured. Default: nothing in particular, as for chance.
    interval : tuple of float
        Lowest and highest value. Default: none.
    **columns : object
        The other columns.

    Returns
    -------
    dict
        All of :data:`COLUMNS`.

    Example
    -------
    >>> make_row(Subspace("joint"), measure="eer", value=0.1)["system"]
    'joint'
    """
    row = dict.fromkeys(COLUMNS, "") | columns
    row |= {} if origin is None else origin._asdict()
    row["low"], row["high"] = ("", "") if interval is None else interval
    return row


def measure_rows(values, draws=None, reference=None, **columns):
    """Rows of one measure of several subspaces, seeds put together.

    Arguments
    ---------
    values : dict
        Subspace -> value.
    draws : dict
        Subspace -> [number] values in the same resamples of the speakers, for
        intervals and paired differences. Default: neither.
    reference : str
        Label of the subspace that differences are taken to; of several seeds
        it is the mean. Default: the first.
    **columns : object
        ``measure`` and further columns of the rows.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        If there is no such reference.

    Example
    -------
    >>> draws = np.linspace(0.1, 0.3, 21)
    >>> a, b = Subspace("a"), Subspace("b")
    >>> rows = measure_rows(
    ...     {a: 0.2, b: 0.15}, {a: draws, b: draws - 0.05}, measure="eer"
    ... )
    >>> [(row["measure"], round(row["value"], 2)) for row in rows]
    [('eer', 0.2), ('eer', 0.15), ('eer_difference', -0.05)]
    """
    values, draws = dict(values), dict(draws or {})
    seeds = {}
    for origin in values:
        seeds.setdefault(origin._replace(seed="all"), []).append(origin)
    seeds = {mean: many for mean, many in seeds.items() if len(many) > 1}
    for mean, many in seeds.items():
        values[mean] = np.mean([values[origin] for origin in many])
        if draws:
            draws[mean] = np.mean([draws[origin] for origin in many], axis=0)
    measure = columns.pop("measure")

    def row(origin, suffix, value, interval=None):
        """One row of the measure, its deviation or its difference."""
        # The number of trials is that of the measure, not of a difference.
        rest = columns | ({"n": ""} if suffix else {})
        return make_row(
            origin, interval, measure=measure + suffix, value=value, **rest
        )

    interval = SpeakerResamples.interval
    rows = [
        row(origin, "", float(value), draws and interval(draws[origin]) or None)
        for origin, value in values.items()
    ]
    rows += [
        row(mean, DEVIATION, float(np.std([values[o] for o in many], ddof=1)))
        for mean, many in seeds.items()
    ]
    if draws:
        base = find_reference(values, reference)
        rows += [
            row(
                origin,
                DIFFERENCE,
                float(value - values[base]),
                interval(np.subtract(draws[origin], draws[base])),
            )
            for origin, value in values.items()
            if origin != base
        ]
    return rows


def find_reference(origins, label=None):
    """The subspace of a label, the mean over its seeds before one of them.

    Arguments
    ---------
    origins : iterable of Subspace
        Those that there are.
    label : str
        Of a subspace, as in ``"joint speaker"``. Default: the first.

    Returns
    -------
    Subspace

    Raises
    ------
    InputError
        If there is none.

    Example
    -------
    >>> find_reference([Subspace("a"), Subspace("b", "speaker")]).system
    'a'
    """
    origins = list(origins)
    found = [o for o in origins if label in (None, o.label)]
    if not found:
        labels = dict.fromkeys(origin.label for origin in origins)
        raise InputError(
            f"Unknown reference '{label}': there are {', '.join(labels)}"
        )
    first = found[0]
    mean = first._replace(seed="all")
    return mean if mean in found else first


def select(rows, **wanted):
    """Rows of which some columns have one of some values.

    Arguments
    ---------
    rows : list of dict
        Rows.
    **wanted : object
        Column -> its value, or a tuple of values.

    Returns
    -------
    list of dict

    Example
    -------
    >>> rows = [make_row(task="content", n=1), make_row(task="keywords", n=2)]
    >>> [row["n"] for row in select(rows, task=("keywords", "leakage"))]
    [2]
    """
    wanted = {
        name: value if isinstance(value, tuple) else (value,)
        for name, value in wanted.items()
    }
    return [row for row in rows if all(row[k] in v for k, v in wanted.items())]


def over_seeds(rows):
    """Rows without those of single seeds where there is their mean.

    Arguments
    ---------
    rows : list of dict
        Of one evaluation.

    Returns
    -------
    list of dict

    Example
    -------
    >>> rows = [make_row(Subspace("joint", seed=s)) for s in (1, 2, "all")]
    >>> [row["seed"] for row in over_seeds(rows)]
    ['all']
    """
    means = {row["system"] for row in select(rows, seed="all")}
    return [
        row
        for row in rows
        if row["seed"] == "all" or row["system"] not in means
    ]


def differs(row):
    """Whether the interval of a difference excludes 0."""
    return row["low"] != "" and (row["low"] > 0 or row["high"] < 0)


def format_number(value, scale=100, digits=1):
    """A number as text, "-" where there is none.

    Arguments
    ---------
    value : float
        The number; None or an empty string where there is none.
    scale : float
        What it is multiplied by.
    digits : int
        After the point.

    Returns
    -------
    str

    Example
    -------
    >>> format_number(0.1234), format_number("")
    ('12.3', '-')
    """
    missing = value in ("", None) or value != value
    return "-" if missing else f"{value * scale:.{digits}f}"


def format_cell(row, others):
    """Value, deviation over seeds, interval, and a star where it differs.

    Arguments
    ---------
    row : dict
        What is shown.
    others : dict
        :func:`identity` -> row, of the rows that may belong to it.

    Returns
    -------
    str

    Example
    -------
    >>> row = make_row(interval=(0.1, 0.3), measure="eer", value=0.2)
    >>> format_cell(row, {})
    '20.00 (10.00..30.00)'
    """
    measure = row["measure"]
    _, scale, digits = SHOWN.get(measure, ("", 100, 1))
    text = format_number(row["value"], scale, digits)
    deviation = others.get(identity(row, measure + DEVIATION))
    if deviation and deviation["value"]:
        text += f" ± {format_number(deviation['value'], scale, digits)}"
    if row["low"] != "":
        low, high = (
            format_number(row[bound], scale, digits)
            for bound in ("low", "high")
        )
        text += f" ({low}..{high})"
    difference = others.get(identity(row, measure + DIFFERENCE))
    return text + (" *" if difference and differs(difference) else "")


def identity(row, measure):
    """What a number is of: all columns but the number's own.

    Example
    -------
    >>> identity(make_row(system="joint"), "eer")[1]
    'joint'
    """
    own = ("measure", "value", "low", "high", "n")
    return (*(row[name] for name in COLUMNS if name not in own), measure)


def pivot(rows, index, heading, measures):
    """A table of rows for readers.

    Arguments
    ---------
    rows : list of dict
        Rows; see :func:`format_cell` for what a cell shows of them.
    index : list of str
        Columns that tell the lines of the table apart; but for the first,
        those with a single value are left out.
    heading : callable
        Row -> heading of its column.
    measures : tuple of str
        Rows of other measures only belong to those of these.

    Returns
    -------
    str
        A Markdown table; empty if there are no rows.

    Example
    -------
    >>> rows = [
    ...     make_row(Subspace("a"), measure="eer", value=0.2),
    ...     make_row(Subspace("b"), measure="eer", value=0.1),
    ... ]
    >>> print(pivot(rows, ["system", "subspace"], lambda row: "EER", ("eer",)))
    | system   | EER   |
    |----------|-------|
    | a        | 20.00 |
    | b        | 10.00 |
    """
    others = {identity(row, row["measure"]): row for row in rows}
    table, heads = {}, {}
    for row in select(rows, measure=measures):
        line, head = tuple(str(row[name]) for name in index), heading(row)
        heads[head] = None
        table.setdefault(line, {})[head] = format_cell(row, others)
    if not table:
        return ""
    shown = [
        place
        for place, values in enumerate(zip(*table))
        if place == 0 or len(set(values) - {""}) > 1
    ]
    return tabulate(
        [
            [*(line[i] for i in shown), *(cells.get(h, "-") for h in heads)]
            for line, cells in table.items()
        ],
        [*(index[i] for i in shown), *heads],
        tablefmt="github",
        disable_numparse=True,
    )


def write_results(folder, rows, about):
    """``results.csv``, the table, and ``results.json``, with what made it.

    Arguments
    ---------
    folder : str or Path
        Where to.
    rows : list of dict
        Of :func:`make_row`.
    about : dict
        What identifies the run, JSON-able.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_results(folder, [make_row(value=0.5)], {"seed": 1})
    >>> read_results(folder)["about"], read_results(folder)["rows"][0]["value"]
    ({'seed': 1}, 0.5)
    """
    rows = [row | {"run": row["run"] or str(folder)} for row in rows]
    write_csv(f"{folder}/results.csv", rows, COLUMNS)
    write_json(f"{folder}/results.json", {"about": about, "rows": rows})
    logger.info(f"Results written: {folder}/results.json, results.csv")


def read_results(folder):
    """What :func:`write_results` wrote: a dict of ``about`` and ``rows``."""
    path = Path(folder) / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))
