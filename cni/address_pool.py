# SPDX-License-Identifier: Apache-2.0
"""Where an attachment's addresses come from: the ranges of its config, or the lease's subnets.

Addresses of the lease are one pool for all networks of a host, because they are routed to the
host from everywhere. Ranges that a config brings are unique within their network, as with
host-local.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cni import cidr
from cni.cidr import Cidr
from cni.config.address_range import RangeSet, whole_subnet
from cni.config.ipam_config import OwnIpamConfig, require_one_set_per_family
from cni.config.request import CniRequest
from cni.errors import INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni.result.model import Dns, ResultRoute
from cni.set_aside import without
from ipam.subnet_env import SubnetEnv, SubnetEnvError

LEASE_POOL = ""
"""The name of the lease's pool in the address store."""


class AddressPool(NamedTuple):
    """The ranges of an attachment, and what goes into its result with the addresses."""

    sets: tuple[RangeSet, ...]
    requested: tuple[tuple[int, int], ...] = ()
    """Addresses that must be among those given: family (4 or 6) and integer."""
    routes: tuple[ResultRoute, ...] = ()
    dns: Dns = Dns()
    name: str = LEASE_POOL
    """Addresses are unique within the pool of this name."""


def resolve_pool(
    config: OwnIpamConfig,
    request: CniRequest,
    host_subnet_file: Path,
    set_aside: Sequence[Cidr] = (),
) -> AddressPool:
    """The pool of a config on this host, without the parts of the lease that are `set_aside`.

    Raises CniError (7; 50 when the lease is missing).
    """
    subnet_file = config.subnet_file or host_subnet_file
    sets, routes = config.sets, config.routes
    if sets:
        name = _pool_name(request, sets, subnet_file)
    else:
        env = read_subnet_env(subnet_file)
        name, sets, routes = LEASE_POOL, lease_sets(env), (*cluster_routes(env), *routes)
    if name == LEASE_POOL:
        sets = without(sets, set_aside)
    require_one_set_per_family(sets, request.version)
    _require_served(config.requested, sets)
    return AddressPool(sets, config.requested, routes, config.dns, name)


def read_subnet_env(path: Path) -> SubnetEnv:
    """This host's lease. Raises CniError (50): without one there are no addresses to give."""
    try:
        stat = path.stat()
        return _read_version(path, (stat.st_ino, stat.st_mtime_ns, stat.st_size))
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
def _read_version(path: Path, version: tuple[int, int, int]) -> SubnetEnv:
    """Read the file once per version of it: it is replaced, never changed in place."""
    del version
    return SubnetEnv.read(path)


@functools.lru_cache(maxsize=16)
def lease_sets(env: SubnetEnv) -> tuple[RangeSet, ...]:
    """One set for each family of the lease."""
    return tuple(
        (whole_subnet(cidr.parse_cidr(str(interface)).network),)
        for interface in (env.subnet, env.ipv6_subnet)
        if interface is not None
    )


@functools.lru_cache(maxsize=16)
def cluster_routes(env: SubnetEnv) -> tuple[ResultRoute, ...]:
    """Routes to the pods of the other hosts, by the pod's own gateway.

    The gateway is given though it is the default: CHECK of the reference bridge expects it.
    """
    return tuple(
        ResultRoute(str(network), str(subnet.ip))
        for networks, subnet in ((env.networks, env.subnet), (env.ipv6_networks, env.ipv6_subnet))
        for network in networks
        if subnet is not None
    )


def name_servers(env: SubnetEnv) -> Dns:
    """What a pod is told that has addresses of the lease: its gateways answer services' names."""
    if not env.service_zone:
        return Dns()
    gateways = (str(one.ip) for one in (env.subnet, env.ipv6_subnet) if one is not None)
    # `tasks.web` has a dot: with ndots:1, resolv.conf(5)'s default, it would be asked outside first
    return Dns(tuple(gateways), search=(env.service_zone,), options=("ndots:2",))


def _pool_name(request: CniRequest, sets: Sequence[RangeSet], subnet_file: Path) -> str:
    """The lease's pool if a range has addresses of the lease, else the network's own."""
    with contextlib.suppress(CniError):  # without a lease nothing overlaps it
        lease = [r.subnet for each in lease_sets(read_subnet_env(subnet_file)) for r in each]
        if any(r.subnet.overlaps(subnet) for each in sets for r in each for subnet in lease):
            return LEASE_POOL
    return request.attachment.network


def _require_served(requested: Sequence[tuple[int, int]], sets: tuple[RangeSet, ...]) -> None:
    """Raise CniError (7) unless every requested address is in a set of its own."""
    served: set[int] = set()
    for family, value in requested:
        text = cidr.to_text(family, value)
        index = next(
            (
                index
                for index, ranges in enumerate(sets)
                if any(r.family == family and r.holds(value) for r in ranges)
            ),
            None,
        )
        if index is None:
            raise _wrong(f"{text} is in none of the ranges, or is a gateway")
        if index in served:
            raise _wrong(f"{text}: its range gives one address per attachment")
        served.add(index)


def _wrong(problem: str) -> CniError:
    return CniError(INVALID_CONFIG, f"requested IP: {problem}")
