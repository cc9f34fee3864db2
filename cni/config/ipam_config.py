# SPDX-License-Identifier: Apache-2.0
"""The `ipam` section of a config: who gives the addresses, and the keys that we read ourselves.

    no section                      addresses of the lease's subnets, from this host's own store
    {"type": "flatmesh-ipam", ...}  the same, with ranges, routes and dns from the section
    {"type": "host-local", ...}     the delegated plugin of this name gives them
    {}                              the interface gets no address

    {"type": "flatmesh-ipam", "ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00::/64"}]],
     "routes": [{"dst": "0.0.0.0/0", "gw": ...}], "dataDir": ..., "resolvConf": ...}

The syntax is that of the reference's host-local plugin. Its older form, where `subnet`,
`rangeStart`, `rangeEnd` and `gateway` stand in the section itself, makes a set with one range
before those of `ranges`; ranges of the `ipRanges` capability come before all others.
(containernetworking plugins, docs of host-local.)
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cni import versions
from cni.config.address_range import RangeSet, parse_range_sets, require_disjoint
from cni.config.request import CniRequest
from cni.config.runtime_values import requested_addresses, requested_ranges
from cni.errors import INVALID_CONFIG, CniError
from cni.fields import CniFields
from cni.result.model import Dns, ResultRoute
from cni.result.read import read_dns, read_routes

OWN_IPAM = "flatmesh-ipam"
MAIN_PLUGINS = ("flatmesh", "flannel")
"""Ours that are no IPAM plugins."""


class OwnIpamConfig(NamedTuple):
    """What a config says about addresses from this host's own store."""

    sets: tuple[RangeSet, ...] = ()
    """Empty: the subnets of the lease."""
    requested: tuple[tuple[int, int], ...] = ()
    """Addresses that the runtime asks for: family (4 or 6) and integer."""
    routes: tuple[ResultRoute, ...] = ()
    dns: Dns = Dns()
    subnet_file: Path | None = None
    """Where subnet.env is; None: where the host has it."""


def delegated_ipam_type(request: CniRequest) -> str:
    """The `ipam.type` of another plugin; empty when there is none. Raises CniError (7)."""
    kind = request.config.optional_section("ipam").raw.get("type", "")
    if not isinstance(kind, str):
        raise CniError(INVALID_CONFIG, f"ipam.type: {kind!r} is no name")
    if kind in MAIN_PLUGINS:  # it would call itself, and so on
        raise CniError(
            INVALID_CONFIG,
            f"ipam.type: {kind} attaches pods and gives no addresses; did you mean {OWN_IPAM}?",
        )
    return "" if kind == OWN_IPAM else kind


def uses_own_addresses(request: CniRequest) -> bool:
    """Whether the addresses come from this host's own store. Raises CniError (7)."""
    section = request.config.section("ipam")
    return section is None or section.value("type") == OWN_IPAM


def parse_own_ipam_config(request: CniRequest) -> OwnIpamConfig:
    """Read the section of `flatmesh-ipam`. Raises CniError (7)."""
    subnet_file = parse_subnet_file(request)
    section = request.config.section("ipam") or CniFields({}, "ipam", INVALID_CONFIG)
    sets = parse_range_sets(requested_ranges(request), "runtimeConfig.ipRanges")
    if section.value("subnet"):
        sets += parse_range_sets([[section.raw]], "ipam")
    sets += parse_range_sets(section.value("ranges"), "ipam.ranges")
    require_disjoint(sets)
    return OwnIpamConfig(
        tuple(sets),
        requested_addresses(request),
        read_routes(section),
        _dns(section, request),
        subnet_file,
    )


def require_one_set_per_family(sets: tuple[RangeSet, ...], version: str) -> None:
    """Raise CniError (7) for a version whose result has room for one address per family."""
    families = [ranges[0].family for ranges in sets]
    if len(set(families)) < len(families) and not versions.at_least(version, "0.3.0"):
        raise CniError(
            INVALID_CONFIG,
            f"cniVersion: {version} has one address per family; use 0.3.0 or newer",
        )


def parse_subnet_file(request: CniRequest) -> Path | None:
    """`subnetFile` of the config or of its `ipam` section; None: not given. Raises CniError (7)."""
    config = request.config
    given = config.absolute_path("subnetFile")
    if not given:
        ipam = config.optional_section("ipam")
        given = CniFields(ipam.raw, "", INVALID_CONFIG).absolute_path("subnetFile")
    return Path(given) if given else None


def parse_data_dir(request: CniRequest) -> Path | None:
    """Where the section wants the address store; None: where the host has it.

    Raises CniError (7).
    """
    given = request.config.optional_section("ipam").absolute_path("dataDir")
    return Path(given) if given else None


def _dns(section: CniFields, request: CniRequest) -> Dns:
    """The config's own `dns`, or what the file named by `resolvConf` says (resolv.conf(5))."""
    path = section.value("resolvConf")
    if not path:
        return read_dns(request.config)
    try:
        text = Path(str(path)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise section.error("resolvConf", f"{path}: {error}") from None
    lines = [line.split() for line in text.splitlines() if line.split()]

    def values(key: str) -> tuple[str, ...]:
        return tuple(value for line in lines if line[0] == key for value in line[1:])

    domain = values("domain")
    return Dns(
        values("nameserver"), domain[-1] if domain else "", values("search"), values("options")
    )
