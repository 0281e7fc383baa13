"""Options are refused with their name and what is expected."""

import pytest

from speechbrain_ext.utils import options
from speechbrain_ext.utils.errors import InputError


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (options.whole(2), [2, 9], [1, 2.0, True, "2", None]),
        (options.one_of("a", None), ["a", None], ["b", ["a"]]),
        (
            options.folder(),
            ["absent/b", "/", "a #1"],
            [__file__, f"{__file__}/a", " ", None],
        ),
        (options.some_of("a"), [["a"], ("a",)], [[], "a", ["c"], None, [[]]]),
        (options.filled_list(), [[0], (1, 2)], [[], "ab", None]),
    ],
)
def test_rules(rule, good, bad):
    for value in good:
        options.check_options({"x": value, "other": -1}, {"x": rule})
    for value in bad:
        with pytest.raises(InputError) as caught:
            options.check_options({"x": value}, {"x": rule}, "run: ")
        assert str(caught.value) == f"run: x is {value!r}: expected {rule[1]}"
