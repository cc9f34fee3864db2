# SPDX-License-Identifier: Apache-2.0
"""What an ADD will do: everything that can be refused is refused here, before any change."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from cni.address_pool import (
    LEASE_POOL,
    AddressPool,
    name_servers,
    read_subnet_env,
    resolve_pool,
)
from cni.config.bridge_config import BridgeConfig
from cni.config.call import AttachmentKey
from cni.config.pod_config import PodConfig, parse_pod_config
from cni.config.request import CniRequest
from cni.delegate.run import require_callable
from cni.errors import INVALID_CONFIG, CniError
from cni.host import PluginHost
from cni.pod.attach_mode import AttachMode
from cni.pod.naming import host_interface_name
from cni.result.model import CniResult, Dns

IPV6_MIN_MTU = 1280  # bytes, RFC 8200 section 5


class AddPlan(NamedTuple):
    """One ADD, with all that the config, the lease and the host say about it."""

    key: AttachmentKey
    netns: str
    """CNI_NETNS, for the result."""
    bridge: BridgeConfig
    attach: AttachMode
    pool: AddressPool | None
    """None: a delegated plugin gives the addresses, or the pod gets none."""
    delegate: str
    """Type of the delegated IPAM plugin; empty: none."""
    dns: Dns
    previous: CniResult | None

    @property
    def host_name(self) -> str:
        """The veth's end on the host."""
        return host_interface_name(self.key)


def plan_add(request: CniRequest, host: PluginHost) -> AddPlan:
    """Read config, lease and host. Raises CniError (6, 7, 50), RunInClientError."""
    config = parse_pod_config(request)
    if config.delegate:
        require_callable(config.delegate, request)
    own = config.own_ipam
    pool = None
    if own is not None:
        pool = resolve_pool(own, request, host.subnet_file, host.set_aside())
    bridge = _with_mtu(config, host)
    ipv6 = pool is not None and any(ranges[0].family == 6 for ranges in pool.sets)
    if ipv6 and 0 < bridge.mtu < IPV6_MIN_MTU:
        raise CniError(INVALID_CONFIG, f"mtu: {bridge.mtu} is below IPv6's {IPV6_MIN_MTU}")
    return AddPlan(
        request.attachment,
        request.netns,
        bridge,
        AttachMode.read(host.run_dir),
        pool,
        config.delegate,
        _dns(config, pool, host),
        config.previous,
    )


def _dns(config: PodConfig, pool: AddressPool | None, host: PluginHost) -> Dns:
    """The config's own; else, for a pod of the lease, this host's responder where it has one."""
    before = config.previous.dns if config.previous is not None else Dns()
    if config.dns == before == Dns() and pool is not None and pool.name == LEASE_POOL:
        with contextlib.suppress(CniError):  # ranges of the config, and no lease
            return name_servers(read_subnet_env(config.subnet_file or host.subnet_file))
    return config.dns


def _with_mtu(config: PodConfig, host: PluginHost) -> BridgeConfig:
    """The bridge config with the lease's MTU, where it names none and there is a lease."""
    if not config.bridge.mtu:
        with contextlib.suppress(CniError):
            env = read_subnet_env(config.subnet_file or host.subnet_file)
            return config.bridge._replace(mtu=env.mtu)
    return config.bridge
