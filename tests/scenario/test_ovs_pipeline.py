# SPDX-License-Identifier: Apache-2.0
"""Each rule of the pipeline, asked of Open vSwitch itself: `ovs-appctl ofproto/trace`.

A case is a packet and the way it must go: the tables it meets, each with the priority of the
flow that matched, and what becomes of it. docs/ovs-pipeline.md names the same numbers.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hostnet.netlink.generic import has_family
from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from lab.spec import LabSpec
from ovs_mesh.clients.appctl import appctl
from ovs_mesh.tables.neighbour import ROUTER_IPV4, ROUTER_IPV6, ROUTER_MAC

STEP = re.compile(r"^\s*(\d+)\. (?:.*, )?priority (\d+)", re.MULTILINE)
KEY = 7


@dataclass(frozen=True)
class Known:
    """What cases are written with."""

    rundir: Path
    uplink: int
    tunnel: int
    gateway_mac: str
    gateway: str
    pod: str
    pod6: str
    pod_mac: str
    remote: str
    remote6: str
    remote_ip: str

    def trace(self, packet: str) -> tuple[list[tuple[int, int]], str]:
        """The way through the tables, and the end of it."""
        text = appctl(self.rundir, "ofproto/trace", "obr0", packet)
        here = text.partition("native tunnel")[0]  # what follows is obr0-phy's
        way = [(int(table), int(priority)) for table, priority in STEP.findall(here)]
        return way, text.rpartition("Datapath actions: ")[2].strip()

    def from_host(self, rest: str) -> str:
        return f"in_port={self.uplink},dl_src={self.gateway_mac},{rest}"

    def from_tunnel(self, rest: str, key: int = KEY) -> str:
        return f"in_port={self.tunnel},tun_id={key},tun_src={self.remote_ip},{rest}"


@pytest.fixture(scope="module", params=["flow", "static"])
def known(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Known]]:
    spec = LabSpec(
        f"t{secrets.token_hex(4)}",
        hosts=2,
        pods_per_host=1,
        ipv6=True,
        backend={"Type": "ovs", "Tunnel": "gre", "Mesh": request.param, "Key": KEY},
    )
    lab = Lab(spec, tmp_path_factory.mktemp("o"))
    try:
        lab.up()
        known = look(lab)
        warm(lab, known)
        yield request.param, known
    finally:
        lab.down()


def warm(lab: Lab, known: Known) -> None:
    """Traffic both ways, so that the tunnel knows its neighbour's MAC."""
    pod = next(p for p in lab.pods if p.host == 1)
    ping = ["ping", "-c", "20", "-i", "0.1", "-W", "2", known.remote]
    subprocess.run([*processes.enter(pod.netns), *ping], capture_output=True, check=True)


def look(lab: Lab) -> Known:
    mine, theirs = (next(p for p in lab.pods if p.host == number) for number in (1, 2))
    server = lab.ovs(1)
    ports = {}
    for name in ("obr0-kbr0", "mesh-gre", host_ipv4(2)):
        if number := server.vsctl("--if-exists", "get", "interface", name, "ofport"):
            ports["uplink" if name == "obr0-kbr0" else "tunnel"] = int(number)
    interfaces = {i["name"]: i["mac"] for i in mine.result["interfaces"]}
    v4, v6 = (next(a for a in mine.addresses if (":" in a) is six) for six in (False, True))
    r4, r6 = (next(a for a in theirs.addresses if (":" in a) is six) for six in (False, True))
    return Known(
        server.directory,
        ports["uplink"],
        ports["tunnel"],
        interfaces["kbr0"],
        v4.rpartition(".")[0] + ".1",
        v4,
        v6,
        interfaces["eth0"],
        r4,
        r6,
        host_ipv4(2),
    )


def test_packet_for_a_remote_pod_goes_into_the_tunnel(known: tuple[str, Known]) -> None:
    mesh, k = known
    packets = [
        k.from_host(f"udp,nw_src={k.pod},nw_dst={k.remote},nw_ttl=64"),
        k.from_host(f"udp,nw_src={host_ipv4(1)},nw_dst={k.remote},nw_ttl=64"),
        k.from_host(f"udp6,ipv6_src={k.pod6},ipv6_dst={k.remote6},nw_ttl=64"),
    ]
    for packet in packets:
        way, end = k.trace(packet)
        assert way == [(0, 100), (10, 100), (40, 30), (50, 100)], packet
        assert ("ttl=63" in end or "hlimit=63" in end) == (mesh == "flow"), (packet, end)
        assert end != "drop"


def test_packet_for_nobody_is_dropped(known: tuple[str, Known]) -> None:
    _, k = known
    way, end = k.trace(k.from_host(f"ip,nw_src={k.pod},nw_dst=203.0.113.1,nw_ttl=64"))
    assert (way, end) == ([(0, 100), (10, 100), (40, 30), (50, 1), (250, 1)], "drop")


@pytest.mark.parametrize("source", ["203.0.113.1", "remote"])
def test_address_that_is_not_ours_is_spoofed(known: tuple[str, Known], source: str) -> None:
    _, k = known
    source = k.remote if source == "remote" else source
    way, end = k.trace(k.from_host(f"ip,nw_src={source},nw_dst={k.remote},nw_ttl=64"))
    assert (way, end) == ([(0, 100), (10, 10), (250, 1)], "drop")


def test_known_address_with_another_mac_is_spoofed(known: tuple[str, Known]) -> None:
    _, k = known
    wrong_mac = f"in_port={k.uplink},dl_src=02:00:00:00:00:99"
    way, end = k.trace(f"{wrong_mac},ip,nw_src={k.pod},nw_dst={k.remote},nw_ttl=64")
    assert (way, end) == ([(0, 100), (10, 80), (250, 1)], "drop")
    way, end = k.trace(f"{wrong_mac},arp,arp_op=1,arp_spa={k.pod},arp_tpa={ROUTER_IPV4}")
    assert (way, end) == ([(0, 100), (10, 80), (250, 1)], "drop")


def test_packet_from_a_foreign_port_is_dropped(known: tuple[str, Known]) -> None:
    _, k = known
    way, end = k.trace(f"in_port=4242,ip,nw_src={k.pod},nw_dst={k.remote}")
    assert (way, end) == ([(0, 0)], "drop")


def test_stack_without_an_address_is_not_counted_as_spoofed(known: tuple[str, Known]) -> None:
    _, k = known
    for packet in ("ip,nw_src=0.0.0.0,nw_dst=255.255.255.255", "ipv6,ipv6_src=::,ipv6_dst=ff02::1"):
        way, end = k.trace(f"in_port={k.uplink},dl_src={k.pod_mac},{packet}")
        assert (way, end) == ([(0, 100), (10, 50)], "drop")


def test_packet_from_the_tunnel_is_delivered_when_its_sender_owns_the_source(
    known: tuple[str, Known],
) -> None:
    mesh, k = known
    mac = ROUTER_MAC if mesh == "flow" else k.pod_mac
    inner = f"ip,nw_src={k.remote},nw_dst={k.pod},nw_ttl=62"
    way, end = k.trace(k.from_tunnel(f"dl_dst={mac},{inner}"))
    # a static mesh sends it to the MAC that the pod has now, a flow mesh through the host
    assert way == [(0, 100), (20, 100), (40, 90 if mesh == "flow" else 100)]
    assert (k.gateway_mac in end) == (mesh == "flow")
    assert end != "drop"
    if mesh == "static":
        # the sender may still use a routed mesh while the mesh changes
        way, end = k.trace(k.from_tunnel(f"dl_dst={ROUTER_MAC},{inner}"))
        assert way == [(0, 100), (20, 100), (40, 100)]
        assert k.pod_mac in end
    way, end = k.trace(k.from_tunnel(f"ip,nw_src=203.0.113.1,nw_dst={k.pod},nw_ttl=62"))
    last = 20 if mesh == "flow" else 10
    assert (way, end) == ([(0, 100), (20, last), (250, 1)], "drop")


def test_packet_from_the_tunnel_for_another_host_never_leaves_again(
    known: tuple[str, Known],
) -> None:
    _, k = known
    way, end = k.trace(k.from_tunnel(f"ip,nw_src={k.remote},nw_dst={k.remote},nw_ttl=62"))
    assert (way, end) == ([(0, 100), (20, 100), (40, 0)], "drop")


def test_another_key_is_dropped(known: tuple[str, Known]) -> None:
    mesh, k = known
    if mesh == "static":
        pytest.skip("a port of one peer has its key in Open vSwitch's own tunnel lookup")
    inner = f"ip,nw_src={k.remote},nw_dst={k.pod},nw_ttl=62"
    way, end = k.trace(k.from_tunnel(inner, key=KEY + 1))
    assert (way, end) == ([(0, 90), (250, 1)], "drop")


def test_question_for_a_remote_address(known: tuple[str, Known]) -> None:
    """Flow: answered here, by the router's MAC. Static: sent to the one owner."""
    mesh, k = known
    target = ROUTER_IPV4 if mesh == "flow" else k.remote
    target6 = ROUTER_IPV6 if mesh == "flow" else k.remote6
    way, end = k.trace(
        k.from_host(
            f"arp,arp_op=1,arp_sha={k.gateway_mac},arp_spa={k.gateway},arp_tpa={target},"
            "dl_dst=ff:ff:ff:ff:ff:ff"
        )
    )
    if mesh == "flow":
        assert way == [(0, 100), (10, 100), (30, 90)]
        assert ROUTER_MAC in end
    else:
        assert way == [(0, 100), (10, 100), (30, 0), (40, 30), (50, 110)]
        assert end != "drop"
    way, end = k.trace(
        k.from_host(
            f"icmp6,icmpv6_type=135,icmpv6_code=0,ipv6_src=fe80::1,ipv6_dst=ff02::1:ff00:1,"
            f"nd_target={target6}"
        )
    )
    if mesh == "flow" and has_family("ovs_datapath"):  # it can't make an advertisement
        assert (way, end) == ([(0, 100), (10, 110), (30, 80), (40, 30), (50, 20)], "drop")
    elif mesh == "flow":
        assert way == [(0, 100), (10, 110), (30, 90), (31, 100)]
        assert ROUTER_MAC in end
    else:
        assert way == [(0, 100), (10, 110), (30, 80), (40, 30), (50, 110)]
        assert end != "drop"


def test_broadcast_stays_here_or_goes_to_every_peer(known: tuple[str, Known]) -> None:
    mesh, k = known
    way, end = k.trace(
        f"in_port={k.uplink},dl_src={k.pod_mac},dl_dst=ff:ff:ff:ff:ff:ff,"
        f"ip,nw_src={k.pod},nw_dst=255.255.255.255,nw_ttl=64"
    )
    if mesh == "flow":
        assert (way, end) == ([(0, 100), (10, 100), (40, 30), (50, 20)], "drop")
    else:
        assert way == [(0, 100), (10, 100), (40, 30), (50, 20), (60, 1)]
        assert end != "drop"
