"""Options are refused with their name and what is expected."""

import pytest

from speechbrain_ext.utils import options
from speechbrain_ext.utils.errors import InputError


@pytest.mark.parametrize(
    "rule, good, bad, expected",
    [
        (options.whole(2), [2, 9], [1, 2.0, True, "2", None], "of 2 or more"),
        (options.one_of("a", None), ["a", None], ["b", ["a"]], "a or None"),
        (
            options.some_of("a", "b"),
            [["a"], ("b", "a")],
            [[], "a", ["a", "c"], None, [["a"]]],
            "some of a, b",
        ),
        (options.filled_list(), [[0], (1, 2)], [[], "ab", None], "one entry"),
    ],
)
def test_rules(rule, good, bad, expected):
    for value in good:
        options.check_options({"x": value, "other": -1}, {"x": rule})
    for value in bad:
        with pytest.raises(InputError) as caught:
            options.check_options(
                {"y": good[0], "x": value}, {"y": rule, "x": rule}
            )
        message = str(caught.value)
        assert message.startswith(f"x is {value!r}: expected ")
        assert message.endswith(expected) or "one entry" in message
