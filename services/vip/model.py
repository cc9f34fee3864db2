# SPDX-License-Identifier: Apache-2.0
"""What a floating address is in etcd. Values only, and pure rules.

<prefix>/vips/config/<name>   {"Addresses": ["192.168.64.100"], "Hosts": ["192.168.64.11", ...]}
<prefix>/vips/holder/<name>   {"Host": "192.168.64.11"}, attached to the holder's etcd lease
<prefix>/vips/move/<name>     a host that shall take over, attached to a lease of some seconds
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from base.fields import Fields
from services.model import NAME, ServiceError

LEASE_SECONDS = 10
"""Of the holder's etcd lease: another host takes over that long after the last renewal."""
MARGIN = 3.0
"""Seconds before the lease can lapse in which the kernel has removed the address, its own
granularity of up to two seconds included."""
RANK_DELAY = 0.4
"""Seconds that a host waits for each one before it in the list, when an address is free."""
MOVE_SECONDS = 10
"""How long a wish to move is there."""
MAX_HOSTS, MAX_VALUE = 64, 16384
KEYS = ("Addresses", "Hosts")


@dataclass(frozen=True, slots=True)
class Vip:
    """One floating address, of one family or both."""

    name: str
    addresses: tuple[str, ...]
    hosts: tuple[str, ...]
    """Those that may hold it, the preferred one first: addresses as in their leases, or names."""

    def rank(self, host: Collection[str]) -> int | None:
        """The place in the list of a host with these names; None: it is not in it."""
        return next((n for n, one in enumerate(self.hosts) if one in host), None)


@dataclass(frozen=True, slots=True)
class VipKeys:
    """The keys below one prefix, which has no slash at its end."""

    prefix: str

    @property
    def all(self) -> str:
        """What every key begins with."""
        return f"{self.prefix}/vips/"

    def config(self, name: str) -> str:
        """Key of what an operator wants."""
        return f"{self.all}config/{name}"

    def holder(self, name: str) -> str:
        """Key that the holder has."""
        return f"{self.all}holder/{name}"

    def move(self, name: str) -> str:
        """Key of the wish to move."""
        return f"{self.all}move/{name}"

    def split(self, key: str) -> tuple[str, str]:
        """`config`, `holder` or `move`, and the name."""
        kind, _, name = key.removeprefix(self.all).partition("/")
        return kind, name


def parse_vip(name: str, value: bytes) -> Vip:
    """Read a value of etcd. Raises ServiceError."""
    where = f"floating address {name[:80]}: "
    if not NAME.fullmatch(name):
        raise ServiceError(f"{where}use at most 63 lower-case letters, digits and '-' for the name")
    document = json_object(value, where)
    Fields(document, where, ServiceError).refuse_misspelt(KEYS)
    keys = {key.lower(): found for key, found in document.items()}
    addresses = [_address(one, where) for one in _texts(keys, "Addresses", where)]
    hosts = _texts(keys, "Hosts", where)
    if not addresses or len({one.version for one in addresses}) != len(addresses):
        raise ServiceError(f"{where}give one address of a family, or one of each")
    if not hosts or len(hosts) > MAX_HOSTS or len(set(hosts)) != len(hosts):
        raise ServiceError(f"{where}give 1 to {MAX_HOSTS} hosts, each once")
    return Vip(name, tuple(map(str, addresses)), tuple(hosts))


def format_vip(vip: Vip) -> bytes:
    """The value that `parse_vip` reads."""
    return json.dumps({"Addresses": vip.addresses, "Hosts": vip.hosts}).encode()


def json_object(value: bytes, where: str) -> Mapping[str, Any]:
    """A JSON object. Raises ServiceError."""
    try:
        document = json.loads(value) if len(value) <= MAX_VALUE else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ServiceError(f"{where}its value in etcd is no JSON object of at most 16 KiB")
    return document


def _texts(keys: Mapping[str, Any], name: str, where: str) -> list[str]:
    found = keys.get(name.lower())
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise ServiceError(f"{where}{name} must be a list of strings")
    return list(found)


def _address(text: str, where: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise ServiceError(f"{where}{error}") from None
    if (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
    ):
        raise ServiceError(f"{where}{address} can't be reached from outside a host")
    return address


def seconds_left(asked: float, granted: float, now: float) -> int:
    """Whole seconds that the kernel may hold an address; `asked`: when the lease was renewed."""
    return int(asked + granted - MARGIN - now)


def claim_delay(rank: int, *, move_to_us: bool, move_to_other: bool) -> float:
    """Seconds that a host waits until it takes a free address."""
    if move_to_us:
        return 0.0
    return RANK_DELAY * (rank + 1) + (3.0 if move_to_other else 0.0)
