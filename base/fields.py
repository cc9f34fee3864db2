# SPDX-License-Identifier: Apache-2.0
"""One typed reader for JSON objects that people write: cluster config, backend options, CNI config.

    options = Fields(document, "cluster config: Backend.", ConfigError, ignore_case=True)
    vni = options.number("VNI", 1, minimum=1, maximum=2**24 - 1)

Each method reads one key. A key that is absent or null gives the default. A value of another
type or outside the limits raises the error that the reader was made with; its message is one
line that names the key, the value and what it must be:

    cluster config: Backend.VNI is "7"; it must be a whole number

Keys that nobody reads are tolerated, as flanneld and CNI's libraries do, unless `refuse_misspelt`
finds one that is nearly a known one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import overload


def nearest(word: str, known: Collection[str]) -> str | None:
    """The known word that this one is probably meant to be, without regard to case."""
    by_lower = {one.lower(): one for one in known}
    found = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


class Fields:
    """A JSON object, read key by key."""

    __slots__ = ("_error", "_ignore_case", "_names", "_values", "where")

    def __init__(
        self,
        values: Mapping[str, object],
        where: str,
        error: Callable[[str], Exception],
        *,
        ignore_case: bool = False,
    ) -> None:
        """`where` comes before each key's name in messages; `error` makes the exception.

        With `ignore_case` keys match without regard to case, as in Go's encoding/json.
        """
        self.where = where
        self._error = error
        self._ignore_case = ignore_case
        self._names = tuple(values)
        self._values = {k.lower(): v for k, v in values.items()} if ignore_case else values

    def refuse_misspelt(self, known: Collection[str]) -> None:
        """Raise the error for a key that is nearly a known one: its value would have no effect."""
        lower = {one.lower() for one in known}
        for name in self._names:
            meant = nearest(name, known) if name.lower() not in lower else None
            if meant is not None:
                text = json.dumps(name[:100])[1:-1]
                raise self._error(f"{self.where}{text} is no key; did you mean {meant}?")

    def value(self, name: str) -> object:
        """What the document has for the key; None when it is absent."""
        return self._values.get(name.lower() if self._ignore_case else name)

    def problem(self, name: str, requirement: str) -> Exception:
        """The error for a key's value: `WHERE NAME is VALUE; it must be REQUIREMENT`."""
        text = json.dumps(self.value(name))
        return self._error(f"{self.where}{name} is {text}; it must be {requirement}")

    def flag(self, name: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.problem(name, "true or false")
        return value

    def number(
        self,
        name: str,
        default: int,
        *,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int:
        """A whole number within the limits, which are inclusive."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.problem(name, "a whole number")
        if minimum is not None and maximum is not None and not minimum <= value <= maximum:
            raise self.problem(name, f"from {minimum} to {maximum}")
        if minimum is not None and value < minimum:
            raise self.problem(name, f"at least {minimum}")
        if maximum is not None and value > maximum:
            raise self.problem(name, f"at most {maximum}")
        return value

    @overload
    def text(self, name: str, default: str) -> str: ...
    @overload
    def text(self, name: str, default: None = None) -> str | None: ...

    def text(self, name: str, default: str | None = None) -> str | None:
        """A string."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.problem(name, "a string")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of `choices`, which are lower case; the document may write it in any case."""
        value = self.text(name, default).lower()
        if value not in choices:
            raise self.problem(name, f"one of {', '.join(choices)}")
        return value

    def objects(self, name: str, example: str) -> list[Fields]:
        """A list of JSON objects; messages name the first one `NAME[1]`.

        `example` is one object as text, for messages.
        """
        value = self.value(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._error(f"{self.where}{name} must be a list of {example} objects")
        found = []
        for number, item in enumerate(value, 1):
            if not isinstance(item, Mapping):
                raise self._error(f"{self.where}{name}[{number}] must be an object like {example}")
            where = f"{self.where}{name}[{number}]."
            found.append(Fields(item, where, self._error, ignore_case=self._ignore_case))
        return found
