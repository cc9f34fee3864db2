# SPDX-License-Identifier: Apache-2.0
"""A table put between two stages, on a real ovs-vswitchd: packets go through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from ovs_mesh.clients.appctl import appctl
from ovs_mesh.clients.openflow import Switch
from ovs_mesh.config import OvsConfig
from ovs_mesh.flows import TABLES, PeerFlowCache, all_flows
from ovs_mesh.inputs import HostInputs, HostSide
from ovs_mesh.pipeline import Exits, Flow, Miss, Pipeline, Stage, Table, Traffic
from ovs_mesh.tables.local import LOCAL

if TYPE_CHECKING:
    from tests.netns.ovs_mesh.conftest import OvsHost

STEP = re.compile(r"^\s*(\d+)\. (?:.*, )?priority (\d+)", re.MULTILINE)


def _telnet(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    del inputs
    yield Flow(10, "tcp,tp_dst=23", exits.drop("telnet"))


NO_TELNET = Table(
    "no-telnet",
    Stage.PRE_ROUTING,
    Traffic.HOST_IP,
    _telnet,
    miss=Miss.NEXT,
    drop_reasons={"telnet": 99},
)


def test_added_table_is_on_the_way_of_the_traffic_that_it_carries(ovs_host: OvsHost) -> None:
    ovs_host.reconcile()  # makes obr0 and its ports
    tables = list(TABLES)
    tables.insert(tables.index(LOCAL), NO_TELNET)
    subnet, mac = IPv4Network("10.5.2.0/24"), "0a:58:0a:05:02:01"
    side = HostSide(1, mac, ("10.5.2.1",), (subnet,), ())
    config = OvsConfig(network=IPv4Network("10.5.0.0/16"))
    switch = Switch(ovs_host.server.directory, "obr0")
    lines = all_flows(config, side, [], {}, PeerFlowCache(), Pipeline(tables))
    switch.apply(switch.changes(lines))
    assert switch.changes(lines) == []

    def way(packet: str) -> list[tuple[int, int]]:
        text = appctl(switch.rundir, "ofproto/trace", "obr0", f"in_port=1,dl_src={mac},{packet}")
        return [(int(table), int(priority)) for table, priority in STEP.findall(text)]

    to_other = "nw_src=10.5.2.1,nw_dst=10.5.2.9"
    assert way(f"tcp,{to_other},tp_dst=80") == [(0, 100), (10, 100), (35, 0), (40, 90)]
    assert way(f"tcp,{to_other},tp_dst=23") == [(0, 100), (10, 100), (35, 10), (250, 1)]
    arp = f"arp,arp_op=1,arp_sha={mac},arp_spa=10.5.2.1,arp_tpa=10.5.2.9"
    assert way(arp) == [(0, 100), (10, 100), (30, 95), (40, 90)]
