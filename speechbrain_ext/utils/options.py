"""Options of a script, checked before anything expensive starts.

A script declares a table: name of an option -> rule. A dot in a name leads into
a mapping (``extraction.batch_size``). A rule is a pair, a test of the value and
what is expected in words; or a function that makes a pair of all options, where
one depends on others; None leaves the option unchecked. The file of the options
must have all names without a dot, but for those whose rule is a ``MayLack``.
"""

import difflib
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from speechbrain_ext.utils.errors import InputError


def whole(least, most=None):
    """Rule of a whole number from ``least`` to ``most``."""
    words = f"from {least} to {most}"
    if most is None:
        most, words = 2**32 - 1, f"of {least} or more"  # what a seed may be
    return (
        lambda value: type(value) is int and least <= value <= most,
        f"a whole number {words}",
    )


def number(least=-math.inf, most=math.inf, above=-math.inf):
    """Rule of a number in some range.

    Arguments
    ---------
    least, most : float
        The range.
    above : float
        What it must be more than.

    Returns
    -------
    tuple
    """
    bounds = [f"above {above:g}"] if above > -math.inf else []
    bounds += [f"of {least:g} or more"] if least > -math.inf else []
    bounds += [f"of at most {most:g}"] if most < math.inf else []
    return (
        lambda value: (
            type(value) in (int, float)
            and least <= value <= most
            and value > above
        ),
        f"a number {' and '.join(bounds)}, written as 0.5 or 1.0e-5",
    )


def flag():
    """Rule of yes or no."""
    return lambda value: type(value) is bool, "True or False"


class MayLack(tuple):
    """Rule of an option that not all files of a script have."""


class Tagged(dict):
    """The arguments of an object that an option file is still to make."""


def made():
    """Rule of an object of an option file."""
    return (
        lambda value: isinstance(value, Tagged),
        "an object, as !new:module.Class or !name:module.function makes it",
    )


def text():
    """Rule of a text that is not empty."""
    return lambda value: isinstance(value, str) and value.strip(), "a text"


def folder():
    """Rule of a folder, which need not be there."""
    return (
        lambda path: (
            text()[0](path)
            and all(
                place.is_dir() or not place.exists()
                for place in (Path(path), *Path(path).parents)
            )
        ),
        "a folder, not a file",
    )


def one_of(*choices):
    """Rule of one of some values."""
    words = " or ".join("null" if c is None else str(c) for c in choices)
    return lambda value: value in choices, words


def optional(rule):
    """Rule of a value that may be left out by null."""
    return lambda value: value is None or rule[0](value), f"null or {rule[1]}"


def either(*rules):
    """Rule of a value that one of some rules allows."""
    words = " or ".join(words for _, words in rules)
    return lambda value: any(_fits(test, value) for test, _ in rules), words


def list_of(rule, least=1):
    """Rule of a list of ``least`` or more values that follow a rule."""
    return (
        lambda values: (
            isinstance(values, (list, tuple))
            and len(values) >= least
            and all(map(rule[0], values))
        ),
        f"a list of {least} or more, each {rule[1]}",
    )


def filled_list():
    """Rule of a list that is not empty."""
    return list_of((lambda _: True, "a value"))[0], (
        "a list with at least one entry, as in '[...]'"
    )


def some_of(*choices):
    """Rule of a list of one or more of some values."""
    return (
        lambda values: (
            isinstance(values, (list, tuple))
            and values
            and set(values) <= set(choices)
            and len(set(values)) == len(values)
        ),
        f"a list of some of {', '.join(map(str, choices))}",
    )


def mapping(keys, rule):
    """Rule of a mapping of some keys to values that follow a rule."""
    return (
        lambda value: (
            isinstance(value, Mapping)
            and set(value) <= set(keys)
            and all(map(rule[0], value.values()))
        ),
        f"{{key: value}} with some of {', '.join(map(str, keys))}, each "
        f"{rule[1]}",
    )


def as_list(value):
    """A list, of one value that may stand without brackets.

    Example
    -------
    >>> as_list("content"), as_list(["content"])
    (['content'], ['content'])
    """
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _fits(test, value):
    """Whether a value passes a test, which may not be made for its type."""
    try:
        return bool(test(value))
    except (TypeError, ValueError, AttributeError):
        return False


def check_options(options, rules, where=""):
    """Refuse options that would only fail, or be ignored, later on.

    Arguments
    ---------
    options : dict
        Name -> value.
    rules : dict
        The table, see above. Names that ``options`` has not are passed over.
    where : str
        Start of the message.

    Raises
    ------
    InputError
        Naming the option, its value and what is expected.

    Example
    -------
    >>> check_options({"epochs": -1}, {"epochs": whole(0)})
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: epochs is -1: expected a whole \
number of 0 or more
    >>> check_options({"split": {"bye": "x"}}, {"split.by": text()})
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: split has no bye: did you mean by?
    """
    for name, rule in rules.items():
        found, value = True, options
        for key in name.split("."):
            found = found and isinstance(value, Mapping) and key in value
            value = value[key] if found else None
        if callable(rule):
            rule = rule(options)
        if found and rule is not None and not _fits(rule[0], value):
            raise InputError(f"{where}{name} is {value!r}: expected {rule[1]}")
    for name in {name.rpartition(".")[0] for name in rules} - {""}:
        known = [
            n.rpartition(".")[2] for n in rules if n.startswith(f"{name}.")
        ]
        value = options.get(name)
        # An object of the option file has further arguments, or is left out.
        if type(value) is dict:
            for key in value:
                check_name(f"{where}{name} has no", key, known)
        elif value is not None and not isinstance(value, Mapping):
            raise InputError(
                f"{where}{name} is {value!r}: expected {{key: value}} with "
                f"some of {', '.join(known)}"
            )


# Of all scripts. SpeechBrain's tests of recipes give them the first three.
OF_ALL = {"device", "debug", "debug_persistently", "noprogressbar"}


def check_run_options(run_opts, trains=True):
    """Refuse run options of SpeechBrain that would fail later or do nothing.

    Arguments
    ---------
    run_opts : speechbrain.utils.run_opts.RunOptions
        From :func:`speechbrain_ext.utils.hparams.parse_arguments`.
    trains : bool
        Whether the script trains; others read few of them.

    Raises
    ------
    InputError
        Naming the option.
    """
    for name in sorted(run_opts.overridden_args - OF_ALL):
        if not trains:
            raise InputError(
                f"This script does not read --{name}: leave it out"
            )
    counts = ("grad_accumulation_factor", "debug_batches")
    rules = dict.fromkeys(counts, whole(1))
    rules["optimizer_step_limit"] = optional(whole(1))
    rules["max_grad_norm"] = number(above=0)
    options = {name: getattr(run_opts, name) for name in rules}
    check_options(options, rules)
    on_cpu = str(run_opts.device).startswith("cpu")
    for name in ("precision", "eval_precision"):
        if on_cpu and getattr(run_opts, name) == "fp16":
            raise InputError(f"{name} is fp16: on cpu expected fp32 or bf16")
    if on_cpu and run_opts.auto_mix_prec:
        raise InputError("auto_mix_prec is fp16: on cpu give --precision=bf16")
    try:
        torch.zeros(1, device=run_opts.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"device is {run_opts.device}: {reason}")


def check_name(what, name, known):
    """Refuse a name that is not known, with the nearest that is.

    Arguments
    ---------
    what : str
        Start of the message.
    name : str
        As given.
    known : iterable of str
        Those that there are.

    Raises
    ------
    InputError
        If it is none of them.

    Example
    -------
    >>> check_name("dims has no", "speakr", ["speaker", "content"])
    Traceback (most recent call last):
    ...
    speechbrain_ext.utils.errors.InputError: dims has no speakr: did you mean \
speaker?
    """
    if name in known:
        return
    near = difflib.get_close_matches(str(name), map(str, known), 1, 0.5)
    there = f"there are {', '.join(map(str, known))}"
    raise InputError(
        f"{what} {name}: {f'did you mean {near[0]}?' if near else there}"
    )
