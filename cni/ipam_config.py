"""The `ipam` section of a config, in the syntax of the reference's host-local plugin.

    {"type": "flatmesh-ipam"}                                     the lease's subnets
    {"type": "flatmesh-ipam", "ranges": [[{"subnet": "10.1.0.0/16", "rangeStart": ...,
        "rangeEnd": ..., "gateway": ...}], [{"subnet": "fd00::/64"}]],
     "routes": [{"dst": "0.0.0.0/0", "gw": ...}], "dataDir": ..., "resolvConf": ...}

Each member of `ranges` is a set; an attachment gets one address of every set. The older form,
`subnet`, `rangeStart`, `rangeEnd` and `gateway` directly in the section, is a first set with
one range; ranges of the `ipRanges` capability come before all others. Addresses asked for
come from CNI_ARGS `IP`, `args.cni.ips` and the capability `ips`.
(containernetworking plugins, docs of host-local.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cni import cidr, versions
from cni.cidr import Cidr
from cni.errors import INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni.request import Request
from cni.result import Dns, Route, parse_dns, parse_routes
from ipam.subnet_env import SubnetEnv, SubnetEnvError

LEASE_POOL = ""  # the host's own, in the address book


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses that may be handed out, both ends included; never the gateway."""

    subnet: Cidr
    first: int
    last: int
    gateway: int
    """0: none, the subnet has no room for one."""

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.subnet.family

    def holds(self, value: int) -> bool:
        """Whether an address may be handed out from here."""
        return self.first <= value <= self.last and value != self.gateway

    def gateway_text(self) -> str:
        """The gateway's address."""
        return cidr.to_text(self.family, self.gateway) if self.gateway else ""


RangeSet = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Where an attachment's addresses come from."""

    sets: tuple[RangeSet, ...]
    requested: tuple[tuple[int, int], ...] = ()
    """Addresses asked for: family and integer."""
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
    name: str = ""
    """What the addresses are unique in."""


def parse(request: Request, host_subnet_file: Path) -> PoolConfig:
    """Read the section. Raises CniError (7; 50 when there is no lease and it is needed)."""
    path = subnet_file(request, host_subnet_file)
    section = request.conf.get("ipam")
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise CniError(INVALID_CONFIG, "ipam: is not an object")
    sets = _configured_sets(section, request)
    routes = parse_routes(section, "ipam", INVALID_CONFIG)
    name = LEASE_POOL
    if sets:
        name = _pool_name(request, sets, path)
    else:
        env = read_subnet_env(path)
        sets = lease_sets(env)
        routes = (*cluster_routes(env), *routes)
    if not versions.at_least(request.version, "0.3.0"):
        _require_one_per_family(sets, request.version)
    return PoolConfig(sets, _requested(request, sets), routes, _dns(section, request), name)


def subnet_file(request: Request, host_subnet_file: Path) -> Path:
    """Where subnet.env is: `subnetFile` of the config or its section, else the host's own."""
    section = request.conf.get("ipam")
    given = request.conf.get("subnetFile")
    if not given and isinstance(section, Mapping):
        given = section.get("subnetFile")
    if not given:
        return host_subnet_file
    if not isinstance(given, str) or not given.startswith("/"):
        raise _wrong("subnetFile", f"{given!r} is not an absolute path")
    return Path(given)


def _pool_name(request: Request, sets: Sequence[RangeSet], path: Path) -> str:
    """The network, but the lease's where a range takes from the lease."""
    with contextlib.suppress(CniError):
        lease = [r.subnet for each in lease_sets(read_subnet_env(path)) for r in each]
        if any(r.subnet.overlaps(subnet) for each in sets for r in each for subnet in lease):
            return LEASE_POOL
    return request.network


def read_subnet_env(path: Path) -> SubnetEnv:
    """This host's lease. Raises CniError (50): without one there is nothing to hand out."""
    try:
        about = path.stat()
        return _read(path, (about.st_ino, about.st_mtime_ns, about.st_size))
    except FileNotFoundError:
        raise CniError(
            NOT_AVAILABLE,
            f"no lease yet: {path} is not there; is flatmeshd running and etcd reachable?",
        ) from None
    except OSError as error:
        raise CniError(NOT_AVAILABLE, f"{path}: {error.strerror}") from None
    except SubnetEnvError as error:
        raise CniError(NOT_AVAILABLE, str(error)) from None


@functools.lru_cache(maxsize=16)
def _read(path: Path, version: tuple[int, int, int]) -> SubnetEnv:
    """Read it once per version of the file: it is replaced, never changed in place."""
    del version
    return SubnetEnv.read(path)


@functools.lru_cache(maxsize=16)
def lease_sets(env: SubnetEnv) -> tuple[RangeSet, ...]:
    """A set per family of the lease; the gateway is the subnet's first host."""
    return tuple(
        (whole_subnet(cidr.parse(str(interface)).network),)
        for interface in (env.subnet, env.ipv6_subnet)
        if interface is not None
    )


@functools.lru_cache(maxsize=16)
def cluster_routes(env: SubnetEnv) -> tuple[Route, ...]:
    """Routes to the other hosts' pods, by the pod's gateway.

    The gateway is said, though it is the default: the reference bridge's CHECK wants it so.
    """
    return tuple(
        Route(str(network), str(subnet.ip))
        for networks, subnet in ((env.networks, env.subnet), (env.ipv6_networks, env.ipv6_subnet))
        for network in networks
        if subnet is not None
    )


def whole_subnet(subnet: Cidr) -> Range:
    """All hosts of a subnet: neither its base nor, in IPv4, the broadcast address."""
    last = subnet.last - (1 if subnet.family == 4 else 0)
    return Range(subnet, subnet.value + 1, last, subnet.value + 1)


def _wrong(where: str, problem: str) -> CniError:
    return CniError(INVALID_CONFIG, f"{where}: {problem}")


def _configured_sets(section: Mapping[str, Any], request: Request) -> tuple[RangeSet, ...]:
    sets: list[RangeSet] = []
    for where, value in (
        ("runtimeConfig.ipRanges", request.runtime_config.get("ipRanges")),
        ("ipam", [[section]] if section.get("subnet") else None),
        ("ipam.ranges", section.get("ranges")),
    ):
        if value is None:
            continue
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _wrong(where, "is not a list of lists of ranges")
        sets += [_set(entry, where) for entry in value]
    _require_disjoint([r for each in sets for r in each])
    return tuple(sets)


def _set(entry: object, where: str) -> RangeSet:
    if not isinstance(entry, Sequence) or isinstance(entry, str) or not entry:
        raise _wrong(where, "is not a list of lists of ranges")
    ranges = tuple(_range(raw, where) for raw in entry)
    if len({r.family for r in ranges}) > 1:
        raise _wrong(where, "mixes IPv4 and IPv6 in one set; make it a set each")
    return ranges


def _range(raw: object, where: str) -> Range:
    if not isinstance(raw, Mapping):
        raise _wrong(where, f'{raw!r} is not {{"subnet": ...}}')
    text = raw.get("subnet")
    try:
        subnet = cidr.parse(text if isinstance(text, str) else str(text))
    except ValueError as error:
        raise _wrong(f"{where}.subnet", str(error)) from None
    if not subnet.is_network:
        raise _wrong(f"{where}.subnet", f"{subnet} has host bits set; use {subnet.network}")
    if cidr.bits(subnet.family) - subnet.length < 2:
        raise _wrong(f"{where}.subnet", f"{subnet} is too small to hand out addresses")
    whole = whole_subnet(subnet)
    first = _inside(raw, "rangeStart", subnet, where) or whole.first
    last = _inside(raw, "rangeEnd", subnet, where) or whole.last
    if first > last:
        raise _wrong(f"{where}.rangeStart", "is behind rangeEnd")
    gateway = _inside(raw, "gateway", subnet, where) or whole.gateway
    return Range(subnet, max(first, whole.first), min(last, whole.last), gateway)


def _inside(raw: Mapping[str, Any], key: str, subnet: Cidr, where: str) -> int:
    """An optional address of the subnet; 0 when it isn't given."""
    text = raw.get(key)
    if text is None or text == "":
        return 0
    try:
        family, value = cidr.parse_address(text if isinstance(text, str) else str(text))
    except ValueError as error:
        raise _wrong(f"{where}.{key}", str(error)) from None
    if family != subnet.family or not subnet.value <= value <= subnet.last:
        raise _wrong(f"{where}.{key}", f"{text} is not in {subnet}")
    return value


def _require_disjoint(ranges: list[Range]) -> None:
    ordered = sorted(ranges, key=lambda r: (r.family, r.first))
    for one, other in pairwise(ordered):
        if one.family == other.family and other.first <= one.last:
            raise _wrong("ipam.ranges", f"ranges in {one.subnet} and {other.subnet} overlap")


def _require_one_per_family(sets: tuple[RangeSet, ...], version: str) -> None:
    families = [s[0].family for s in sets]
    if len(set(families)) < len(families):
        raise _wrong("cniVersion", f"{version} has one address per family; use 0.3.0 or newer")


def _requested(request: Request, sets: tuple[RangeSet, ...]) -> tuple[tuple[int, int], ...]:
    """Every address asked for, checked to be one that we may hand out."""
    wanted: list[object] = [ip for ip in request.argument("IP").split(",") if ip]
    for where, value in (
        ("args.cni.ips", request.cni_args.get("ips")),
        ("runtimeConfig.ips", request.runtime_config.get("ips")),
    ):
        if value is None:
            continue
        if not isinstance(value, list):
            raise _wrong(where, "is not a list of addresses")
        wanted += value
    found: dict[tuple[int, int], None] = {}
    for text in wanted:
        try:
            parsed = cidr.parse(text if isinstance(text, str) else str(text), default_length=True)
        except ValueError as error:
            raise _wrong("requested IP", str(error)) from None
        found[parsed.family, parsed.value] = None
    served: set[int] = set()
    for family, value in found:
        text = cidr.to_text(family, value)
        index = next(
            (
                i
                for i, s in enumerate(sets)
                if any(r.family == family and r.holds(value) for r in s)
            ),
            None,
        )
        if index is None:
            raise _wrong("requested IP", f"{text} is in none of the ranges, or is a gateway")
        if index in served:
            raise _wrong("requested IP", f"{text}: its range gives one address per attachment")
        served.add(index)
    return tuple(found)


def _dns(section: Mapping[str, Any], request: Request) -> Dns:
    """The config's own `dns`, or what a resolv.conf named by `resolvConf` says."""
    path = section.get("resolvConf")
    if not path:
        return parse_dns(request.conf, "config", INVALID_CONFIG)
    try:
        text = Path(str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong("ipam.resolvConf", f"{path}: {error}") from None
    words = [line.split() for line in text.splitlines() if line.split()]

    def values(*keys: str) -> tuple[str, ...]:
        return tuple(word for line in words if line[0] in keys for word in line[1:])

    domain = values("domain")
    return Dns(
        values("nameserver"), domain[-1] if domain else "", values("search"), values("options")
    )


def data_dir(request: Request) -> Path | None:
    """Where the section wants the address book; None: where the host has it."""
    section = request.conf.get("ipam")
    if not isinstance(section, Mapping):
        return None
    value = section.get("dataDir")
    if not value:
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        raise _wrong("ipam.dataDir", f"{value!r} is not an absolute path")
    return Path(value)
