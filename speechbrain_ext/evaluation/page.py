"""``report.html``: all that a run found on one page, to read and listen to."""

import base64
import io
import re
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
import soundfile
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from speechbrain_ext.dataio.audio import audio_info, read_audio
from speechbrain_ext.evaluation.report import (
    CONDITIONS,
    LEGEND,
    SMOKE,
    choice_line,
    further_tables,
    main_table,
    notes,
)
from speechbrain_ext.evaluation.results import read_results, select
from speechbrain_ext.metrics.verification import check_trials, equal_error_rate
from speechbrain_ext.utils.errors import InputError
from speechbrain_ext.utils.files import read_csv, write_csv, write_text

# Start of a figure's file -> what it shows, and the task that it is of.
FIGURES = {
    "scores": ("Scores of target and non-target trials", "verification"),
    "det": ("Detection error trade-off", "verification"),
    "leakage": ("What a linear probe reads from each subspace", "leakage"),
    "speakers": ("t-SNE maps: a colour per speaker", ""),
}
MOST_WRONG = "most_wrong.csv"
RATE, SECONDS = 16000, 8  # of the audio in the page


def write_most_wrong(folder, tasks, dataset, ids, most=5):
    """The trials that are most wrong, to listen to: ``most_wrong.csv``.

    Of target trials those with the lowest scores and of others those with the
    highest, each utterance at most once, in the first condition. The scores
    are those of the reference or, without one, of the first system in its
    subspace of the factor. The threshold is that of equal error.

    Arguments
    ---------
    folder : str or Path
        Where to. Without verification what is there goes: it is of others.
    tasks : list
        Of :mod:`speechbrain_ext.evaluation.tasks`, after their calls.
    dataset : DynamicItemDataset
        The manifest.
    ids : sequence of str
        [N] name of each utterance.
    most : int
        Trials of each kind, of all lists together.

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> from speechbrain_ext.evaluation.results import Subspace
    >>> from speechbrain_ext.evaluation.tasks import Embedded, Verification
    >>> from speechbrain_ext.metrics.trials import generate_trials
    >>> from speechbrain_ext.utils.files import read_csv
    >>> task = Verification("speaker", generate_trials(list("aab")))
    >>> vectors = {Subspace("x", "speaker"): np.eye(2)[[0, 1, 1]]}
    >>> rows = task(Embedded("recorded", {"test": vectors}))
    >>> dataset = DynamicItemDataset({u: {"wav": f"{u}.wav"} for u in "123"})
    >>> folder = getfixture("tmp_path")
    >>> write_most_wrong(folder, [task], dataset, list("123"))
    >>> row = read_csv(folder / MOST_WRONG)[0]
    >>> row["kind"], row["score"], row["test_wav"]
    ('target', '0', '2.wav')
    """
    tasks = [task for task in tasks if task.name == "verification"]
    rows = []
    for task in tasks:
        condition, scores = next(iter(task.scores.items()))
        label, own = task.reference, task.factor
        # Of several the first
        origin = min(
            scores, key=lambda o: (o.label != label, o.subspace != own)
        )
        one, targets = check_trials(scores[origin], task.trials.label)
        threshold = equal_error_rate(one, targets)[1]
        for kind, costs, wanted in (
            ("target", one, targets),
            ("nontarget", -one, ~targets),
        ):
            order = np.flatnonzero(wanted)
            order = order[np.argsort(costs[order], kind="stable")]
            rows += [
                {
                    "list": task.columns["list"],
                    "condition": condition,
                    "system": origin.label,
                    "factor": own,
                    "kind": kind,
                    "score": f"{one[trial]:.7g}",
                    "threshold": f"{threshold:.7g}",
                }
                | _recording("enrol", dataset, ids[task.trials.enrol[trial]])
                | _recording("test", dataset, ids[task.trials.test[trial]])
                for trial in _apart(order, task.trials, most // len(tasks))
            ]
    if rows:
        write_csv(f"{folder}/{MOST_WRONG}", rows)
    else:
        Path(folder, MOST_WRONG).unlink(missing_ok=True)


def _recording(side, dataset, key):
    """An utterance of a trial, with what the manifest says of it."""
    row = {"wav": "", "start": "", "stop": ""} | dataset.data[key]
    skipped = ("duration", "split")
    return {side: key} | {
        f"{side}_{name}": value
        for name, value in row.items()
        if name not in skipped
    }


def _apart(order, trials, most):
    """The first trials, one at least, that have no utterance in common."""
    seen, chosen = set(), []
    for trial in order:
        pair = {trials.enrol[trial], trials.test[trial]}
        if not seen & pair:
            chosen.append(trial)
            seen |= pair
        if len(chosen) >= max(most, 1):
            break
    return chosen


def write_page(folder):
    """``report.html`` in the folder of a run: one file that needs no other.

    Made of what stands in the folder: ``results.json``, and of options, log,
    figures and most wrong trials those that there are. Audio is read where it
    was; where it no longer is, the page says so.

    Arguments
    ---------
    folder : str or Path
        The output folder of a training or an evaluation that has ended.

    Raises
    ------
    InputError
        If it holds no results.

    Example
    -------
    >>> from speechbrain_ext.evaluation.results import (
    ...     Subspace,
    ...     make_row,
    ...     write_results,
    ... )
    >>> folder = getfixture("tmp_path")
    >>> row = make_row(
    ...     Subspace("joint", encoder="mini"),
    ...     data="grid",
    ...     task="verification",
    ...     condition="recorded",
    ...     measure="eer",
    ...     value=0.1,
    ... )
    >>> write_results(folder, [row], {"seed": 1})
    >>> write_page(folder)
    >>> "<h1>Evaluation of mini on grid</h1>" in (
    ...     folder / "report.html"
    ... ).read_text()
    True
    """
    folder = Path(folder)
    try:
        found = read_results(folder)
        about, rows = found["about"], found["rows"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{folder} has no results.json that can be read ({error}): give "
            "the output folder of a train.py or evaluate.py that has ended"
        )
    script = "Training" if "grid" in about else "Evaluation"
    named = (
        " and ".join(dict.fromkeys(row[column] for row in rows if row[column]))
        for column in ("encoder", "data")
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=f"{script} of {' on '.join(named)}",
        smoke=SMOKE if about.get("smoke_run") else "",
        facts=[*_run_facts(folder), *_facts(about)],
        tables=_tables(rows),
        legend=LEGEND,
        notes=notes(rows),
        figures=_figures(folder, rows),
        wrong=_most_wrong(folder),
        seconds=SECONDS,
        files=_files(folder),
    )
    write_text(folder / "report.html", page)


def _run_facts(folder):
    """When, for how long, by which options and versions; (name, text) each."""
    log, options = folder / "log.txt", folder / "hyperparams.yaml"
    if log.is_file():
        # Of the last run in the folder
        text = log.read_text(encoding="utf-8", errors="replace")
        text = text.rpartition("Beginning experiment!")[2]
        times = re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text, re.M)
        if times:
            first, last = map(datetime.fromisoformat, (times[0], times[-1]))
            yield "begun", times[0]
            yield "took (h:mm:ss)", str(last - first)
    if options.is_file():
        # As save_hparams begins it
        text = options.read_text(encoding="utf-8", errors="replace")
        text = text.partition("# yamllint disable")[0]
        for name, mark in (
            ("option file", "From"),
            ("options given", "--"),
            ("versions", "With"),
        ):
            found = re.findall(rf"^# {mark} ?(.+)", text, re.M)
            if found:
                yield name, "; ".join(found)


def _facts(about):
    """What results.json says of a run, but for what is not set."""
    for name, value in about.items():
        if name == "chosen":
            value = "; ".join(choice_line(*one) for one in value.items())
        if name != "encoder_identity" and (text := _words(value)):
            yield name.replace("_", " "), text


def _words(value):
    """A value of results.json for readers; empty where nothing is set."""
    if isinstance(value, dict):
        named = {name: _words(one) for name, one in value.items()}
        return "; ".join(
            f"{name} ({text})"
            if isinstance(value[name], dict)
            else f"{name}: {text}"
            for name, text in named.items()
            if text
        )
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return "" if value is None else str(value)


def _tables(rows):
    """The tables of the report: (caption, headings, lines) each."""
    found, caption = [], "Main measures"
    parts = [main_table(rows), *further_tables(rows)]
    for part in "\n\n".join(parts).split("\n\n"):
        if not part.startswith("|"):
            caption = part
            continue
        heads, _, *lines = (
            [cell.strip() for cell in line.strip("|").split(" | ")]
            for line in part.splitlines()
        )
        found.append((caption, heads, lines))
    return found


def _figures(folder, rows):
    """The figures of this run: (caption, data, relative link) each."""
    found = []
    for start, (words, task) in FIGURES.items():
        for condition, where in CONDITIONS.items():
            # What no rows tell of is of an earlier run in the folder.
            of_it = select(rows, condition=condition)
            if not (select(of_it, task=task) if task else of_it):
                continue
            for path in sorted(folder.glob(f"{start}_*{condition}.png")):
                name = path.stem.removeprefix(start).removesuffix(condition)
                parts = words, where, name.strip("_")
                data = _data("image/png", path.read_bytes())
                caption = ", ".join(filter(None, parts))
                found.append((caption, data, quote(path.name)))
    return found


def _most_wrong(folder):
    """The most wrong trials of each kind: (heading, trials) each."""
    found = {}
    for row in read_csv(folder / MOST_WRONG):
        target, factor = row["kind"] == "target", row["factor"]
        kind = f"The same {factor}, lowest scores"
        if not target:
            kind = f"Another {factor}, highest scores"
        heading = (kind, row["system"], CONDITIONS[row["condition"]])
        score, threshold = float(row["score"]), float(row["threshold"])
        accepted = score > threshold
        trial = {
            "score": f"{score:.3f}",
            "threshold": f"{threshold:.3f}",
            "decision": f"{'accepted' if accepted else 'rejected'} "
            + ("(right)" if accepted == target else "(wrong)"),
            "sides": [_side(row, side) for side in ("enrol", "test")],
        }
        heading = ", ".join(filter(None, (*heading, row["list"])))
        found.setdefault(heading, []).append(trial)
    return [*found.items()]


def _side(row, side):
    """One recording of a trial: what the manifest says of it, and its audio."""
    about = {
        name.removeprefix(f"{side}_"): value
        for name, value in row.items()
        if name.startswith(f"{side}_") and value
    }
    key, wav = row[side], about.pop("wav")
    start, stop = (int(about.pop(name, 0)) for name in ("start", "stop"))
    shown = {"id": key, "audio": None, "said": _words(about)}
    try:
        info = audio_info(wav)
        last = start + SECONDS * info.samplerate
        wave = read_audio(key, wav, start, min(stop or info.frames, last), RATE)
    except InputError as error:
        return shown | {"missing": str(error)}
    file = io.BytesIO()
    soundfile.write(file, wave.numpy(), RATE, format="FLAC")
    return shown | {"audio": _data("audio/flac", file.getvalue())}


def _data(kind, content):
    """Bytes as an address that carries them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _files(folder):
    """What else is in the folder: (name, relative link) each."""
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name + "/" * path.is_dir()
        shown = path.suffix == ".png" or name == "report.html"
        if not (shown or name.startswith(".")):
            found.append((name, quote(name)))
    return found
