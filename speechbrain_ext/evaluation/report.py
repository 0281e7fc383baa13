"""The report of a run: what a reader wants to see of its results."""

from speechbrain_ext.evaluation.results import (
    SHOWN,
    format_number,
    pivot,
    select,
)
from speechbrain_ext.utils.files import write_text

# The tasks whose main measure stands in the first table.
MAIN = {"verification": "eer", "content": "accuracy", "keywords": "accuracy"}
CONDITIONS = {"recorded": "as recorded", "channels": "across channels"}
LEVEL = 0.05  # of significance
SMOKE = "SMOKE RUN (--debug): the numbers mean nothing."
SYSTEM = ["system", "subspace", "seed", "encoder", "layers"]
LEGEND = """\
Across channels: each clip goes through a random channel of its own, also those
that classifiers, cohorts and statistics are estimated on. EER: verification by
scores of pairs. Content: the nearest neighbour of another speaker says the
same. In brackets: 95 % over speakers; *: the paired difference to the reference
excludes 0; ±: deviation over seeds."""


def heading(row):
    """Title of a row's measure and condition, for a column of a table.

    Example
    -------
    >>> heading(
    ...     {"task": "content", "measure": "accuracy", "condition": "channels"}
    ... )
    'content %, across channels'
    """
    measure, task = row["measure"], row["task"]
    if task in MAIN and measure == "accuracy":
        title = f"{task} %"
    elif measure in SHOWN:
        title = SHOWN[measure][0]
    else:
        title = f"{measure.replace('_', ' ')} %"
    across = row["condition"] == "channels" and measure != "dimension"
    return title + (f", {CONDITIONS['channels']}" if across else "")


def choice_line(factor, chosen):
    """What was chosen for a factor, in a line.

    Arguments
    ---------
    factor : str
        The factor.
    chosen : dict
        Of :meth:`speechbrain_ext.processing.choice.Choice.on_grid`.

    Returns
    -------
    str

    Example
    -------
    >>> choice_line(
    ...     "speaker",
    ...     {"layers": [0, 1], "shrinkage": 0.3, "dims": 60, "eer": 0.0472},
    ... )
    'speaker: layers 0+1, shrinkage 0.3, 60 dimensions (EER 4.7 % on the \
validation grid)'
    """
    layers = "+".join(map(str, chosen["layers"]))
    error = f"EER {100 * chosen['eer']:.1f} % on the validation grid"
    if "recordings_eer" in chosen:
        own = 100 * chosen["recordings_eer"]
        error += f", layers {own:.1f} % on unlabelled recordings"
    return (
        f"{factor}: layers {layers}, shrinkage {chosen['shrinkage']:g}, "
        f"{chosen['dims']} dimensions ({error})"
    )


def _leakage_heading(row):
    kinds = {"accuracy": "probe %", "eer": "EER %", "variance": "variance %"}
    return f"{row['target']} {kinds[row['measure']]}"


def main_table(rows):
    """The main measures of all systems in all conditions.

    Arguments
    ---------
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.

    Returns
    -------
    str
        A Markdown table, a line per system and subspace; of several trial
        lists one table each.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> print(
    ...     main_table(
    ...         [
    ...             make_row(
    ...                 Subspace("joint"),
    ...                 task="verification",
    ...                 condition="recorded",
    ...                 measure="eer",
    ...                 value=0.1,
    ...             )
    ...         ]
    ...     )
    ... )
    | system   | EER %   |
    |----------|---------|
    | joint    | 10.00   |
    """
    # A dimension is the same in all conditions.
    table = select(rows, task="", measure="dimension")
    table = [row for row in table if row["condition"] == table[0]["condition"]]
    for task in MAIN:
        table += select(rows, task=task, group="")
    measures = ("dimension", "eer", "min_dcf", "accuracy")
    lists = trial_lists(rows)
    if len(lists) < 2:
        return pivot(table, SYSTEM, heading, measures)
    # What is of no list stands in the table of each.
    return "\n\n".join(
        f"Trials: {path}\n\n"
        + pivot(select(table, list=("", path)), SYSTEM, heading, measures)
        for path in lists
    )


def trial_lists(rows):
    """Trial lists that rows of verification are of, "" where none was given.

    Example
    -------
    >>> trial_lists([{"task": "verification", "list": "veri_test2.txt"}])
    ['veri_test2.txt']
    """
    named = (row["list"] for row in select(rows, task="verification"))
    return list(dict.fromkeys(named))


def further_tables(rows):
    """Tables of groups of trials, more measures of keywords, and leakage.

    Arguments
    ---------
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.

    Returns
    -------
    list of str
        Markdown tables with a title, those that there are.
    """
    grouped = [r for r in select(rows, task="verification") if r["group"]]
    words = select(rows, task="keywords")
    decisions = ("false_accepts", "false_rejects")
    ratios = ("cllr", "min_cllr", "actual_dcf", "min_dcf")
    parts = [
        (
            "Decisions by the thresholds of the exports",
            pivot(
                select(rows, task="verification", measure=decisions),
                [*SYSTEM, "list"],
                heading,
                decisions,
            ),
        ),
        (
            "Costs of log-likelihood ratios as they are (Cllr, actual DCF) and "
            "at best (minCllr, minDCF)",
            pivot(
                select(rows, task="verification", measure=ratios),
                [*SYSTEM, "list"],
                heading,
                ratios if select(rows, measure="cllr") else ("min_cllr",),
            ),
        ),
        (
            "Groups of trials",
            pivot(
                grouped,
                ["group", "list", *SYSTEM],
                heading,
                ("eer", "miss", "false_alarm"),
            ),
        ),
        (
            "Keywords, classes alike",
            pivot(words, SYSTEM, heading, ("balanced_accuracy", "macro_f1")),
        ),
    ]
    for condition, where in CONDITIONS.items():
        # Variance of no factor alone is in the file only.
        leakage = select(rows, task="leakage", condition=condition, group="")
        measures = ("accuracy", "eer", "variance")
        parts.append(
            (
                f"Leakage, {where}: a factor read from each subspace",
                pivot(leakage, SYSTEM, _leakage_heading, measures),
            )
        )
    return [f"{title}\n\n{table}" for title, table in parts if table]


def notes(rows):
    """Numbers of trials and utterances, chance, and what is not separate.

    Arguments
    ---------
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.

    Returns
    -------
    list of str
        Lines of text.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import make_row
    >>> notes(
    ...     [
    ...         make_row(
    ...             task="content",
    ...             measure="chance",
    ...             target="content",
    ...             condition="recorded",
    ...             value=0.25,
    ...             n=8,
    ...         )
    ...     ]
    ... )
    ['content of content: chance 25.0 %, 8 utterances']
    """
    lines = {}
    several = len(trial_lists(rows)) > 1
    for row in select(rows, task="verification", group="", measure="miss"):
        asked = {
            name: row[name] for name in ("task", "group", "target", "list")
        }
        others = select(rows, **asked, measure="false_alarm")
        lines[
            f"verification of {row['target']}"
            + f" ({row['list']})" * several
            + f": {row['n']} target trials, {others[0]['n']} others"
        ] = None
    for row in select(rows, measure="chance"):
        asked = {name: row[name] for name in ("task", "target", "condition")}
        most = select(rows, measure="majority", **asked)
        lines[
            f"{row['task']} of {row['target']}: chance "
            f"{format_number(row['value'])} %"
            + "".join(f", majority {format_number(m['value'])} %" for m in most)
            + f", {row['n']} utterances"
        ] = None
    return [*lines, *significant(rows), *not_separate(rows)]


def significant(rows):
    """Which systems tell keywords otherwise than the reference, by McNemar.

    Arguments
    ---------
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.

    Returns
    -------
    list of str
        A line per condition.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> rows = [
    ...     make_row(
    ...         Subspace(name),
    ...         measure="mcnemar_p",
    ...         value=p,
    ...         task="keywords",
    ...         condition="recorded",
    ...     )
    ...     for name, p in (("joint", 0.001), ("pca", 0.5))
    ... ]
    >>> significant(rows)[0].split("; ")[1:]
    ['p below 0.05: joint (0.001)', 'others: pca (0.500)']
    """
    found = {}
    tests = select(rows, measure="mcnemar_p")
    several = len({row["seed"] for row in tests} - {""}) > 1
    for row in tests:
        name = f"{row['system']} {row['subspace']}".strip()
        name += f" of seed {row['seed']}" if several and row["seed"] else ""
        kinds = found.setdefault(row["condition"], ([], []))
        kinds[row["value"] >= LEVEL].append(f"{name} ({row['value']:.3f})")
    return [
        f"keywords {CONDITIONS[condition]} against the reference, McNemar's "
        "test (clips as independent: * is over speakers, and to be preferred)"
        f"; p below {LEVEL}: {', '.join(below) or 'none'}; others: "
        f"{', '.join(others) or 'none'}"
        for condition, (below, others) in found.items()
    ]


def not_separate(rows):
    """Where a subspace tells another factor as well as that one's own does.

    "As well" is not worse than the own subspace's value or, where there is
    one, than the worse end of its interval.

    Arguments
    ---------
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.

    Returns
    -------
    list of str
        One warning per case.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> rows = [make_row(Subspace("joint", name), task="verification",
    ...             target="speaker", condition="recorded", measure="eer",
    ...             value=value)
    ...         for name, value in (("speaker", 0.2), ("content", 0.19))]
    >>> print(*not_separate(rows))
    NOT SEPARATE: joint content tells speaker as well as joint speaker does \
as recorded (verification, eer 19.0 and 20.0 %)
    """
    warnings = []
    told = select(rows, measure=("eer", "accuracy"), group="")
    several = len({row["seed"] for row in told} - {""}) > 1
    for own in told:
        if own["target"] != own["subspace"]:
            continue
        same = ("system", "seed", "layers", "encoder", "condition", "task")
        same = {n: own[n] for n in (*same, "list", "target", "measure")}
        less = own["measure"] == "eer"
        bound = own["high" if less else "low"]
        bound = own["value"] if bound == "" else bound
        for other in select(told, **same):
            value = other["value"]
            if other is own or (value > bound if less else value < bound):
                continue
            seed = f" (seed {own['seed']})" if several else ""
            subspaces = [
                f"{row['system']} {row['subspace']}{seed}"
                for row in (other, own)
            ]
            values = [format_number(row["value"]) for row in (other, own)]
            warnings.append(
                f"NOT SEPARATE: {subspaces[0]} tells {own['target']} as well "
                f"as {subspaces[1]} does {CONDITIONS[own['condition']]} "
                f"({own['task']}, {own['measure']} {' and '.join(values)} %)"
            )
    return warnings


def write_report(folder, rows, header=()):
    """``report.txt`` in a folder, and the same on the screen.

    Arguments
    ---------
    folder : str or Path
        Where to.
    rows : list of dict
        Of :mod:`speechbrain_ext.evaluation.results`.
    header : sequence of str
        Lines above the tables, on what was evaluated.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> row = make_row(
    ...     Subspace("joint"),
    ...     task="verification",
    ...     condition="recorded",
    ...     measure="eer",
    ...     value=0.1,
    ... )
    >>> write_report(getfixture("tmp_path"), [row], ["encoder: log_mel"])
    ... # doctest: +ELLIPSIS
    encoder: log_mel
    <BLANKLINE>
    ...
    """
    parts = ["\n".join(header), main_table(rows), *further_tables(rows)]
    parts += ["\n".join(notes(rows)), LEGEND]
    text = "\n\n".join(filter(None, parts)) + "\n"
    write_text(f"{folder}/report.txt", text)
    print(text)
