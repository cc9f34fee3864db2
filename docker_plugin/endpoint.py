# SPDX-License-Identifier: Apache-2.0
"""An endpoint of Docker's: a veth pair between kbr0 (or obr0) and a container.

Both ends are made on the host. dockerd moves the other end into the container, renames it, gives it
its addresses and brings it up; until then it can send nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from cni import cidr
from cni.address_pool import LEASE_POOL, AddressPool, read_subnet_env
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.bridge_config import DEFAULT_BRIDGE, BridgeConfig
from cni.host import PluginHost
from cni.other_gateway import SWITCH, require_no_other_gateway
from cni.pod import source_guard
from cni.pod.announce import announce
from cni.pod.attach_mode import AttachMode
from cni.pod.bridge import ensure_bridge
from cni.pod.gateways import gateway_addresses, with_gateways
from cni.pod.naming import (
    DOCKER,
    HOST_PREFIX,
    POD_PREFIX,
    host_interface_alias,
    host_interface_name,
    mac_for,
)
from cni.pod.pod_sysctls import enable_forwarding, refuse_routers
from cni.pod.source_guard import GuardedPod
from cni.pod.veth_pair import PodSockets, VethPair, attach_veth
from cni.result.model import ResultAddress
from cni.wiring import compare as wiring
from docker_plugin import records
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.offload import turn_tx_checksum_off
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import own_netns

NETWORK, MAC, IPS = "network", "mac", "ips"
"""In the metadata: Docker's id of the network, and the endpoint's addresses."""


class Endpoint(NamedTuple):
    """One endpoint as dockerd wants it."""

    identifier: str
    network: str
    ips: tuple[ResultAddress, ...]
    mac: str

    @classmethod
    def recorded(cls, record: AttachmentRecord) -> Endpoint:
        """The endpoint that a record is of."""
        said = record.metadata
        ips = tuple(ResultAddress(str(ip)) for ip in said.get(IPS, ()))
        return cls(record.key.container_id, str(said.get(NETWORK, "")), ips, str(said.get(MAC, "")))

    @property
    def container_end(self) -> str:
        """The name of the container's end while it is on the host."""
        return f"fmd{host_interface_name(records.endpoint_key(self.identifier))[4:]}"


def usual_mac(ips: Sequence[ResultAddress]) -> str:
    """The hardware address of who has these addresses, as pods have it."""
    return mac_for(ips, POD_PREFIX)


def begin(endpoint: Endpoint, store: AttachmentStore, *, to_bridge: bool) -> dict[str, Any]:
    """Record that an endpoint is being made; returns the metadata. Raises CniError (5, 102)."""
    metadata: dict[str, Any] = {
        "plugin": DOCKER,
        NETWORK: endpoint.network,
        MAC: endpoint.mac,
        IPS: [ip.address for ip in endpoint.ips],
        records.SINCE: records.now(),
        source_guard.RECORDED: {
            "bridge": DEFAULT_BRIDGE if to_bridge else "",
            "check": True,
            "trunk": False,
            "mac": endpoint.mac,
        },
    }
    key = records.endpoint_key(endpoint.identifier)
    store.begin("", key, AddressPool((), name=LEASE_POOL), metadata)
    return metadata


def connect(endpoint: Endpoint, store: AttachmentStore, host: PluginHost) -> None:
    """Make the veth pair, recorded before. Raises CniError, NetlinkError, OSError."""
    key = records.endpoint_key(endpoint.identifier)
    env = read_subnet_env(host.subnet_file)
    to_bridge = AttachMode.read(host.run_dir).to_bridge
    config = BridgeConfig(
        DEFAULT_BRIDGE,
        is_gateway=True,
        is_default_gateway=True,
        mtu=env.mtu,
        hairpin=True,  # a container may use its own published port
    )
    metadata = begin(endpoint, store, to_bridge=to_bridge)
    ips, _ = with_gateways(endpoint.ips, (), config)
    gateways = gateway_addresses(ips)
    pair = VethPair(
        host_interface_name(key),
        endpoint.container_end,
        endpoint.mac,
        mac_for(ips, HOST_PREFIX),
        env.mtu,
        host_interface_alias(key),
    )
    enable_forwarding({gateway.family for gateway in gateways})
    before = store.last_macs(ips)
    with ExitStack() as stack:
        sock, own = stack.enter_context(NetlinkSocket()), stack.enter_context(own_netns())
        bridge = None
        if to_bridge:
            bridge = ensure_bridge(sock, config, gateways)
            source_guard.add(GuardedPod(pair.host_name, pair.mac, _texts(ips)))
        else:
            require_no_other_gateway(sock, SWITCH, gateways)
        attach_veth(PodSockets(sock, sock, own, own), pair, bridge, config)
        refuse_routers(pair.host_name, pair.pod_name, own, own)
        if not to_bridge:
            with contextlib.suppress(OSError):  # a switch in user space needs it off
                turn_tx_checksum_off(pair.pod_name)
        unusual = _announce(sock, bridge, pair, ips, before, host)
    metadata[wiring.RECORDED] = wiring.to_record(config, bridge, gateways if to_bridge else ())
    store.finish(key, pair.host_name, metadata, pair.mac, unusual)


def _announce(
    sock: NetlinkSocket,
    bridge: ActualLink | None,
    pair: VethPair,
    ips: Sequence[ResultAddress],
    before: dict[str, str],
    host: PluginHost,
) -> list[ResultAddress]:
    """Announce addresses that had another MAC; returns those whose MAC has to be recorded."""
    if bridge is None:
        return []
    usual = usual_mac(ips)
    other = [ip for ip in ips if before.get(ip.address, usual) != pair.mac]
    if other:
        announce(sock, bridge, pair, other, BridgeConfig(bridge.name, True, True), host)
    return [ip for ip in ips if before.get(ip.address, usual_mac([ip])) != pair.mac]


def _texts(ips: Sequence[ResultAddress]) -> tuple[str, ...]:
    return tuple(ip.address.partition("/")[0] for ip in ips)


def gateway_of(ips: Sequence[ResultAddress], family: int) -> str:
    """The gateway of the endpoint's address of a family; empty: it has none."""
    for ip in ips:
        found = cidr.parse_cidr(ip.address)
        if found.family == family:
            return cidr.to_text(family, found.network.value + 1)
    return ""
