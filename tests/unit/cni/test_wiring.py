# SPDX-License-Identifier: Apache-2.0
"""How pods are connected: what is recorded, and what is found wrong. Pure."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from cni.attachment.store import AttachmentRecord
from cni.cidr import parse_cidr
from cni.config.bridge_config import BridgeConfig
from cni.config.call import AttachmentKey
from cni.pod.naming import host_interface_alias, host_interface_name
from cni.wiring.compare import bridge_changes, port_changes, recorded, to_record
from cni.wiring.port_settings import Vlans, wanted_vlans
from hostnet.kinds.actual_link import (
    IFF_LOWER_UP,
    IFF_UP,
    IFLA_BR_STP_STATE,
    IFLA_BR_VLAN_DEFAULT_PVID,
    IFLA_BR_VLAN_FILTERING,
    IFLA_BRPORT_MODE,
    ActualLink,
)
from hostnet.netlink.bridge_ports import ISOLATED, PVID, STATE, UNTAGGED, parse_vlans

KEY = AttachmentKey("pods", "c1", "eth0")
CONFIG = BridgeConfig("kbr0", is_gateway=True, is_default_gateway=True, mtu=1450, hairpin=True)
BRIDGE = ActualLink("kbr0", 5, "bridge", IFF_UP, 1450, "0a:58:0a:05:01:01", "flatmesh-pod bridge")
STP = replace(BRIDGE, data={IFLA_BR_STP_STATE: b"\1\0\0\0"})
LEARNING, LOCKED = 8, 39
FIRST = PVID | UNTAGGED
GATEWAY = parse_cidr("10.5.1.1/24")
PORT = ActualLink(
    *(host_interface_name(KEY), 7, "veth", IFF_UP | IFF_LOWER_UP, 1450, "0a:59:0a:05:01:02"),
    alias=host_interface_alias(KEY),
    master=5,
    port={IFLA_BRPORT_MODE: b"\1"},
)


def record(**metadata: Any) -> AttachmentRecord:
    return AttachmentRecord(KEY, True, "/run/netns/x", "", (), {"plugin": "flatmesh", **metadata})


RECORD = record(wiring=to_record(CONFIG, BRIDGE, [GATEWAY]))


def wrong(bridge: ActualLink | None, port: ActualLink, *addresses: str) -> list[str]:
    pod = recorded(RECORD)
    assert pod is not None
    links = {link.name: link for link in (bridge, port) if link is not None}
    bridges = bridge_changes([pod], links, {"kbr0": set(addresses)}, {})
    ports = port_changes([pod], links, {})
    return [one.why for one in bridges] + [one.why for one in ports]


def test_what_is_as_it_was_made_is_left_alone() -> None:
    assert wrong(BRIDGE, PORT, "10.5.1.1/24") == []


@pytest.mark.parametrize(
    ("bridge", "port", "why"),
    [
        (None, PORT, ["is gone"]),
        (replace(BRIDGE, flags=0), PORT, ["is down"]),
        (replace(BRIDGE, mac="02:00:00:00:00:01"), PORT, ["has MAC 02:00:00:00:00:01"]),
        (replace(BRIDGE, mtu=1500), PORT, ["has MTU 1500"]),
        (replace(BRIDGE, alias="", mtu=1500, mac=""), PORT, []),  # another program's
        (replace(BRIDGE, index=9), PORT, ["is no port of kbr0"]),  # made again
        (BRIDGE, replace(PORT, master=0), ["is no port of kbr0"]),
        (BRIDGE, replace(PORT, flags=0, mtu=1400), ["is down, has MTU 1400"]),
        (BRIDGE, replace(PORT, port={}), ["lacks hairpin on"]),
        (
            BRIDGE,
            replace(PORT, port={**PORT.port, LEARNING: b"\0", LOCKED: b"\1", ISOLATED: b"\1"}),
            ["lacks learning on isolated off locked off"],
        ),
        (BRIDGE, replace(PORT, port={**PORT.port, STATE: b"\4"}), ["lacks state 3"]),
        (STP, replace(PORT, port={**PORT.port, STATE: b"\4"}), []),
        (BRIDGE, replace(PORT, flags=IFF_UP, port={**PORT.port, STATE: b"\0"}), []),  # no carrier
        (BRIDGE, replace(PORT, alias="x"), ["has another alias"]),
        (BRIDGE, replace(PORT, kind="dummy"), []),
    ],
)
def test_what_is_wrong(bridge: ActualLink | None, port: ActualLink, why: list[str]) -> None:
    assert wrong(bridge, port, "10.5.1.1/24") == why


def test_gateways_of_both_families_and_a_link_local_address_are_wanted() -> None:
    assert wrong(BRIDGE, PORT) == ["lacks 10.5.1.1/24"]
    gateways = [GATEWAY, parse_cidr("fd05::1/64")]
    pod = recorded(record(wiring=to_record(CONFIG, BRIDGE, gateways)))
    assert pod is not None
    there = {"10.5.1.1/24", "fd05::1/64"}
    links = {"kbr0": BRIDGE, PORT.name: PORT}
    (change,) = bridge_changes([pod], links, {"kbr0": there}, {})
    assert change.why == "lacks a link-local address"
    assert bridge_changes([pod], links, {"kbr0": there | {"fe80::1/64"}}, {}) == []


@pytest.mark.parametrize(("mtu", "wrong"), [(1450, ""), (1458, ""), (1500, "has MTU 1500")])
def test_after_a_live_change_the_bridge_may_have_the_mtu_of_new_pods(mtu: int, wrong: str) -> None:
    pod = recorded(RECORD)
    assert pod is not None
    links = {"kbr0": replace(BRIDGE, mtu=mtu), PORT.name: PORT}
    found = bridge_changes([pod], links, {"kbr0": {"10.5.1.1/24"}}, {}, 1458)
    assert [one.why for one in found] == ([wrong] if wrong else [])


def test_a_pod_that_is_ending_asks_for_no_bridge() -> None:
    pod = recorded(RECORD)
    assert pod is not None
    assert bridge_changes([pod], {}, {}, {}) == []
    assert port_changes([pod], {}, {}) == []


def test_records_of_other_versions() -> None:
    earlier = recorded(record(sourceGuard={"bridge": "kbr0"}))
    assert earlier is not None
    assert earlier.bridge is not None
    assert (earlier.bridge.bridge, earlier.gateways, earlier.knows_flags) == ("kbr0", (), False)
    links = {"kbr0": BRIDGE, PORT.name: replace(PORT, mtu=1400)}
    assert port_changes([earlier], links, {}) == []
    for other in (record(), record(wiring={"bridge": "kbr0"}), record(wiring={"x": 1})):
        assert recorded(other) is None
    assert recorded(RECORD._replace(ready=False)) is None
    on_switch = recorded(record(wiring=to_record(CONFIG, None, [])))
    assert on_switch is not None
    assert on_switch.bridge is None


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (CONFIG, {1: FIRST}),
        (CONFIG._replace(vlan=100), {1: UNTAGGED, 100: FIRST}),
        (CONFIG._replace(vlan=100, preserve_default_vlan=False), {100: FIRST}),
        (
            CONFIG._replace(vlan_trunk=((7, 7), (20, 22)), preserve_default_vlan=False),
            {7: 0, 20: 0, 21: 0, 22: 0},
        ),
    ],
)
def test_vlans_of_a_port_and_of_its_bridge(config: BridgeConfig, wanted: Vlans) -> None:
    assert wanted_vlans(config, 1) == wanted
    said = record(wiring=to_record(config, BRIDGE, [GATEWAY]))
    pod = recorded(said)
    assert pod is not None
    filtering = replace(
        BRIDGE, data={IFLA_BR_VLAN_FILTERING: b"\1", IFLA_BR_VLAN_DEFAULT_PVID: b"\1\0"}
    )
    links = {"kbr0": filtering, PORT.name: PORT}
    assert port_changes([pod], links, {PORT.index: wanted}) == []
    (change,) = port_changes([pod], links, {PORT.index: {2: 0}})
    assert (change.why, change.vlans) == ("is in VLANs 2", wanted)
    addresses = {"kbr0": {"10.5.1.1/24"}}
    found = bridge_changes([pod], links, addresses, {})
    if config.vlan:
        assert [one.why for one in found] == ["is not in VLANs 100"]
        assert bridge_changes([pod], links, addresses, {filtering.index: {100: 0}}) == []
    elif not config.vlan_trunk:
        assert [one.why for one in found] == ["filters VLANs"]
    if config.vlan_filtering:
        (change_of_bridge,) = bridge_changes(
            [pod], {"kbr0": BRIDGE, PORT.name: PORT}, addresses, {BRIDGE.index: {100: 0}}
        )
        assert change_of_bridge.why == "does not filter VLANs"


def test_vlans_are_read_with_their_ranges() -> None:
    def info(flags: int, vid: int) -> bytes:
        return struct.pack("=HHHH", 8, 2, flags, vid)

    spec = info(FIRST, 1) + info(1 << 3, 20) + info(1 << 4, 22) + info(UNTAGGED, 30)
    assert parse_vlans(spec) == {1: FIRST, 20: 0, 21: 0, 22: 0, 30: UNTAGGED}
    assert parse_vlans(b"\1") == {}
