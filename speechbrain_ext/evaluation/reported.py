"""What the paper reports, beside what a run measured.

J. Cox, J. Barker, "Learning task-specific subspaces via interventional
post-training of speech foundation models", Interspeech 2026, arXiv 2606.17967:
means of five seeds, read in digests of the paper and not in the paper itself.
"""

from tabulate import tabulate

from speechbrain_ext.evaluation.results import (
    DEVIATION,
    format_number,
    identity,
    select,
)

# Encoder -> (task, system, subspace) -> percent
REPORTED = {
    "hubert_base": {
        ("verification", "baseline", ""): 36.4,
        ("verification", "speaker_only", "speaker"): 26.9,
        ("verification", "joint", "speaker"): 27.2,
        ("keywords", "baseline", ""): 95.7,
        ("keywords", "joint", "content"): 89.7,
    },
    "wavlm_base": {
        ("verification", "baseline", ""): 38.7,
        ("verification", "speaker_only", "speaker"): 24.6,
        ("verification", "joint", "speaker"): 24.7,
        ("keywords", "baseline", ""): 96.9,
        ("keywords", "joint", "content"): 93.0,
    },
}
MEASURES = {"verification": "eer", "keywords": "accuracy"}
# Trials of VoxCeleb1's cleaned list; test clips of Speech Commands v0.01
# without silence.
COUNTS = {"verification": 37611, "keywords": 6835}
SYSTEMS = ("baseline", "joint", "speaker_only", "content_only")
TITLE = """\
As reported (secondary source: digests of arXiv 2606.17967) and in this run,
percent; "within 2 sd": of this run's deviations over seeds."""


def reported_table(rows, about):
    """What the paper reports for the systems of one evaluation.

    Arguments
    ---------
    rows : list of dict
        Of an evaluation, see :mod:`speechbrain_ext.evaluation.results`; of
        several seeds their mean.
    about : dict
        Its ``protocol``: only the published one is comparable.

    Returns
    -------
    str
        A Markdown table with a title: all subspaces of the paper's systems,
        matched and mismatched. Empty if the run is not comparable: another
        encoder, layer, protocol, list of trials or set of clips.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import Subspace, make_row
    >>> row = make_row(
    ...     Subspace("joint", "speaker", "wavlm_base", "12", 1),
    ...     task="verification",
    ...     condition="recorded",
    ...     backend="cosine",
    ...     measure="eer",
    ...     value=0.25,
    ...     n=37611,
    ... )
    >>> about = {"protocol": "published"}
    >>> print(reported_table([row], about).splitlines()[-1])
    | verification EER | joint    | speaker    | 24.7          | 25.0       \
| +0.3         | -             |
    """
    if about["protocol"] != "published":
        return ""
    deviations = {identity(row, row["measure"]): row["value"] for row in rows}
    lines = []
    for task, measure in MEASURES.items():
        for row in select(rows, task=task, measure=measure, system=SYSTEMS):
            known = REPORTED.get(row["encoder"], {})
            comparable = row["layers"] == "12" and row["group"] == ""
            if not (known and comparable and row["n"] == COUNTS[task]):
                continue
            key = task, row["system"], row["subspace"]
            deviation = deviations.get(identity(row, measure + DEVIATION))
            lines.append(_line(task, row, known.get(key), deviation))
    if not lines:
        return ""
    heads = ("task", "system", "subspace", "as reported", "this run")
    heads += ("difference", "within 2 sd")
    table = tabulate(lines, heads, tablefmt="github", disable_numparse=True)
    return f"{TITLE}\n\n{table}"


def _line(task, row, reported, deviation):
    """Cells of one row, as percent."""
    ours = format_number(row["value"])
    if deviation is not None:
        ours += f" ± {format_number(deviation)}"
    difference = within = "-"
    if reported is not None:
        away = 100 * row["value"] - reported
        difference = f"{away:+.1f}"
        if deviation is not None:
            within = "yes" if abs(away) <= 200 * deviation else "no"
    kind = {"verification": "EER", "keywords": "accuracy"}[task]
    return (
        f"{task} {kind}",
        row["system"],
        row["subspace"],
        format_number(reported, 1),
        ours,
        difference,
        within,
    )
