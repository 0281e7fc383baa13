"""What each command of the command line does: ``given -> exit status``."""

import contextlib
import itertools
import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import torch
from filelock import FileLock

from speechbrain_ext.dataio.manifest import (
    find_recordings,
    recordings_name,
    subset,
)
from speechbrain_ext.dataio.readers import LISTS
from speechbrain_ext.dataio.remote import is_remote, join
from speechbrain_ext.dataio.tar_shards import is_shards
from speechbrain_ext.evaluation.page import write_page
from speechbrain_ext.inference.enrolment import Enrolment, fingerprint
from speechbrain_ext.inference.export import check_place
from speechbrain_ext.inference.onnx_export import export_onnx
from speechbrain_ext.inference.recordings import (
    check_format,
    embed_in_parts,
    embed_recordings,
    read_vectors,
    write_vectors,
)
from speechbrain_ext.inference.subspaces import load_export
from speechbrain_ext.metrics.trials import cosine_scores, parse_trials
from speechbrain_ext.metrics.verification import sort_trials
from speechbrain_ext.processing.adaptation import RATES
from speechbrain_ext.utils.errors import InputError, one_line_errors
from speechbrain_ext.utils.files import check_new_file, write_lines
from speechbrain_ext.utils.hparams import installed_folder
from speechbrain_ext.utils.options import check_options, number, one_of, whole
from speechbrain_ext.utils.shards import SHARD

LEFT_OUT = 3  # exit status


def run(given):
    """Run the command that was given.

    Arguments
    ---------
    given : argparse.Namespace
        Of :func:`speechbrain_ext.cli.make_parser`.

    Returns
    -------
    int
        Exit status.
    """
    if sys.stdout:  # a terminal may lack letters of names
        sys.stdout.reconfigure(errors="backslashreplace")
    with one_line_errors():
        try:
            status = COMMANDS[given.command](given) or 0
            print(end="", flush=True)
            return status
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # as of | head; Python would write again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print("interrupted: nobody reads the output", file=sys.stderr)
            return 141


def show(given, result, text):
    """Print a result.

    Arguments
    ---------
    given : argparse.Namespace
        With ``json``.
    result : dict or list
        What is printed as JSON.
    text : str
        What is printed otherwise.
    """
    print(json.dumps(result) if given.json else text)


def load(given):
    """The export that was given."""
    return load_export(given.export, given.device, given.trust)


def find(given):
    """The recordings that were given."""
    first, *others = given.source
    for one in given.source if others else ():
        if Path(one).is_dir():
            raise InputError(
                f"{one} is a folder: give it alone, or audio files only"
            )
    listed = Path(first).suffix.lower() in {".csv", ".json", *LISTS}
    if not others and (listed or is_shards(first) or Path(first).is_dir()):
        return find_recordings(first, given.data_folder)
    return find_recordings(given.source)


def extraction(given):
    """Options of the encoding that were given."""
    options = {"batch_size": given.batch_size, "num_workers": given.workers}
    check_options(
        {"batch-size": given.batch_size, "workers": given.workers},
        {"batch-size": whole(1), "workers": whole(0)},
    )
    return options | {
        "progress": not given.quiet,
        "cache_folder": getattr(given, "cache_folder", None),
    }


def embed_readable(given, model, dataset):
    """Vectors of the recordings that can be read.

    Arguments
    ---------
    given : argparse.Namespace
        With the options of the encoding.
    model : speechbrain_ext.inference.subspaces.SubspaceEncoder
        The export.
    dataset : DynamicItemDataset
        The recordings.

    Returns
    -------
    made : Vectors
    unreadable : dict
        Of the others, ID -> why.
    """
    unreadable = {}
    made = embed_recordings(
        model,
        dataset,
        given.subspace,
        unreadable=unreadable,
        **extraction(given),
    )
    return made, unreadable


def list_left_out(unreadable):
    """Say which recordings cannot be read; the exit status."""
    for reason in unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    return LEFT_OUT if unreadable else 0


def find_threshold(given, model):
    """The threshold of a decision."""
    if given.threshold is not None:
        rule = {"threshold": number(-1, 1)}
        check_options({"threshold": given.threshold}, rule)
        return given.threshold
    return model.threshold(given.subspace, given.false_accepts)


def verify(given):
    """Score and decision of two files."""
    model = load(given)
    name = model.mods.embedding_model.choose_subspace(given.subspace)
    threshold = find_threshold(given, model)
    vectors = model.encode_file([given.a, given.b], name)[:, 0]
    score = cosine_scores(vectors, [0], [1]).item()
    same = score > threshold
    said = f"the same {name}" if same else f"not the same {name}"
    show(
        given,
        {"score": score, "threshold": threshold, "same": same},
        f"{said}: score {score:.3f}, threshold {threshold:.3f}",
    )


def embed(given):
    """Vectors of recordings, in a file."""
    check_options({"shard": given.shard}, {"shard": SHARD})
    out = Path(given.out)
    if given.shard:
        index, count = given.shard
        out = out.with_name(f"{out.stem}-{index}-of-{count}{out.suffix}")
    check_format(out)
    check_new_file(out, given.source)
    if out.exists():
        try:
            read_vectors(out)
        except InputError as error:
            raise InputError(f"{error}, and would be lost: give another --out")
    dataset = find(given)
    if given.shard:
        dataset = share(dataset, index, count)
    check_format(out, dataset.data)
    cache = Path(f"{out}.cache")  # until all is done
    unreadable, options = {}, {"in_spans": given.windows}
    parts = embed_in_parts(
        *(load(given), dataset, given.subspace),
        unreadable=unreadable,
        **extraction(given) | options | {"cache_folder": cache},
    )
    shape = list(write_vectors(out, parts, given.windows))
    shutil.rmtree(cache, ignore_errors=True)
    show(
        given,
        {"out": str(out), "shape": shape, "left_out": unreadable},
        f"{out}: {shape[0]} vectors of {shape[1]} numbers",
    )
    return list_left_out(unreadable)


def share(dataset, index, count):
    """One of several shares of recordings, which together are all, in order.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The recordings.
    index, count : int
        Which share, from 0 on, and how many there are.

    Returns
    -------
    DynamicItemDataset
    """
    ids = list(dataset.data)
    first, last = (len(ids) * n // count for n in (index, index + 1))
    if first == last:
        raise InputError(
            f"Shard [{index}, {count}] is empty: there are {len(ids)} "
            "recordings, ask for no more shards"
        )
    return subset(dataset, ids[first:last])


def score(given):
    """Scores of the pairs of a trial list."""
    found = parse_trials(given.trials, labelled=False)
    if given.out:
        check_new_file(given.out, filter(None, [given.trials, given.vectors]))
    if given.vectors and (given.subspace or given.export != "packaged"):
        raise InputError(
            "--vectors are of the export and subspace that embed was given: "
            "leave out --export and --subspace, or --vectors"
        )
    if given.vectors:
        ids, vectors = read_vectors(given.vectors)
    else:
        ids, vectors = embed_names(given, found.names)
    trials = found.on(ids)
    scores = trials.score(vectors)
    lines = scored_lines(found, scores)
    result = {"trials": len(trials)}
    if trials.label is not None and 0 < trials.label.mean() < 1:
        ranked = sort_trials(scores, trials.label)
        result["eer"] = ranked.equal_error_rate()[0]
        result["min_dcf"] = ranked.min_dcf()
    if given.out:
        write_lines(given.out, lines)
    elif not given.json:
        for line in lines:
            print(line)
    words = f"{len(trials)} trials"
    if "eer" in result:
        words += f", EER {100 * result['eer']:.2f} %"
        words += f", minDCF {result['min_dcf']:.3f}"
    if given.json:
        scored = {} if given.out else {"scores": scores.tolist()}
        print(json.dumps(result | scored))
    else:
        print(words, file=sys.stderr)


def scored_lines(found, scores):
    """Lines of a trial list, each with its score at the end."""
    names, trials = found.names, found.trials
    labels = itertools.repeat("")
    if trials.label is not None:
        labels = (f"{label} " for label in trials.label)
    for label, enrol, test, score in zip(
        labels, trials.enrol, trials.test, scores
    ):
        yield f"{label}{names[enrol]} {names[test]} {score:.7g}"


def embed_names(given, names):
    """Names in a trial list, and the vectors of these files."""
    # Two names may be of one file, as a.wav and ./a.wav.
    keys = [join(given.data_folder or ".", name) for name in names]
    made = embed_recordings(
        load(given), find_recordings(keys), given.subspace, **extraction(given)
    )
    row = {key: n for n, key in enumerate(made.ids)}
    return names, made.vectors[[row[key] for key in keys]]


def enrol(given):
    """Recordings of a name, in a store."""
    check_new_file(given.store)
    model = load(given)
    mark = fingerprint(model, given.subspace)
    Enrolment.load(given.store, mark)  # what is wrong is said now
    dataset = find(given)
    made, unreadable = embed_readable(given, model, dataset)
    with FileLock(f"{given.store}.lock"):  # of others nothing is lost
        enrolment = Enrolment.load(given.store, mark)
        clips = [clip_name(dataset.data[key]) for key in made.ids]
        enrolment.enrol(given.name, clips, made.vectors)
        enrolment.save(given.store)
    count = enrolment.names.count(given.name)
    people = len(set(enrolment.names))
    show(
        given,
        {"name": given.name, "clips": count, "left_out": unreadable},
        f"{given.store}: {count} clips of {given.name}, {people} names in all",
    )
    return list_left_out(unreadable)


def clip_name(row):
    """What a store calls a recording: the same however it was given."""
    segment = [str(row[name]) for name in ("start", "stop") if name in row]
    wav = row["wav"]
    wav = wav if is_remote(wav) else os.path.realpath(wav)
    return " ".join([wav, *segment])


def identify(given):
    """The enrolled name of each recording, or none."""
    if not Path(given.store).is_file():
        raise InputError(
            f"There is no store {given.store}: make one with interventional "
            "enrol STORE NAME FILES"
        )
    model = load(given)
    enrolment = Enrolment.load(given.store, fingerprint(model, given.subspace))
    threshold = find_threshold(given, model)
    made, unreadable = embed_readable(given, model, find(given))
    names, scores = enrolment.identify(made.vectors, threshold)
    found = [
        {"id": key, "name": name, "score": one, "threshold": threshold}
        for key, name, one in zip(made.ids, names, scores.tolist())
    ]
    lines = [
        f"{row['id']}: {row['name'] or 'nobody enrolled'} "
        f"(score {row['score']:.3f}, threshold {threshold:.3f})"
        for row in found
    ]
    show(given, found, "\n".join(lines))
    return list_left_out(unreadable)


def adapt(given):
    """An export that is fitted to recordings."""
    check_options(
        {"false-accepts": given.false_accepts},
        {"false-accepts": one_of(*RATES)},
    )
    check_place(given.out)
    dataset = find_recordings(given.source, given.data_folder)
    model = load(given).adapt(
        dataset,
        name=recordings_name(given.source),
        false_accepts=given.false_accepts,
        **extraction(given),
    )
    model.save(given.out)
    tell_new(given, model)


def calibrate(given):
    """An export whose threshold is that of labelled pairs."""
    check_place(given.out)
    root, found = Path(given.data_folder or "."), parse_trials(given.trials)
    paths, trials = [root / name for name in found.names], found.trials
    pairs = [
        (paths[enrol], paths[test], label == 1)
        for enrol, test, label in zip(trials.enrol, trials.test, trials.label)
    ]
    model = load(given).calibrate(pairs, given.subspace, **extraction(given))
    model.save(given.out)
    tell_new(given, model)


def tell_new(given, model):
    """Say what a new export decides by."""
    thresholds = model.hparams.thresholds
    lines = [f"{name} {value:.3f}" for name, value in thresholds.items()]
    show(
        given,
        {"out": given.out, "thresholds": thresholds},
        f"{given.out}: thresholds {', '.join(lines)}",
    )


def evaluate(given):
    """The recipe's evaluation, on any recordings."""
    folder = installed_folder(
        "post_training",
        "recipes/InterventionalTTS/post-training",
        "evaluate.py",
    )
    sys.argv = [
        *("evaluate.py", str(folder / "hparams" / "evaluate.yaml")),
        *("--export_folder", given.export, "--data_folder", given.folder),
        *("--output_folder", given.out, *given.further),
        *(["--device", given.device] if given.device else []),
        *(["--trust=True"] if given.trust else []),
    ]
    sys.path.insert(0, str(folder))
    # Its log and its table are no JSON.
    with contextlib.redirect_stdout(sys.stderr if given.json else sys.stdout):
        runpy.run_path(str(folder / "evaluate.py"), run_name="__main__")
    if given.json:
        print((Path(given.out) / "results.json").read_text(encoding="utf-8"))


def info(given):
    """What an export is."""
    given.export = given.export or "packaged"
    model = load(given)
    hparams, module = model.hparams, model.mods.embedding_model
    made = module.embed(torch.zeros(1, hparams.sample_rate).to(model.device))
    known = {
        "name": hparams.name,
        "encoder": hparams.encoder_label,
        "sample_rate": hparams.sample_rate,
        "layers": module.layers,
        "subspaces": {name: one.shape[1] for name, one in made.items()},
        "thresholds": hparams.thresholds,
        "threshold_origin": hparams.threshold_origin,
        "false_accepts": hparams.false_accepts,
        "calibration": hparams.calibration,
    }
    lines = [
        f"{hparams.name}, on {hparams.encoder_label}, layers "
        f"{', '.join(map(str, module.layers))}, at {hparams.sample_rate} Hz"
    ]
    for name, width in known["subspaces"].items():
        line = f"{name}: {width} dimensions"
        if name in hparams.thresholds:
            pairs = name in hparams.calibration
            origin = "pairs" if pairs else hparams.threshold_origin
            line += f", threshold {hparams.thresholds[name]:.3f} of {origin}"
        if name in hparams.false_accepts:
            rates = map(str, hparams.false_accepts[name])
            line += f", false acceptance of {', '.join(rates)}"
        lines.append(line)
    show(given, known, "\n".join(lines))


def export(given):
    """Encoder and subspaces in one ONNX file."""
    export_onnx(load(given), given.onnx)
    show(given, {"out": given.onnx}, f"{given.onnx}: written, and checked")


def push(given):
    """An export on the hub."""
    model = load(given)
    pushed = model.push_to_hub(
        given.repo, licence=given.licence, private=given.private
    )
    show(given, {"pushed": pushed}, pushed)


def report(given):
    """The page of a finished run."""
    write_page(given.folder)
    print(f"{given.folder}/report.html")


COMMANDS = {
    command.__name__: command
    for command in (verify, embed, score, enrol, identify, adapt, calibrate)
    + (evaluate, info, export, push, report)
}
