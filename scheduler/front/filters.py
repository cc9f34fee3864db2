# SPDX-License-Identifier: Apache-2.0
"""The query parameter `filters`: which objects of a list are wanted."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from scheduler.errors import SpecError


@dataclass(frozen=True, slots=True)
class Filters:
    """Values by the filter's name; an object passes when each filter has a value that fits."""

    values: Mapping[str, Collection[str]]

    @classmethod
    def of(cls, text: str, *allowed: str) -> Filters:
        """Read the parameter: {"name": ["a"]} or {"name": {"a": true}}. Raises SpecError."""
        try:
            given = json.loads(text or "{}")
        except (ValueError, RecursionError):
            raise SpecError(f"filters: not JSON: {text[:100]!r}") from None
        if not isinstance(given, dict):
            raise SpecError("filters: not an object")
        values: dict[str, list[str]] = {}
        for name, found in given.items():
            if name not in allowed:
                raise SpecError(
                    f"filter {name!r} is not supported: known are {', '.join(sorted(allowed))}"
                )
            wanted = [one for one, on in found.items() if on] if isinstance(found, dict) else found
            if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
                raise SpecError(f"filters: {name}: neither a list of texts nor an object")
            if wanted:
                values[name] = wanted
        return cls(values)

    def any_of(self, name: str, fits: Collection[str]) -> bool:
        """Whether one of these is wanted; without the filter all are."""
        wanted = self.values.get(name)
        return wanted is None or any(one in fits for one in wanted)

    def begins(self, name: str, text: str) -> bool:
        """Whether the text begins with a wanted value."""
        wanted = self.values.get(name)
        return wanted is None or any(text.startswith(one) for one in wanted)

    def has_labels(self, labels: Mapping[str, str], name: str = "label") -> bool:
        """Whether all wanted labels, NAME or NAME=VALUE, are there."""
        for one in self.values.get(name, ()):
            label, equals, value = one.partition("=")
            if label not in labels or (equals and labels[label] != value):
                return False
        return True
