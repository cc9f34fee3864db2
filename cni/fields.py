# SPDX-License-Identifier: Apache-2.0
"""Typed reading of JSON objects from a runtime or a plugin, with the error codes of CNI.

`base.fields` reads the plain types; added here are the specification's codes, nested objects,
and addresses. Every error names the path of the key, as in `prevResult.ips.address`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.fields import Fields
from cni import cidr
from cni.errors import CniError


class CniFields:
    """One JSON object. A key that is absent or null counts as not given."""

    __slots__ = ("_fields", "code", "raw", "where")

    def __init__(self, raw: Mapping[str, Any], where: str, code: int) -> None:
        """Read `raw`; errors get `code`, and `where` is the path of the object."""
        self.raw = raw
        """The object itself, for what is passed on unchanged to another plugin."""
        self.where = where
        self.code = code
        prefix = f"{where}." if where else ""
        self._fields = Fields(raw, prefix, lambda message: CniError(code, message))

    def path(self, key: str) -> str:
        """The path of a key, as errors name it."""
        return f"{self.where}.{key}" if self.where else key

    def error(self, key: str, problem: str) -> CniError:
        """An error about a key; the caller raises it."""
        return CniError(self.code, f"{self.path(key)}: {problem}")

    def value(self, key: str) -> Any:
        """The value of a key, whatever its type; None when it is not given."""
        return self.raw.get(key)

    def text(self, key: str) -> str:
        """A string; empty when it is not given."""
        return self._fields.text(key, "")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._fields.problem(key, "a list of strings")
        return tuple(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """A boolean."""
        return self._fields.flag(key, default=default)

    def number(self, key: str) -> int | None:
        """A whole number; None when it is not given."""
        return None if self.raw.get(key) is None else self._fields.number(key, 0)

    def number_within(self, key: str, least: int, most: int) -> int:
        """A whole number from `least` to `most`; 0 when it is 0 or not given."""
        value = self.raw.get(key)
        if value == 0 and not isinstance(value, bool):
            return 0
        return self._fields.number(key, 0, minimum=least, maximum=most)

    def section(self, key: str) -> CniFields | None:
        """An object."""
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, "is not an object")
        return CniFields(value, self.path(key), self.code)

    def optional_section(self, key: str) -> CniFields:
        """An object; an empty one when the key is not given or holds something else."""
        value = self.raw.get(key)
        return CniFields(value if isinstance(value, Mapping) else {}, self.path(key), self.code)

    def sections(self, key: str) -> list[CniFields]:
        """A list of objects."""
        value = self.raw.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
            raise self.error(key, "is not a list of objects")
        return [CniFields(each, self.path(key), self.code) for each in value]

    def cidr(self, key: str) -> str:
        """An address with its prefix length, in canonical text. It must be given."""
        try:
            return str(cidr.parse_cidr(self.text(key)))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def address(self, key: str) -> str:
        """An address in canonical text; empty when it is not given."""
        text = self.text(key)
        if not text:
            return ""
        try:
            return cidr.to_text(*cidr.parse_address(text))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def absolute_path(self, key: str) -> str:
        """An absolute path; empty when it is empty or not given."""
        value = self.raw.get(key)
        if not value:
            return ""
        if not isinstance(value, str) or not value.startswith("/"):
            raise self._fields.problem(key, "an absolute path")
        return value
