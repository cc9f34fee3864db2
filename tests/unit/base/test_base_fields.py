# SPDX-License-Identifier: Apache-2.0
"""JSON objects that people write: read by type, refused in one line that names the key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from base.errors import FlatmeshError
from base.fields import Fields


class WrongError(FlatmeshError):
    """What these readers raise."""


def fields(ignore_case: bool = False, **values: object) -> Fields:
    return Fields(values, "config: ", WrongError, ignore_case=ignore_case)


def test_what_is_absent_or_null_has_its_default() -> None:
    for one in (fields(), fields(a=None)):
        assert one.flag("a", default=True) is True
        assert one.number("a", 7, minimum=10) == 7
        assert one.text("a") is None
        assert one.text("a", "x") == "x"
        assert one.choice("a", ("b", "c"), "c") == "c"
        assert one.objects("a", "{}") == []


def test_case_of_keys_counts_unless_it_is_ignored() -> None:
    assert fields(MTU=9).number("mtu", 0) == 0
    assert fields(MTU=9, ignore_case=True).number("Mtu", 0) == 9
    nested = fields(ignore_case=True, List=[{"Key": 5}])
    assert [item.number("KEY", 0) for item in nested.objects("list", "{}")] == [5]


def test_choice_is_read_without_regard_to_case() -> None:
    assert fields(a="GRE").choice("a", ("gre", "vxlan"), "vxlan") == "gre"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.flag("n", default=False), "config: n is 1; it must be true or false"),
        (lambda f: f.number("t", 0), 'config: t is "x"; it must be a whole number'),
        (lambda f: f.number("b", 0), "config: b is true; it must be a whole number"),
        (lambda f: f.number("n", 0, minimum=2), "config: n is 1; it must be at least 2"),
        (lambda f: f.number("n", 0, maximum=0), "config: n is 1; it must be at most 0"),
        (
            lambda f: f.number("n", 0, minimum=2, maximum=3),
            "config: n is 1; it must be from 2 to 3",
        ),
        (lambda f: f.text("n"), "config: n is 1; it must be a string"),
        (lambda f: f.choice("t", ("y", "z"), "y"), 'config: t is "x"; it must be one of y, z'),
        (lambda f: f.objects("t", '{"a":1}'), 'config: t must be a list of {"a":1} objects'),
        (lambda f: f.objects("l", "{}"), r"config: l[2] must be an object like {}"),
        (
            lambda f: f.objects("o", "{}")[0].number("k", 0),
            'config: o[1].k is "x"; it must be a whole number',
        ),
    ],
)
def test_bad_value_is_named_in_one_line(read: Callable[[Fields], object], message: str) -> None:
    with pytest.raises(WrongError) as error:
        read(fields(n=1, t="x", b=True, l=[{}, 7], o=[{"k": "x"}]))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
