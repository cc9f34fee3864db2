# SPDX-License-Identifier: Apache-2.0
"""Flows of network policies: a flow for each pod, peer and port, whatever they are combined to."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from backend.isolation import Allowed, Isolation, PortRange
from ovs_mesh.flows import all_flows
from ovs_mesh.inputs import HostSide, PodPort
from ovs_mesh.match import MULTICAST
from ovs_mesh.pipeline import COOKIE
from ovs_mesh.tables.policy import port_matches
from tests.unit.ovs_mesh.mesh_examples import config

POD = PodPort("0a:00:00:00:00:02", ("10.5.1.2", "fd05::2"), 7)
SIDE = HostSide(
    "LOCAL",
    "02:00:00:00:00:01",
    ("10.5.1.1",),
    (ip_network("10.5.1.0/24"),),
    ("192.168.64.11",),
    (POD,),
    on_switch=True,
)


def flows(isolation: Isolation | None) -> set[str]:
    lines = all_flows(config(PodAttach="obr0"), replace(SIDE, isolation=isolation), [], {})
    return {line.removeprefix(f"cookie={COOKIE:#x},") for line in lines}


def of_table(number: int, isolation: Isolation) -> set[str]:
    found = {line for line in flows(isolation) if line.startswith(f"table={number},")}
    return {line.partition("priority=")[2] for line in found - flows(Isolation())}


def test_without_policies_there_are_no_such_tables() -> None:
    assert not any(line.startswith(("table=35", "table=36", "table=37")) for line in flows(None))
    assert any("goto_table:35" in line for line in flows(Isolation()))


def test_an_allowed_row_is_one_conjunction() -> None:
    peers, ports = ("10.5.2.0/24", "10.5.1.9", "fd05::9"), (PortRange("tcp", 80, 80),)
    one = Allowed("a", "ingress", ("10.5.1.2",), peers, ports)
    other = Allowed("b", "ingress", ("10.5.1.2",), peers[:1], None)
    a, b = 0xCA978112, 0x3E23E816
    drop = "actions=set_field:10->reg1,goto_table:250"
    assert of_table(37, Isolation(ingress=frozenset({"10.5.1.2"}), allowed=(one, other))) == {
        "280,ip,nw_dst=10.5.1.2,nw_src=10.5.1.2 actions=ct(commit,zone=61863),goto_table:40",
        f"100,ip,conj_id={a} actions=ct(commit,zone=61863),goto_table:40",
        f"100,ipv6,conj_id={a} actions=ct(commit,zone=61863),goto_table:40",
        f"100,ip,conj_id={b} actions=ct(commit,zone=61863),goto_table:40",
        f"100,ipv6,conj_id={b} actions=ct(commit,zone=61863),goto_table:40",
        f"100,ip,nw_dst=10.5.1.2 actions=conjunction({b},1/2),conjunction({a},1/3)",
        f"100,ip,nw_src=10.5.2.0/24 actions=conjunction({b},2/2),conjunction({a},2/3)",
        f"100,ip,nw_src=10.5.1.9 actions=conjunction({a},2/3)",
        f"100,ipv6,ipv6_src=fd05::9 actions=conjunction({a},2/3)",
        f"100,tcp,tp_dst=80 actions=conjunction({a},3/3)",
        f"100,tcp6,tp_dst=80 actions=conjunction({a},3/3)",
        f"60,ip,{MULTICAST} {drop}",
        f"60,ipv6,{MULTICAST} {drop}",
        f"60,ipv6,ipv6_dst=fe80::/10 {drop}",
        f"50,ip,nw_dst=10.5.1.2 {drop}",
    }


def test_what_a_pod_sends_is_known_by_its_port() -> None:
    everything = Allowed("a", "egress", ("fd05::2",), None, None)
    nobody = Allowed("b", "egress", ("10.5.1.2",), (), None)
    isolation = Isolation(egress=frozenset(POD.addresses), allowed=(everything, nobody))
    found = of_table(36, isolation)
    assert "200,ipv6,in_port=7 actions=goto_table:37" in found
    assert "50,ip,in_port=7 actions=set_field:9->reg1,goto_table:250" in found
    assert not any("conj" in line for line in found), "who may send to nobody has no flow"


@pytest.mark.parametrize(
    ("first", "last"), [(80, 80), (1000, 2000), (0, 65535), (1, 65534), (32768, 65535), (7, 8)]
)
def test_a_range_of_ports_is_masks_that_cover_it_and_no_more(first: int, last: int) -> None:
    found: list[int] = []
    for one in port_matches(PortRange("udp", first, last)):
        protocol, _, where = one.partition(",tp_dst=")
        if protocol != "udp":
            continue
        value, _, mask = where.partition("/")
        bits = int(mask, 16) if mask else 0xFFFF if where else 0
        found += [n for n in range(65536) if n & bits == int(value or "0", 0) & bits]
    assert sorted(found) == list(range(first, last + 1))
