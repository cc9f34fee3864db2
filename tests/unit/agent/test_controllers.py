# SPDX-License-Identifier: Apache-2.0
"""What each controller wants, from inputs alone: nothing is touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from agent.controller import Change, Dirty, Report
from agent.controllers.closed_networks import ClosedNetworks
from agent.controllers.data_plane import DataPlaneController
from agent.controllers.devices import DevicesController
from agent.controllers.encryption import (
    ClearTextController,
    EncryptionController,
    EncryptionError,
    wanted_table,
)
from agent.controllers.forwarding import IPV4_FORWARD, ForwardingController
from agent.controllers.overlay import OverlayController
from agent.controllers.publish import PublishController
from agent.controllers.ready import NotReadyError, ReadyController
from agent.data_plane_owner import DataPlaneOwner
from agent.etcd_addresses import EtcdAddresses
from agent.inputs import ReconcileInputs
from agent.kernel_applier import KernelChange
from backend.protocol import DataPlane
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey
from cni.host import PluginHost
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.nft_table import NftTable
from hostnet.kinds.route_messages import Route
from hostnet.nft.sets import NftElement
from hostnet.state import HostState
from hostnet.sysctl import Sysctl
from ipam.lease import Lease, LeaseAttributes
from tests.unit.agent.agent_inputs import WHOLE, host, inputs, lease, with_leases


class Untouchable:
    """Fits `agent.kernel_applier.StateApplier`: fails a test that would touch the kernel."""

    def apply(self, change: KernelChange) -> Report:
        raise AssertionError(f"applied {change}")

    def plan(self, desired: HostState) -> list[str]:
        raise AssertionError(f"compared with {desired}")

    def cleanup(self, log: Callable[[str], None]) -> list[str]:
        raise AssertionError(f"cleaned up, told {log}")

    def close(self) -> None:
        pass


@pytest.fixture
def overlay() -> OverlayController:
    return OverlayController(Untouchable())


@pytest.fixture
def forwarding() -> ForwardingController:
    return ForwardingController(Untouchable(), EtcdAddresses(["http://192.168.64.1:2379"]), 9000)


def destinations(state: HostState) -> set[str]:
    return {route.destination for route in state.of(Route)}


# -- overlay -----------------------------------------------------------------------------------


def test_overlay_wants_the_backends_base_and_a_part_for_each_peer(
    overlay: OverlayController,
) -> None:
    there = inputs(lease(2), lease(3))
    before, after = overlay.desired(there, WHOLE)
    assert before is None
    assert {link.name for link in after.of(Link)} == {"flannel.1"}
    assert destinations(after) == {"10.5.2.0/24", "10.5.3.0/24"}
    assert (after.of(Sysctl), after.of(NftTable)) == (frozenset(), frozenset())


def test_one_changed_lease_is_one_peers_part_out_and_one_in(overlay: OverlayController) -> None:
    there = inputs(lease(2), lease(3))
    overlay.desired(there, WHOLE)
    moved = replace(lease(3), attributes=lease(4).attributes)
    before, after = overlay.desired(with_leases(there, lease(2), moved), Dirty(keys={moved.key}))
    assert before is not None
    assert destinations(before) == destinations(after) == {"10.5.3.0/24"}
    assert {entry.remote for entry in before.of(FdbEntry)} == {"192.168.64.13"}
    assert {entry.remote for entry in after.of(FdbEntry)} == {"192.168.64.14"}
    assert not after.of(Link)


def test_a_peer_that_left_is_taken_out(overlay: OverlayController) -> None:
    there = inputs(lease(2), lease(3))
    overlay.desired(there, WHOLE)
    before, after = overlay.desired(with_leases(there, lease(2)), Dirty(keys={lease(3).key}))
    assert before is not None
    assert destinations(before) == {"10.5.3.0/24"}
    assert after == HostState()


def test_other_host_inputs_mean_the_whole_state_again(overlay: OverlayController) -> None:
    there = inputs(lease(2))
    overlay.desired(there, WHOLE)
    other = ReconcileInputs(host(Backend={"Type": "vxlan", "VNI": 7}), there.leases)
    before, after = overlay.desired(other, Dirty(keys={lease(2).key}))
    assert before is None
    assert {link.name for link in after.of(Link)} == {"flannel.7"}


def test_a_lease_of_another_backend_is_left_out_and_counted(overlay: OverlayController) -> None:
    _, after = overlay.desired(inputs(lease(2), lease(3, backend="wireguard")), WHOLE)
    assert destinations(after) == {"10.5.2.0/24"}
    assert [*overlay.unusable] == [lease(3).key]
    (unusable,) = (s.value for s in overlay.samples() if s.name == "unusable_peers")
    assert unusable == 1


# -- forwarding ----------------------------------------------------------------------------------


def test_forwarding_is_on_for_the_families_that_are_leased(
    forwarding: ForwardingController,
) -> None:
    before, state = forwarding.desired(inputs(lease(2)), WHOLE)
    assert before is None
    assert state.of(Sysctl) == {IPV4_FORWARD}
    assert not state.of(Link)
    assert not state.of(Route)


def test_the_table_masquerades_only_where_it_is_asked_for(
    forwarding: ForwardingController,
) -> None:
    leases = inputs().leases
    bodies = []
    for ip_masq in (False, True):
        _, state = forwarding.desired(ReconcileInputs(host(ip_masq=ip_masq), leases), WHOLE)
        (table,) = state.of(NftTable)
        bodies.append("masquerade" in table.body)
    assert bodies == [False, True]


def test_a_changed_lease_changes_only_elements(forwarding: ForwardingController) -> None:
    there = inputs(lease(2))
    forwarding.desired(there, WHOLE)
    changed = with_leases(there, lease(2), lease(3))
    before, after = forwarding.desired(changed, Dirty(keys={lease(3).key}))
    assert before == HostState()
    assert {one.set.name for one in after.of(NftElement)} == {
        "protected4",
        "hosts4",
        "members4",
        "vxlan4_24",
        "vxlan4_32",
    }
    assert not after.of(NftTable)


def test_a_lease_with_another_prefix_length_changes_the_text(
    forwarding: ForwardingController,
) -> None:
    there = inputs(lease(2))
    forwarding.desired(there, WHOLE)
    odd = replace(lease(3), subnet=IPv4Network("10.5.3.0/25"))
    before, after = forwarding.desired(with_leases(there, odd), Dirty(keys={odd.key}))
    (table,) = after.of(NftTable)
    assert before is None
    assert "@vxlan4_25" in table.body


def test_the_address_of_etcd_stays_closed_when_a_lease_with_it_goes(
    forwarding: ForwardingController,
) -> None:
    with_etcd = replace(lease(2), attributes=LeaseAttributes(IPv4Address("192.168.64.1")))
    there = inputs(with_etcd)
    forwarding.desired(there, WHOLE)
    before, _ = forwarding.desired(with_leases(there), Dirty(keys={with_etcd.key}))
    assert before is not None
    assert "protected4" not in {one.set.name for one in before.of(NftElement)}


# -- data plane ----------------------------------------------------------------------------------


def no_planes() -> Sequence[DataPlane]:
    return []


def leases_for(controller: DataPlaneController, there: ReconcileInputs, dirty: Dirty) -> set[str]:
    return {peer.key for peer in controller.desired(there, dirty).peers}


def test_a_data_plane_is_driven_with_the_usable_peers() -> None:
    controller = DataPlaneController(DataPlaneOwner(), no_planes)
    there = inputs(lease(2), lease(3, backend="wireguard"))
    assert leases_for(controller, there, WHOLE) == {lease(2).key}
    changed = with_leases(there, lease(3))
    dirty = Dirty(keys={lease(2).key, lease(3).key})
    assert leases_for(controller, changed, dirty) == {lease(3).key}
    assert controller.desired(changed, WHOLE).whole
    assert not controller.desired(changed, Dirty(reasons=["pods"])).whole


def test_a_lease_that_did_not_change_is_the_same_object() -> None:
    """Open vSwitch's data plane knows unchanged peers by it."""
    controller = DataPlaneController(DataPlaneOwner(), no_planes)
    there = inputs(lease(2), lease(3))
    before: Sequence[Lease] = controller.desired(there, WHOLE).peers
    after = controller.desired(there, Dirty(keys={lease(3).key})).peers
    assert {id(peer) for peer in before} == {id(peer) for peer in after}


def test_devices_follow_from_the_hosts_own_inputs() -> None:
    there = inputs(lease(2))
    assert DevicesController(DataPlaneOwner()).desired(there, WHOLE) is there.host


def test_a_deleted_flow_does_not_read_the_kernel_nor_a_foreign_route_the_switch(
    overlay: OverlayController,
) -> None:
    data_plane = DataPlaneController(DataPlaneOwner(), no_planes)
    assert not overlay.depends_on & Change.DATA_PLANE
    assert data_plane.rereads_on == Change.DATA_PLANE
    assert data_plane.depends_on & Change.KERNEL  # a device that was deleted took peers along


# -- files ---------------------------------------------------------------------------------------


def test_subnet_env_says_the_lease_and_the_backends_mtu(tmp_path: Path) -> None:
    controller = PublishController(tmp_path / "subnet.env")
    there = inputs(lease(2))
    wanted = controller.desired(there, WHOLE)
    assert controller.plan(there) == [f"# write {tmp_path / 'subnet.env'}"]
    controller.apply(wanted)
    assert controller.plan(there) == []
    assert controller.subnet_file.read_text().splitlines() == [
        "FLANNEL_NETWORK=10.5.0.0/16",
        "FLANNEL_SUBNET=10.5.1.1/24",
        "FLANNEL_MTU=1450",
        "FLANNEL_IPMASQ=false",
    ]
    assert controller.cleanup() == []
    assert not controller.subnet_file.exists()


def test_the_ready_file_holds_our_pid_and_goes_with_us(tmp_path: Path) -> None:
    controller = ReadyController(tmp_path, lambda: None)
    controller.apply(controller.desired(inputs(), WHOLE))
    assert controller.file.read_text() == f"{os.getpid()}\n"
    controller.close()
    assert not controller.file.exists()


def test_there_is_no_ready_file_while_a_device_does_not_stand(tmp_path: Path) -> None:
    obstacles: list[str | None] = [None, "device flannel.1 is not there", None]
    controller = ReadyController(tmp_path, lambda: obstacles.pop(0))
    controller.apply("1\n")
    with pytest.raises(NotReadyError, match=r"flannel\.1 is not there"):
        controller.apply("1\n")
    assert not controller.file.exists()
    controller.apply("1\n")
    assert controller.file.exists()


# -- encryption ----------------------------------------------------------------------------------


class Applied(Untouchable):
    """Remembers what it was given; fails with `failures`."""

    def __init__(self, *failures: str) -> None:
        self.states: list[HostState] = []
        self.failures = failures

    def apply(self, change: KernelChange) -> Report:
        self.states.append(change[1])
        return Report(failures=[*self.failures])

    def plan(self, desired: HostState) -> list[str]:
        return ["nft delete table"] if not desired.of(NftTable) else []


def encrypted() -> ReconcileInputs:
    return ReconcileInputs(host(Backend={"Type": "wireguard"}), {})


@pytest.fixture
def closed(tmp_path: Path) -> ClosedNetworks:
    return ClosedNetworks(PluginHost(tmp_path, tmp_path, tmp_path / "subnet.env"))


def test_an_encrypting_backend_has_its_table_before_anything_else(closed: ClosedNetworks) -> None:
    applier = Applied()
    controller = EncryptionController(applier, closed)
    controller.apply(controller.desired(encrypted(), WHOLE))
    (table,) = applier.states[0].of(NftTable)
    assert "ip daddr 10.5.0.0/16 ip daddr != 10.5.1.0/24 counter" in table.body
    assert '"flannel-wg"' in table.body
    for cls in (OverlayController, DevicesController):
        assert "encryption" in cls.after
    wanted = controller.desired(encrypted(), WHOLE)
    with pytest.raises(EncryptionError, match="none leave: no nftables"):
        EncryptionController(Applied("no nftables"), closed).apply(wanted)


OTHER: dict[str, Any] = {"Network": "10.9.0.0/16", "Backend": {"Type": "wireguard"}}


def test_the_network_before_stays_closed_when_another_is_configured(
    closed: ClosedNetworks,
) -> None:
    controller = EncryptionController(Applied(), closed)
    controller.desired(encrypted(), WHOLE)
    other = host(**OTHER)
    table = controller.desired(ReconcileInputs(other, {}), WHOLE)
    assert table is not None
    assert "ip daddr 10.9.0.0/16" in table.body
    assert "ip daddr 10.5.0.0/16" in table.body
    assert controller.desired(inputs(), WHOLE) is None
    table = controller.desired(ReconcileInputs(other, {}), WHOLE)
    assert table is not None
    assert "ip daddr 10.5.0.0/16" not in table.body


@pytest.mark.parametrize("address", ["10.5.1.2/24", "10.9.1.2/24", None])
def test_it_stays_closed_over_a_restart_while_pods_have_addresses_of_it(
    closed: ClosedNetworks, tmp_path: Path, address: str | None
) -> None:
    before = EncryptionController(Applied(), closed)
    for each in (encrypted(), ReconcileInputs(host(**OTHER), {})):
        before.apply(before.desired(each, WHOLE))
    plugin_host = PluginHost(tmp_path, tmp_path, tmp_path / "subnet.env")
    if address is not None:
        key = AttachmentKey("pods", "c1", "eth0")
        AttachmentStore(plugin_host).begin("", key, None, {"ips": [address]})
    started = EncryptionController(Applied(), ClosedNetworks(plugin_host))
    table = started.desired(ReconcileInputs(host(**OTHER), {}), WHOLE)
    assert table is not None
    assert ("ip daddr 10.5.0.0/16" in table.body) == (address == "10.5.1.2/24")
    started.apply(started.desired(inputs(), WHOLE))
    assert not (tmp_path / "encrypted-networks").exists()
    plugin_host.close()


def test_the_table_goes_only_when_another_backend_stands(closed: ClosedNetworks) -> None:
    applier = Applied()
    EncryptionController(applier, closed).apply(wanted_table(inputs()))
    assert applier.states == []
    obstacles: list[str | None] = ["device flannel.1 is not there", None]
    controller = ClearTextController(applier, lambda: obstacles.pop(0))
    controller.apply(controller.desired(encrypted(), WHOLE))
    assert applier.states == []
    wanted = controller.desired(inputs(), WHOLE)
    with pytest.raises(EncryptionError, match=r"flannel\.1 is not there"):
        controller.apply(wanted)
    assert applier.states == []
    controller.apply(wanted)
    assert applier.states == [HostState()]
