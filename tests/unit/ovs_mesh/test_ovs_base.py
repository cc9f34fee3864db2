# SPDX-License-Identifier: Apache-2.0
"""What the ovs backend wants in the kernel whoever its peers are: all of it is in --dry-run."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from hostnet.kinds.gateway_bridge import GatewayBridge, GatewayDevice
from hostnet.kinds.link import Link
from hostnet.kinds.offload import TxChecksum
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ovs_mesh.backend import OvsBackend
from ovs_mesh.datapath import Datapath
from tests.unit.ovs_mesh.mesh_examples import config, lease

UNDERLAY = Underlay("eth0", 1500, public_ip=IPv4Address("192.168.64.11"))


def base(datapath: str, **options: Any) -> HostState:
    ovs = config(**options)
    anywhere = Path("/nowhere")
    backend = OvsBackend(ovs, Datapath(datapath, "test"), anywhere, anywhere, anywhere)
    return backend.base(lease(1, ovs), UNDERLAY)


def test_pods_bridge_has_the_gateway_and_a_veth_to_the_switch() -> None:
    state = base("system")
    assert state.of(GatewayBridge) == {GatewayBridge("kbr0", 1450, ("10.5.1.1/24",))}
    assert {link.name: link.master for link in state.of(Link)} == {
        "kbr0-obr0": "kbr0",
        "obr0-kbr0": None,
    }
    assert state.of(TxChecksum) == frozenset()


@pytest.mark.parametrize(("attach", "entry"), [("kbr0", "kbr0-obr0"), ("obr0", "obr0")])
def test_userspace_switch_gets_complete_checksums(attach: str, entry: str) -> None:
    assert base("netdev", PodAttach=attach).of(TxChecksum) == {TxChecksum(entry, on=False)}


def test_pods_on_the_switch_need_no_linux_bridge() -> None:
    state = base("system", PodAttach="obr0")
    assert state.of(GatewayBridge) == frozenset()
    (device,) = state.of(GatewayDevice)
    assert (device.name, device.gateways) == ("obr0", ("10.5.1.1/24",))
    assert state.of(Link) == frozenset()
