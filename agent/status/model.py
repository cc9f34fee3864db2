# SPDX-License-Identifier: Apache-2.0
"""What is told of a host: `flatmesh status`, `pods` and `peers` print it.

The daemon sends it as JSON. A command of another version may read it: what is missing, or of
another type, takes its default; what is unknown is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of etcd, asked by this host just now."""

    url: str = ""
    version: str = ""
    milliseconds: float | None = None
    """How long its answer took; None: there was none."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host."""

    name: str = ""
    """As it says itself; empty for a flanneld."""
    subnets: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """PublicIP of each family."""
    backend: str = ""
    version: str = ""
    """Of flatmesh there; empty: it does not say."""
    started: int | None = None
    """When its daemon started, in seconds since 1970, by its clock."""
    changed: float | None = None
    """When its lease last changed, as far as this daemon saw, in seconds since 1970."""
    ready: bool | None = None
    """Whether it says that it serves pods; None: it does not say."""
    problem: str = ""
    """What it says is wrong with it."""
    round_trip: float | None = None
    """Milliseconds to its end of the pods' network; None: no answer."""
    underlay_round_trip: float | None = None
    """Milliseconds to its PublicIP; None: no answer."""
    probed: bool = False
    """Whether it was asked for an answer."""
    served: bool = True
    """Whether this host sends it packets."""
    own: bool = False
    """Whether it is this host itself."""

    @property
    def label(self) -> str:
        """How it is called in a line of text."""
        return self.name or (self.addresses[0] if self.addresses else ", ".join(self.subnets))


@dataclass(frozen=True, slots=True)
class Pod:
    """One interface of a pod here."""

    name: str = ""
    """`namespace/name` in Kubernetes, where the runtime told it."""
    container: str = ""
    network: str = ""
    interface: str = ""
    addresses: tuple[str, ...] = ()
    state: str = ""
    """`ready`; `adding` or `deleting` while a call is under way or has failed."""
    host_interface: str = ""
    netns: str = ""
    there: bool = True
    """Whether its host interface is there."""


@dataclass(frozen=True, slots=True)
class ControllerState:
    """One controller of the daemon."""

    name: str = ""
    state: str = ""
    """`ok`, `failing`, or `waiting`: not applied yet."""
    applied: float | None = None
    """When it was last applied well, in seconds since 1970."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """Everything about one host."""

    source: str = "daemon"
    """`daemon`, or `files`: put together from files and the kernel."""
    name: str = ""
    version: str = ""
    commit: str = ""
    pid: int | None = None
    started: int | None = None
    ready: bool = False
    networks: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()
    """Of this host's lease."""
    reserved: bool = False
    expires_in: float | None = None
    """Seconds until the lease ends unless it is renewed; None: unknown, or never."""
    backend: str = ""
    pod_mtu: int | None = None
    underlay: str = ""
    underlay_addresses: tuple[str, ...] = ()
    underlay_mtu: int | None = None
    prefix: str = ""
    """In etcd."""
    endpoints: tuple[Endpoint, ...] = ()
    peers: tuple[Peer, ...] = ()
    """All hosts of the cluster; this one has `own`."""
    pods: tuple[Pod, ...] = ()
    controllers: tuple[ControllerState, ...] = ()
    problems: tuple[str, ...] = ()
    """A line each: what is wrong, and the mend."""


def encode(report: HostReport) -> dict[str, Any]:
    """A report as JSON objects."""
    return asdict(report)


def decode(kind: type[Model], found: object) -> Model:
    """Read a dataclass from a JSON object, whatever it holds."""
    there = found if isinstance(found, Mapping) else {}
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in there:
            fits, value = _value(hints[one.name], there[one.name])
            if fits:
                values[one.name] = value
    return kind(**values)


def _value(hint: Any, value: object) -> tuple[bool, Any]:
    """Whether a JSON value fits a field's type, and as what."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            return False, None
        inner = get_args(hint)[0]
        found = [_value(inner, one) for one in value]
        return True, tuple(each for fits, each in found if fits)
    if isinstance(hint, UnionType):
        if value is None:
            return True, None
        return _value(get_args(hint)[0], value)
    if hint in (str, int, float, bool):
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return True, float(value)
        return type(value) is hint, value
    return True, decode(hint, value)
