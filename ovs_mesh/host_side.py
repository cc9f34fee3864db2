# SPDX-License-Identifier: Apache-2.0
"""This host as obr0 must know it: read from the kernel, the lease and the pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backend.isolation import Isolation
from hostnet.find_link import find_link
from hostnet.netlink.socket import NetlinkSocket
from ipam.lease import Lease
from ovs_mesh.datapath import Datapath
from ovs_mesh.devices import KBR0, OBR0, OBR0_VETH
from ovs_mesh.errors import OvsError
from ovs_mesh.inputs import HostSide
from ovs_mesh.pods import Pod


def read_host_side(
    own: Lease,
    pods: Sequence[Pod],
    ofports: Mapping[str, int],
    *,
    on_switch: bool,
    datapath: Datapath,
    isolation: Isolation | None = None,
) -> HostSide:
    """`on_switch`: pods are ports of obr0; those that it has not opened yet are left out.

    Raises OvsError while obr0 has no port to kbr0, NetlinkError.
    """
    with NetlinkSocket() as sock:
        gateway = find_link(sock, OBR0 if on_switch else KBR0)
    port = "LOCAL" if on_switch else ofports.get(OBR0_VETH)
    if gateway is None:
        raise OvsError(f"device {OBR0 if on_switch else KBR0} is not there yet")
    if port is None:
        raise OvsError(f"obr0: port {OBR0_VETH} is not open yet")
    return HostSide(
        gateway_port=port,
        gateway_mac=gateway.mac,
        gateways=tuple(text.partition("/")[0] for text in gateway_addresses(own)),
        subnets=tuple(own.subnets),
        sources=tuple(map(str, own.attributes.addresses)),
        pods=tuple(
            pod.port(ofports.get(pod.host_link) if on_switch else None)
            for pod in pods
            if not on_switch or pod.host_link in ofports
        ),
        on_switch=on_switch,
        answers_nd=datapath.sets_nd_options,
        isolation=isolation if on_switch else None,
    )


def gateway_addresses(own: Lease) -> list[str]:
    """The first address of each subnet, the pods' gateway: `10.5.1.1/24`."""
    return [f"{subnet.network_address + 1}/{subnet.prefixlen}" for subnet in own.subnets]
