"""How pods are connected: what is recorded, and what is found wrong. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cni.attachment.store import AttachmentRecord
from cni.cidr import parse_cidr
from cni.config.bridge_config import BridgeConfig
from cni.config.call import AttachmentKey
from cni.pod.naming import host_interface_alias, host_interface_name
from cni.wiring.compare import bridge_changes, port_changes, recorded, to_record
from hostnet.kinds.actual_link import IFF_UP, IFLA_BRPORT_MODE, ActualLink

KEY = AttachmentKey("pods", "c1", "eth0")
CONFIG = BridgeConfig("kbr0", is_gateway=True, is_default_gateway=True, mtu=1450, hairpin=True)
BRIDGE = ActualLink("kbr0", 5, "bridge", IFF_UP, 1450, "0a:58:0a:05:01:01", "flatmesh-pod bridge")
GATEWAY = parse_cidr("10.5.1.1/24")
PORT = ActualLink(
    *(host_interface_name(KEY), 7, "veth", IFF_UP, 1450, "0a:59:0a:05:01:02"),
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
    bridges = bridge_changes([pod], links, {"kbr0": set(addresses)})
    ports = port_changes([pod], links)
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
        (BRIDGE, replace(PORT, port={}), ["has another hairpin mode"]),
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
    (change,) = bridge_changes([pod], links, {"kbr0": there})
    assert change.why == "lacks a link-local address"
    assert bridge_changes([pod], links, {"kbr0": there | {"fe80::1/64"}}) == []


def test_a_pod_that_is_ending_asks_for_no_bridge() -> None:
    pod = recorded(RECORD)
    assert pod is not None
    assert bridge_changes([pod], {}, {}) == []
    assert port_changes([pod], {}) == []


def test_records_of_other_versions() -> None:
    earlier = recorded(record(sourceGuard={"bridge": "kbr0"}))
    assert earlier is not None
    assert earlier.bridge is not None
    assert (earlier.bridge.bridge, earlier.gateways, earlier.knows_flags) == ("kbr0", (), False)
    links = {"kbr0": BRIDGE, PORT.name: replace(PORT, mtu=1400)}
    assert port_changes([earlier], links) == []
    for other in (record(), record(wiring={"bridge": "kbr0"}), record(wiring={"x": 1})):
        assert recorded(other) is None
    assert recorded(RECORD._replace(ready=False)) is None
    on_switch = recorded(record(wiring=to_record(CONFIG, None, [])))
    assert on_switch is not None
    assert on_switch.bridge is None
