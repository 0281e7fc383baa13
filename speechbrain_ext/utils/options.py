"""Options of a script, checked before anything expensive starts."""

from speechbrain_ext.utils.errors import InputError


def whole(least):
    """Rule of a whole number of at least ``least``."""
    return (
        lambda value: type(value) is int and value >= least,
        f"a whole number of {least} or more",
    )


def one_of(*choices):
    """Rule of one of some values."""
    words = " or ".join(map(str, choices))
    return lambda value: value in choices, words


def filled_list():
    """Rule of a list that is not empty."""
    return (
        lambda value: isinstance(value, (list, tuple)) and len(value) > 0,
        "a list with at least one entry, as in '[...]'",
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


def check_options(options, rules, where=""):
    """Refuse options that would only fail, or be ignored, later on.

    Arguments
    ---------
    options : dict
        Name -> value.
    rules : dict
        Name -> (test of the value, what is expected in words), such as
        :func:`whole`, :func:`one_of` and :func:`some_of` make them.
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
    """
    for name, (test, expected) in rules.items():
        try:
            fits = test(options[name])
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(
                f"{where}{name} is {options[name]!r}: expected {expected}"
            )
