# SPDX-License-Identifier: Apache-2.0
"""Ranges of addresses in the syntax of the reference's host-local plugin.

    {"subnet": "10.1.0.0/16", "rangeStart": ..., "rangeEnd": ..., "gateway": ...}

`subnet` is required. Ranges stand in sets; an attachment gets one address of every set.
(containernetworking plugins, docs of host-local.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from cni import cidr
from cni.cidr import Cidr
from cni.errors import INVALID_CONFIG, CniError
from cni.fields import CniFields


class PoolRange(NamedTuple):
    """Addresses that may be given to pods; the gateway is none of them."""

    subnet: Cidr
    first: int
    last: int
    """Both ends are included."""
    gateway: int
    """0: none."""

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.subnet.family

    def holds(self, value: int) -> bool:
        """Whether an address may be given from this range."""
        return self.first <= value <= self.last and value != self.gateway

    def gateway_text(self) -> str:
        """The gateway's address; empty: none."""
        return cidr.to_text(self.family, self.gateway) if self.gateway else ""


RangeSet = tuple[PoolRange, ...]
"""Ranges of one family."""


def whole_subnet(subnet: Cidr) -> PoolRange:
    """All hosts of a subnet, which excludes its base and IPv4's broadcast address.

    The gateway is the first host.
    """
    last = subnet.last - (1 if subnet.family == 4 else 0)
    return PoolRange(subnet, subnet.value + 1, last, subnet.value + 1)


def parse_range_sets(value: object, where: str) -> list[RangeSet]:
    """Read a list of lists of ranges; None has no sets. Raises CniError (7)."""
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _wrong(where, "is not a list of lists of ranges")
    return [_parse_set(each, where) for each in value]


def require_disjoint(sets: Sequence[RangeSet]) -> None:
    """Raise CniError (7) when two ranges share an address."""
    ordered = sorted((r for each in sets for r in each), key=lambda r: (r.family, r.first))
    for one, other in pairwise(ordered):
        if one.family == other.family and other.first <= one.last:
            raise _wrong("ipam.ranges", f"ranges in {one.subnet} and {other.subnet} overlap")


def _wrong(where: str, problem: str) -> CniError:
    return CniError(INVALID_CONFIG, f"{where}: {problem}")


def _parse_set(value: object, where: str) -> RangeSet:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise _wrong(where, "is not a list of lists of ranges")
    ranges = tuple(_parse_range(raw, where) for raw in value)
    if len({r.family for r in ranges}) > 1:
        raise _wrong(where, "mixes IPv4 and IPv6 in one set; make it a set each")
    return ranges


def _parse_range(raw: object, where: str) -> PoolRange:
    if not isinstance(raw, Mapping):
        raise _wrong(where, f'{raw!r} is not {{"subnet": ...}}')
    fields = CniFields(raw, where, INVALID_CONFIG)
    try:
        subnet = cidr.parse_cidr(str(fields.value("subnet")))
    except ValueError as error:
        raise fields.error("subnet", str(error)) from None
    if not subnet.is_network:
        raise fields.error("subnet", f"{subnet} has host bits set; use {subnet.network}")
    if cidr.bits(subnet.family) - subnet.length < 2:
        raise fields.error("subnet", f"{subnet} is too small to hand out addresses")
    whole = whole_subnet(subnet)
    first = _address_inside(fields, "rangeStart", subnet) or whole.first
    last = _address_inside(fields, "rangeEnd", subnet) or whole.last
    if first > last:
        raise fields.error("rangeStart", "is behind rangeEnd")
    gateway = _address_inside(fields, "gateway", subnet) or whole.gateway
    return PoolRange(subnet, max(first, whole.first), min(last, whole.last), gateway)


def _address_inside(fields: CniFields, key: str, subnet: Cidr) -> int:
    """An address of the subnet; 0 when it is not given."""
    text = fields.value(key)
    if text is None or text == "":
        return 0
    try:
        family, value = cidr.parse_address(str(text))
    except ValueError as error:
        raise fields.error(key, str(error)) from None
    if family != subnet.family or not subnet.value <= value <= subnet.last:
        raise fields.error(key, f"{text} is not in {subnet}")
    return value
