"""The command line ``interventional``: its commands and their options."""

import argparse
import json
import sys

from speechbrain_ext import __version__

DESCRIPTION = """\
Embed and compare recordings in the speaker or the content subspace of a frozen
speech encoder.

  interventional verify a.wav b.wav
  interventional embed FOLDER --out vectors.npz
"""
STATUS = """\
exit status: 0 done; 1 bad input, in one line; 2 wrong usage; 3 done, but for
recordings that cannot be read, which are listed
"""
EXPORT = (
    "a folder that a training left, a hub id (with @REVISION if wanted), or "
    "packaged, the ready model that comes with this package"
)
SOURCE = (
    "audio files or WebDataset shards, or one folder, list of files, manifest "
    "or Kaldi folder"
)


def add_command(commands, name, help, examples, positionals=(), export=True):
    """A command with its examples and the options that many have.

    Arguments
    ---------
    commands : argparse._SubParsersAction
        Where to.
    name, help : str
        Of the command.
    examples : str
        Lines after ``interventional``.
    positionals : sequence of tuple
        (name, help[, nargs]).
    export : bool
        Whether the export is an option; else it is the first argument.

    Returns
    -------
    argparse.ArgumentParser
    """
    lines = [f"  interventional {line}" for line in examples.splitlines()]
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="\n".join(["examples:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if export:
        parser.add_argument(
            "--export", default="packaged", help=f"{EXPORT} (the default)"
        )
    for one, text, *nargs in positionals:
        parser.add_argument(one, help=text, nargs=nargs[0] if nargs else None)
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON"
    )
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run whatever the export names: only of authors that you trust",
    )
    return parser


def add_subspace(parser):
    """The option which subspace."""
    parser.add_argument(
        "--subspace", help="e.g. speaker or content; default: the export's own"
    )


def add_batches(parser, cache=True):
    """Options of commands that encode many recordings."""
    parser.add_argument(
        "--data-folder",
        default=None,
        help="what paths in a manifest, list or trials start from",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="recordings at a time (32)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read audio (0)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    if cache:
        parser.add_argument(
            "--cache-folder",
            help="keep what is encoded, for later calls; default: forget it",
        )


def add_decision(parser):
    """Options that choose a threshold."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--false-accepts",
        type=float,
        help="wanted rate of false acceptance of an adapted export, e.g. 0.05",
    )
    group.add_argument("--threshold", type=float, help="a cosine of your own")


def make_parser():
    """The parser of all commands.

    Returns
    -------
    argparse.ArgumentParser

    Example
    -------
    >>> make_parser().parse_args(["verify", "a.wav", "b.wav"]).export
    'packaged'
    """
    parser = argparse.ArgumentParser(
        prog="interventional",
        description=DESCRIPTION,
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    add_using(commands)
    add_enrolment(commands)
    add_fitting(commands)
    add_sharing(commands)
    return parser


def add_using(commands):
    """Commands that embed and compare."""
    command = add_command(
        commands,
        "verify",
        "tell whether two recordings are of one speaker",
        "verify a.wav b.wav\n"
        "verify a.wav b.wav --subspace content --json\n"
        "verify a.wav b.wav --export my_export --false-accepts 0.05",
        [("a", "an audio file"), ("b", "another")],
    )
    add_subspace(command)
    add_decision(command)

    command = add_command(
        commands,
        "embed",
        "write a vector for each recording to a file",
        "embed a.wav b.wav --out vectors.npz\n"
        "embed FOLDER --subspace content --out vectors.parquet\n"
        "embed talk.wav --windows --out windows.npz\n"
        "embed 's3://bucket/{000..099}.tar' --shard '[0, 8]' --out x.parquet\n"
        "embed data/train --out xvector.ark",
        [("source", SOURCE, "+")],
    )
    add_subspace(command)
    add_batches(command, cache=False)
    command.add_argument(
        "--out",
        required=True,
        help=".npz (arrays ids and vectors), .parquet or .ark (Kaldi's); what "
        "was interrupted goes on when it is called again",
    )
    command.add_argument(
        "--shard",
        type=json.loads,
        help="'[i, n]': encode part i of n, counted from 0, into OUT-i-of-n, "
        "in a job of its own",
    )
    command.add_argument(
        "--windows",
        action="store_true",
        help="of recordings above 30 s a vector for each window of 20 s, with "
        "its times begin and end in seconds",
    )

    command = add_command(
        commands,
        "score",
        "score the pairs of a trial list",
        "score trials.txt --data-folder FOLDER --out scores.txt\n"
        "score trials.txt --vectors vectors.npz --json",
        [("trials", "lines of [label] enrol test, label 1 for target pairs")],
    )
    add_subspace(command)
    add_batches(command)
    command.add_argument("--vectors", help="a file of embed, to score from")
    command.add_argument(
        "--out",
        help="where lines of [label] enrol test score go; default: the screen",
    )


def add_enrolment(commands):
    """Commands with a store of names."""
    command = add_command(
        commands,
        "enrol",
        "add recordings of a speaker to a store",
        "enrol team.npz ann ann_1.wav ann_2.wav\nenrol team.npz bob bob/",
        [
            ("store", "a .npz file; made where there is none"),
            ("name", "whose recordings these are"),
            ("source", SOURCE, "+"),
        ],
    )
    add_subspace(command)
    add_batches(command)

    command = add_command(
        commands,
        "identify",
        "tell which enrolled speaker a recording is of, if any",
        "identify team.npz who.wav\nidentify team.npz FOLDER --json",
        [("store", "a file of enrol"), ("source", SOURCE, "+")],
    )
    add_subspace(command)
    add_batches(command)
    add_decision(command)


def add_fitting(commands):
    """Commands that make another export, or judge one."""
    command = add_command(
        commands,
        "adapt",
        "fit an export to unlabelled recordings like yours",
        "adapt packaged FOLDER my_export\n"
        "adapt packaged FOLDER my_export --false-accepts 0.05",
        [
            ("export", EXPORT),
            ("source", "a folder, list of files, manifest or Kaldi folder"),
            ("out", "folder of the new export"),
        ],
        export=False,
    )
    add_batches(command)
    command.add_argument(
        "--false-accepts",
        type=float,
        default=0.01,
        help="rate of false acceptance of its thresholds (0.01)",
    )

    command = add_command(
        commands,
        "calibrate",
        "set the threshold of an export by labelled pairs",
        "calibrate my_export pairs.txt calibrated --data-folder FOLDER",
        [
            ("export", EXPORT),
            ("trials", "lines of label enrol test, label 1 for target pairs"),
            ("out", "folder of the new export"),
        ],
        export=False,
    )
    add_subspace(command)
    add_batches(command)

    command = add_command(
        commands,
        "evaluate",
        "measure an export on labelled recordings",
        "evaluate FOLDER\n"
        "evaluate FOLDER --export my_export --out results/mine "
        "--trials=trials.txt",
        [("folder", "with a manifest, or a sub-folder for each speaker")],
    )
    command.description += (
        " Any option of the recipe's hparams/evaluate.yaml may follow, as "
        "--NAME=VALUE."
    )
    command.add_argument(
        "--out", default="results/evaluate", help="folder of the results"
    )


def add_sharing(commands):
    """Commands that show an export or pass it on."""
    add_command(
        commands,
        "info",
        "tell what an export is",
        "info\ninfo my_export --json",
        [("export", f"{EXPORT} (the default)", "?")],
        export=False,
    )
    command = add_command(
        commands,
        "export",
        "write encoder and subspaces as one ONNX file",
        "export packaged --onnx model.onnx",
        [("export", EXPORT)],
        export=False,
    )
    command.add_argument("--onnx", required=True, help="the file")

    command = add_command(
        commands,
        "push",
        "upload an export to the Hugging Face hub",
        "push my_export user/name --licence cc-by-4.0 --private",
        [("export", EXPORT), ("repo", "user/name")],
        export=False,
    )
    command.add_argument(
        "--licence", help="e.g. cc-by-4.0; default: the one in the card"
    )
    command.add_argument("--private", action="store_true")

    command = commands.add_parser(
        "report",
        help="make the page report.html of a finished run again",
        description="Make the page report.html of a finished run again.",
        allow_abbrev=False,
    )
    command.add_argument("folder", help="the output folder of a run")


def main(arguments=None):
    """Run a command.

    Arguments
    ---------
    arguments : list of str
        Default: those of the process.

    Example
    -------
    >>> main(["verify", "a.wav"])
    Traceback (most recent call last):
    ...
    SystemExit: 2
    """
    parser = make_parser()
    given, further = parser.parse_known_args(arguments)
    if further and given.command != "evaluate":
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    given.further = further
    # Late: the libraries take seconds, which help and usage do without.
    from speechbrain_ext.cli import commands

    sys.exit(commands.run(given))
