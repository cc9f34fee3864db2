# SPDX-License-Identifier: Apache-2.0
"""The pipeline as a list of named tables: numbers, ways, and a table put between two others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ovs_mesh.flows import PIPELINE, POLICY_PIPELINE, TABLES, PeerFlowCache, all_flows
from ovs_mesh.inputs import HostInputs, HostSide, PeerInputs
from ovs_mesh.pipeline import (
    COOKIE,
    Exits,
    Flow,
    Miss,
    Pipeline,
    PipelineError,
    Stage,
    Table,
    Traffic,
)
from ovs_mesh.tables.local import LOCAL
from ovs_mesh.topology import Peer
from tests.unit.ovs_mesh.mesh_examples import config, peers

DOCUMENT = Path(__file__).parents[3] / "docs/ovs-pipeline.md"
HOST = HostSide(1, "0a:58:0a:05:01:01", ("10.5.1.1",), (IPv4Network("10.5.1.0/24"),), ())


def _toy_flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    yield Flow(100, f"ip,nw_dst={inputs.host.gateways[0]}", exits.next(Traffic.IP))
    yield Flow(90, "tcp,tp_dst=23", exits.drop("telnet"))


def _toy_flows_of_peer(inputs: PeerInputs, peer: Peer, ofport: int, exits: Exits) -> Iterator[Flow]:
    del inputs, ofport
    yield Flow(80, f"ip,nw_dst={peer.remote}", exits.next(Traffic.IP))


TOY = Table(
    "toy",
    Stage.PRE_ROUTING,
    Traffic.IP,
    _toy_flows,
    _toy_flows_of_peer,
    miss=Miss.NEXT,
    drop_reasons={"telnet": 99},
)


def with_toy() -> Pipeline:
    """All that a new table takes beside its module: one more line in the list."""
    tables = list(TABLES)
    tables.insert(tables.index(LOCAL), TOY)
    return Pipeline(tables)


def flows_of(pipeline: Pipeline, mesh: str = "flow") -> set[str]:
    ovs = config(Mesh=mesh)
    prefix = f"cookie={COOKIE:#x},"
    ports = {"mesh-vxlan": 10, "192.168.64.12": 10}
    lines = all_flows(ovs, HOST, peers(ovs, 2), ports, PeerFlowCache(), pipeline)
    return {line.removeprefix(prefix) for line in lines}


def test_tables_have_the_numbers_that_the_document_tells_operators() -> None:
    assert list(POLICY_PIPELINE.numbers.items()) == [
        ("classify", 0),
        ("anti-spoof", 10),
        ("ingress", 20),
        ("neighbour", 30),
        ("answer", 31),
        ("track", 35),
        ("egress-policy", 36),
        ("ingress-policy", 37),
        ("local", 40),
        ("remote", 50),
        ("flood", 60),
        ("dropped", 250),
    ]
    named = re.findall(r"(?m)^\| (\d+) (\S+) \|", DOCUMENT.read_text())
    assert [(name, int(number)) for number, name in named] == list(POLICY_PIPELINE.numbers.items())
    assert PIPELINE.numbers.items() < POLICY_PIPELINE.numbers.items()


def test_drop_reasons_keep_their_numbers_over_upgrades() -> None:
    """Counters of a running switch are told apart by them."""
    assert POLICY_PIPELINE.drop_reasons == {
        "spoofed": 1,
        "forged": 2,
        "wrong_key": 3,
        "no_peer": 4,
        "router_claim": 5,
        "dhcp_server": 6,
        "tagged": 7,
        "not_a_member": 8,
        "policy_egress": 9,
        "policy_ingress": 10,
    }


@pytest.mark.parametrize("mesh", ["flow", "static"])
def test_table_between_two_stages_is_entered_and_left_with_no_change_in_others(mesh: str) -> None:
    before, after = flows_of(PIPELINE, mesh), flows_of(with_toy(), mesh)
    assert with_toy().numbers["toy"] == 35
    new = {line for line in after if line.startswith("table=35,")}
    assert new == {
        "table=35,priority=0 actions=goto_table:40",
        "table=35,priority=100,ip,nw_dst=10.5.1.1 actions=goto_table:40",
        "table=35,priority=90,tcp,tp_dst=23 actions=set_field:99->reg1,goto_table:250",
        "table=35,priority=80,ip,nw_dst=192.168.64.12 actions=goto_table:40",
    }
    counter = {"table=250,priority=1,reg1=99 actions=drop"}
    # IP packets of this host and of tunnels go through it; ARP and ND still go to `neighbour`
    moved = {line for line in before if re.match(r"table=[12]0,.*goto_table:40", line)}
    assert moved
    assert after == (before - moved) | new | counter | {
        line.replace("goto_table:40", "goto_table:35") for line in moved
    }


def test_what_came_from_a_tunnel_has_no_way_to_other_hosts() -> None:
    def forward(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
        del inputs
        yield Flow(1, "", exits.next(Traffic.TUNNEL_IP))

    tables = [replace(t, host_flows=forward) if t is LOCAL else t for t in TABLES]
    with pytest.raises(PipelineError, match="table local"):
        flows_of(Pipeline(tables))


def test_kinds_of_traffic_that_go_different_ways_need_a_flow_each() -> None:
    def both(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
        del inputs
        yield Flow(1, "", exits.next(Traffic.HOST))

    spoof = TABLES[1]
    assert spoof.name == "anti-spoof"
    tables = [replace(t, host_flows=both) if t is spoof else t for t in TABLES]
    with pytest.raises(PipelineError, match="no next table, or several"):
        flows_of(Pipeline(tables))


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ([*TABLES, TABLES[0]], "stands too late"),
        ([TABLES[0], *TABLES], "two tables are called classify"),
        ([*TABLES[:5], *(replace(TOY, name=f"t{n}") for n in range(6)), *TABLES[5:]], "no number"),
        ([*TABLES, replace(TOY, stage=Stage.DROP, drop_reasons={"x": 4})], "is taken"),
    ],
)
def test_tables_that_make_no_pipeline_are_refused(tables: list[Table], complaint: str) -> None:
    with pytest.raises(PipelineError, match=complaint):
        Pipeline(tables)
