# SPDX-License-Identifier: Apache-2.0
"""One call of dockerd, checked: libnetwork's remote protocol (docs/remote.md, docs/ipam.md there).

Keys that a call lacks are empty, as in Go's encoding/json. Others than those read here are left
alone: a later dockerd may send more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from base.errors import FlatmeshError
from base.fields import Fields
from cni import cidr
from cni.cidr import Cidr

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
MAX_DEPTH_ERROR = "is nested too deeply"


class DockerCallError(FlatmeshError):
    """What dockerd shows its user; one line."""


class Call(NamedTuple):
    """The body of a call."""

    fields: Fields

    @classmethod
    def parse(cls, body: bytes) -> Call:
        """Read it; an empty one is an empty object. Raises DockerCallError."""
        try:
            read = json.loads(body or b"{}")
        except RecursionError:
            raise DockerCallError(f"the call {MAX_DEPTH_ERROR}") from None
        except ValueError as error:
            raise DockerCallError(f"the call is no JSON: {error}") from None
        return cls(_fields({} if read is None else read, "call"))

    def identifier(self, key: str) -> str:
        """An id of Docker's."""
        text = self.text(key)
        if not IDENTIFIER.fullmatch(text):
            raise DockerCallError(f"{key}: {text[:64]!r} is no id of Docker's")
        return text

    def text(self, key: str) -> str:
        """A string; empty when it is absent."""
        return self.fields.text(key, "")

    def flag(self, key: str) -> bool:
        """A boolean; false when it is absent."""
        return self.fields.flag(key, default=False)

    def object(self, key: str) -> Call:
        """An object; empty when it is absent."""
        value = self.fields.value(key)
        return Call(_fields({} if value is None else value, key))

    def objects(self, key: str) -> list[Call]:
        """A list of objects."""
        return [Call(fields) for fields in self.fields.objects(key, "{...}")]

    def interface(self, key: str) -> Cidr | None:
        """An address with its prefix length; None when it is absent."""
        text = self.text(key)
        if not text:
            return None
        try:
            return cidr.parse_cidr(text)
        except ValueError as error:
            raise DockerCallError(f"{key}: {error}") from None

    def network(self, key: str) -> Cidr | None:
        """The same without host bits."""
        found = self.interface(key)
        if found is not None and not found.is_network:
            raise DockerCallError(f"{key}: {found} has host bits set; use {found.network}")
        return found

    def address(self, key: str) -> tuple[int, int] | None:
        """An address alone: family and integer."""
        text = self.text(key)
        if not text:
            return None
        try:
            return cidr.parse_address(text)
        except ValueError as error:
            raise DockerCallError(f"{key}: {error}") from None

    def mac(self, key: str) -> str:
        """A hardware address of one interface; empty when it is absent."""
        text = self.text(key).lower()
        if not text:
            return ""
        if not MAC.fullmatch(text) or int(text[:2], 16) & 1 or text == "00:00:00:00:00:00":
            raise DockerCallError(f"{key}: {text[:64]!r} is no hardware address of an interface")
        return text


def _fields(value: object, where: str) -> Fields:
    if not isinstance(value, Mapping):
        raise DockerCallError(f"{where}: is no JSON object")
    return Fields(value, "", DockerCallError)
