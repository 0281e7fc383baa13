"""Numbers of a run as one nested dictionary, a table and a JSON file.

The dictionary has the layout::

    {"encoder": ..., "grid": {"factors": {name: count}, "utterances": n},
     "systems": {system: {"subspaces": {name: {
         "dim": ...,
         condition: {"verification": {"eer", "min_dcf", "trials"},
                     "content": {"accuracy", "chance"}}}}}}}

with the conditions ``clean`` (as recorded) and ``shifted`` (each clip through
a channel of its own), and rates as fractions.
"""

import json
import math

from speechbrain_ext.evaluation.arrays import to_matrix
from speechbrain_ext.evaluation.content import content_accuracy, nearest_value
from speechbrain_ext.evaluation.verification import equal_error_rate, min_dcf
from speechbrain_ext.utils.files import replacing


def evaluate_subspaces(embeddings, speakers, contents, trials, resamples=None):
    """Verification and content accuracy in each subspace.

    Arguments
    ---------
    embeddings : dict of str to array or torch.Tensor
        Subspace to its vectors [N, D].
    speakers : sequence
        [N] speaker of each utterance.
    contents : sequence
        [N] content of each utterance.
    trials : Trials
        Trials on the same N rows.
    resamples : SpeakerResamples, optional
        Of the same N rows; adds ``interval``, the 95 % interval of EER and of
        accuracy ([low, high]), see
        :class:`speechbrain_ext.evaluation.uncertainty.SpeakerResamples`.

    Returns
    -------
    results : dict
        ``{subspace: {"verification": {"eer", "min_dcf", "trials"},
        "content": {"accuracy", "chance"}}}``; rates are fractions, minDCF is
        normalised (p_target 0.01).

    Raises
    ------
    InputError
        On NaN embeddings or labels that do not fit.

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_ext.evaluation.verification import generate_trials
    >>> speakers, contents = ["a", "a", "b", "b"], [1, 2, 1, 2]
    >>> trials = generate_trials(speakers, contents)
    >>> results = evaluate_subspaces(
    ...     {"speaker": np.eye(2)[[0, 0, 1, 1]]}, speakers, contents, trials)
    >>> results["speaker"]["verification"]
    {'eer': 0.0, 'min_dcf': 0.0, 'trials': 4}
    >>> results["speaker"]["content"]
    {'accuracy': 0.5, 'chance': 0.5}
    """
    results = {}
    for name, vectors in embeddings.items():
        vectors = to_matrix(vectors, f"subspace {name}")
        scores = trials.score(vectors)
        results[name] = {
            "verification": {
                "eer": equal_error_rate(scores, trials.label)[0],
                "min_dcf": min_dcf(scores, trials.label),
                "trials": len(trials),
            },
            "content": content_accuracy(vectors, contents, speakers),
        }
        if resamples is not None:
            correct = nearest_value(vectors, contents, speakers)
            for measure, draws in (
                ("verification", resamples.eer(scores, trials)),
                ("content", resamples.accuracy(correct)),
            ):
                interval = resamples.interval(draws)
                results[name][measure]["interval"] = interval
    return results


def evaluate_system(conditions, speakers, contents, trials, resamples=None):
    """The entry of one system in ``results["systems"]``.

    Arguments
    ---------
    conditions : dict of str to dict
        Condition (``clean``, ``shifted``) to subspace to vectors [N, D]; all
        conditions have the same subspaces and the same N utterances.
    speakers : sequence
        [N] speaker of each utterance.
    contents : sequence
        [N] content of each utterance.
    trials : Trials
        Trials on the same N rows.
    resamples : SpeakerResamples, optional
        Of the same N rows; adds ``interval``, the 95 % interval of EER and of
        accuracy ([low, high]), see
        :class:`speechbrain_ext.evaluation.uncertainty.SpeakerResamples`.

    Returns
    -------
    system : dict
        ``{"subspaces": {name: {"dim", condition: {...}, ...}}}``

    Example
    -------
    >>> import numpy as np
    >>> from speechbrain_ext.evaluation.verification import generate_trials
    >>> speakers, contents = ["a", "a", "b", "b"], [1, 2, 1, 2]
    >>> trials = generate_trials(speakers, contents)
    >>> vectors = {"speaker": np.eye(2)[[0, 0, 1, 1]]}
    >>> system = evaluate_system({"clean": vectors}, speakers, contents, trials)
    >>> list(system["subspaces"]["speaker"])
    ['dim', 'clean']
    """
    subspaces = {}
    for condition, embeddings in conditions.items():
        results = evaluate_subspaces(
            embeddings, speakers, contents, trials, resamples
        )
        for name, result in results.items():
            dim = int(embeddings[name].shape[-1])
            subspaces.setdefault(name, {"dim": dim})[condition] = result
    return {"subspaces": subspaces}


def _get(tree, *keys):
    """Value at a path of keys, None where the path ends early."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def format_number(value, scale=1, digits=2):
    """A number as text, "-" for None and NaN; ``scale`` None: as it is.

    Example
    -------
    >>> format_number(0.1234, 100, 1), format_number(None)
    ('12.3', '-')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value) if scale is None else f"{value * scale:.{digits}f}"


def align_columns(rows, header, left=2):
    """Rows of strings as lines: the first columns left, the rest right.

    Example
    -------
    >>> print(align_columns([["a", "b", "1"]], ["system", "x", "n"]))
    system  x  n
    ------------
    a       b  1
    """
    table = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def format_table(results):
    """One plain-text table of all systems and subspaces.

    Arguments
    ---------
    results : dict
        As described at the top of the module; what is missing prints as "-".

    Returns
    -------
    table : str
        One line a system and subspace, two columns a measure: clean and
        shifted. EER and content accuracy in percent; the chance level of the
        content accuracy stands below.

    Example
    -------
    >>> measured = {"verification": {"eer": 0.1, "min_dcf": 0.5, "trials": 9},
    ...             "content": {"accuracy": 0.25, "chance": 0.125}}
    >>> print(format_table({"encoder": "log_mel", "systems": {"joint": {
    ...     "subspaces": {"speaker": {"dim": 384, "clean": measured}}}}}))
    encoder: log_mel
    <BLANKLINE>
    system  subspace  dim  EER %  shifted  minDCF  shifted  content %  shifted
    --------------------------------------------------------------------------
    joint   speaker   384  10.00        -   0.500        -       25.0        -
    <BLANKLINE>
    9 trials; content accuracy by chance: 12.5 %
    shifted: each clip through a random channel of its own
    """
    header = ["system", "subspace", "dim", "EER %", "shifted", "minDCF"]
    header += ["shifted", "content %", "shifted"]
    rows, notes = [], {}
    for system, entry in results.get("systems", {}).items():
        for name, subspace in entry.get("subspaces", {}).items():
            row = [system, name, format_number(subspace.get("dim"), None)]
            for path, scale, digits in (
                (("verification", "eer"), 100, 2),
                (("verification", "min_dcf"), 1, 3),
                (("content", "accuracy"), 100, 1),
            ):
                for condition in ("clean", "shifted"):
                    value = _get(subspace, condition, *path)
                    row.append(format_number(value, scale, digits))
            rows.append(row)
            trials = _get(subspace, "clean", "verification", "trials")
            chance = _get(subspace, "clean", "content", "chance")
            if trials is not None and chance is not None:
                notes[
                    f"{trials} trials; content accuracy by chance: "
                    f"{100 * chance:.1f} %"
                ] = None
    lines = []
    if results.get("encoder") is not None:
        lines = [f"encoder: {results['encoder']}", ""]
    lines += [align_columns(rows, header), "", *notes]
    lines.append("shifted: each clip through a random channel of its own")
    return "\n".join(lines)


def to_json(obj):
    """Plain Python of an object with arrays; NaN and infinity become None.

    Example
    -------
    >>> import numpy as np
    >>> to_json({"eer": np.float32("nan"), 3: (np.int64(1), np.arange(2))})
    {'eer': None, '3': [1, [0, 1]]}
    """
    if isinstance(obj, dict):
        return {str(key): to_json(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_json(value) for value in obj]
    if hasattr(obj, "tolist"):  # numpy and torch, scalars included
        return to_json(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


def write_json(path, obj):
    """Write an object as JSON: atomically, and with null in place of NaN.

    Arguments
    ---------
    path : str or pathlib.Path
        File to write; it is replaced only when the new one is complete.
    obj : dict or list
        May contain numpy and torch scalars and arrays.

    Example
    -------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "results.json"
    >>> write_json(path, {"eer": float("nan")})
    >>> json.loads(path.read_text())
    {'eer': None}
    """
    text = json.dumps(to_json(obj), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
