# SPDX-License-Identifier: Apache-2.0
"""The keys by which hosts are asked to take part in a check, and what is in them.

    <prefix>/check/<id>/request             which hosts take part; a daemon makes a pod
    <prefix>/check/<id>/pod/<lease key>     that pod's addresses
    <prefix>/check/<id>/targets             all of them: each daemon sends to all others
    <prefix>/check/<id>/sent/<lease key>    what came of that
    <prefix>/check/<id>/collect             all have sent
    <prefix>/check/<id>/arrived/<lease key> what arrived at that pod, and from which address

All of them are attached to one etcd lease of LEASE_TTL seconds, which the command that asks keeps
alive: when it ends, however it ends, the keys go, and each daemon removes its pod. So only who
may write below the prefix can start a check, no port is open to anybody, and flanneld overlooks
the keys. An endpoint on each host that whoever reaches it may ask was the other way: it would need
a port, credentials and a limit of its own.

Values come from other hosts, and are checked: a pod is only ever asked to send to addresses in
the subnet of the lease that its key names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeVar

from agent.status.model import decode
from ipam.lease import LeaseError, parse_key

LEASE_TTL = 20
"""Seconds that a check outlives the command that asked for it."""
MAX_SECONDS = 90.0
"""Seconds that a host takes part in one check at most."""
MAX_HOSTS = 64
"""Hosts of one check: each sends to each, and every host of the cluster gets the keys."""
MAX_VALUE = 1 << 20  # bytes
MIN_MTU, MAX_MTU = 576, 65535

Part = TypeVar("Part")


class CheckKey(NamedTuple):
    """A key, taken apart."""

    check: str
    what: str
    """`request`, `pod`, `targets`, `sent`, `collect`, `arrived`."""
    host: str = ""
    """The key of the host's lease."""


def checks_prefix(prefix: str) -> str:
    """What the keys of all checks begin with."""
    return f"{prefix}/check/"


def key_of(prefix: str, check: str, what: str, host: str = "") -> str:
    """The key in etcd."""
    return f"{checks_prefix(prefix)}{check}/{what}" + (f"/{host}" if host else "")


def parse_check_key(prefix: str, key: str) -> CheckKey | None:
    """Take a key apart; None for another one."""
    parts = key.removeprefix(checks_prefix(prefix)).split("/")
    if not key.startswith(checks_prefix(prefix)) or not 2 <= len(parts) <= 3 or not all(parts):
        return None
    return CheckKey(*parts)


@dataclass(frozen=True, slots=True)
class Request:
    """Who takes part, and the token that the check's packets have."""

    hosts: tuple[str, ...] = ()
    token: str = ""
    """16 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class End:
    """One host's end of a check: its temporary pod."""

    key: str = ""
    """Of its lease."""
    name: str = ""
    addresses: tuple[str, ...] = ()
    """The pod's, of each family."""
    host_addresses: tuple[str, ...] = ()
    """Those that the host itself may send from."""
    mtu: int = 1280
    """The pod's, in bytes."""
    problem: str = ""
    """Why there is no pod."""


@dataclass(frozen=True, slots=True)
class Targets:
    """All ends; they are numbered in this order."""

    ends: tuple[End, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """What one end's packets to another one met."""

    to: int = 0
    """Number of the end that they were sent to."""
    origin: str = "pod"
    """`pod` or `host`: where they were sent from."""
    target: str = "pod"
    """`pod`, or `host`: the gateway's address on the host."""
    family: int = 4
    milliseconds: float | None = None
    """The fastest round trip; None: there was no answer."""
    seen: str = ""
    """The sender's address as the receiver saw it."""
    large: bool | None = None
    """Whether packets as large as the pod's MTU were answered; None: not tried."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """That something of another end arrived at this one's pod."""

    sender: int = 0
    origin: str = "pod"
    family: int = 4
    large: bool = False
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """What one end found."""

    sent: tuple[Sent, ...] = ()
    arrived: tuple[Arrived, ...] = ()


def write(value: Any) -> bytes:
    """A part of a check as it is stored."""
    return json.dumps(asdict(value), separators=(",", ":")).encode()


def read(kind: type[Part], value: bytes) -> Part:
    """The same from what another host stored: what does not fit takes its default."""
    try:
        found = json.loads(value) if len(value) <= MAX_VALUE else None
    except (ValueError, RecursionError):
        found = None
    return decode(kind, found)


def usable(ends: Iterable[End]) -> list[End]:
    """The ends with a pod whose addresses lie in the subnets that their key names.

    The place in the list is the end's number, so one that can't be used stays, without addresses.
    """
    found = []
    for end in ends:
        try:
            nets = [net for net in parse_key(end.key) if net is not None]
            inside = [
                one
                for one in end.addresses
                if any(ip_address(one) in net for net in nets if (net.version == 6) == (":" in one))
            ]
        except (LeaseError, ValueError):
            inside = []
        mtu = min(max(end.mtu, MIN_MTU), MAX_MTU)
        found.append(End(end.key, end.name, tuple(inside), end.host_addresses, mtu, end.problem))
    return found[:MAX_HOSTS]


def gateways(end: End) -> Mapping[int, str]:
    """The address of the host's bridge in each of the lease's subnets, by family."""
    nets = [net for net in parse_key(end.key) if net is not None]
    return {net.version: str(net.network_address + 1) for net in nets}
