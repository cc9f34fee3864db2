# SPDX-License-Identifier: Apache-2.0
"""The mesh in Open vSwitch, every tunnel with every mesh, on the datapath that is here.

One lab per combination; the tests of a combination run in it one after the other, and each
restores what it changes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostnet.netns import run_in
from lab import processes
from lab.cluster import Lab
from lab.matrix import measure
from lab.spec import LabSpec
from lab.time_factor import scaled
from lab.watched_stream import watched_stream
from tests.scenario.ovs_lab import assert_all_reach_all, backend, flows_of, switch

On = Callable[..., str]
Eventually = Callable[..., None]
TUNNELS = ("gre", "vxlan", "geneve")
MESHES = ("static", "flow", "combined")


COMBINATIONS = [backend(tunnel, mesh) for tunnel in TUNNELS for mesh in MESHES]
COMBINATIONS += [backend("vxlan", mesh, PodAttach="obr0") for mesh in ("static", "flow")]
IN_KERNEL = [backend("gre", "flow"), backend("vxlan", "combined"), backend("geneve", "static")]
IN_KERNEL += [backend("vxlan", mesh, PodAttach="obr0") for mesh in ("static", "flow")]


def called(config: dict[str, Any]) -> str:
    more = [config.get(key, "") for key in ("PodAttach", "Datapath")]
    words = [config["Tunnel"], config["Mesh"], *more]
    return " ".join(word for word in words if word)


def on_datapaths() -> Iterator[Any]:
    """The combinations in user space, and some in the kernel, where it has openvswitch."""
    for config in COMBINATIONS:
        yield pytest.param({**config, "Datapath": "netdev"}, id=called(config))
    for number, base in enumerate(IN_KERNEL):
        config = {**base, "Datapath": "system"}
        mark = pytest.mark.kernel("openvswitch", long=number > 0)
        yield pytest.param(config, id=called(config), marks=mark)


@pytest.fixture(scope="module", params=on_datapaths())
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    spec = LabSpec(
        f"t{secrets.token_hex(4)}", hosts=3, pods_per_host=1, ipv6=True, backend=request.param
    )
    lab = Lab(spec, tmp_path_factory.mktemp("o"))
    try:
        lab.up()
        wait_for_all_flows(lab)
        yield lab
    finally:
        lab.down()


def wait_for_all_flows(lab: Lab) -> None:
    """Until every host knows its pods and every peer."""
    deadline = time.monotonic() + scaled(30)
    for number in lab.host_numbers:
        others = [lab.subnet(n) for n in lab.host_numbers if n != number]
        pods = [a for pod in lab.pods if pod.host == number for a in pod.addresses]
        while True:
            flows = "\n".join(flows_of(lab, number))
            if all(f"={known} " in flows or f"={known}," in flows for known in [*others, *pods]):
                break
            assert time.monotonic() < deadline, f"h{number} lacks flows:\n{flows}"
            time.sleep(0.05)


@pytest.mark.kernel_short
def test_every_pod_reaches_every_pod_and_every_host_every_pod(mesh: Lab) -> None:
    assert_all_reach_all(mesh)


@pytest.mark.kernel_short
def test_frames_on_the_underlay_are_the_tunnels_with_the_pods_packet_inside(mesh: Lab) -> None:
    first, second = (pod for pod in mesh.pods if pod.host in (2, 3))
    config = mesh.spec.backend
    rule = config.get("Peers", [config])[0]
    ping = ["ping", "-c", "1", "-W", "5", second.addresses[0]]
    enter = processes.enter(first.netns)
    for _ in range(10):  # until the tunnel has resolved its neighbour's MAC address
        if subprocess.run([*enter, *ping], capture_output=True, check=False).returncode == 0:
            break
    captured = capture_ping(mesh, first.netns, second.addresses[0])
    inner = []
    for frame in captured:
        kind, key, packet = unwrap(frame)
        if kind is None:
            continue
        assert (kind, key) == (rule["Tunnel"], rule["Key"])
        inner.append(packet)
    pings = [(p["IP"].src, p["IP"].dst) for p in inner if p.haslayer("ICMP")]
    assert (first.addresses[0], second.addresses[0]) in pings
    assert (second.addresses[0], first.addresses[0]) in pings
    if config["Mesh"] != "static":
        assert [p.summary() for p in inner if int(p.dst[:2], 16) & 1 or p.haslayer("ARP")] == []


def capture_ping(lab: Lab, netns: str, target: str) -> list[bytes]:
    """All frames on host 2's underlay port while a pod pings."""

    def opened() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        raw.bind(("h2", 3))
        raw.settimeout(0.5)
        return raw

    frames = []
    with run_in(processes.NETNS_DIR / lab.names.underlay, opened) as raw:
        subprocess.run(
            [*processes.enter(netns), *["ping", "-c", "3", "-i", "0.2", "-W", "5"], target],
            capture_output=True,
            check=True,
        )
        while True:
            try:
                frames.append(raw.recv(4096))
            except TimeoutError:
                return frames


def unwrap(frame: bytes) -> tuple[str | None, int, Any]:
    """Which tunnel a frame is of, its key, and the Ethernet frame inside."""
    from scapy.contrib.geneve import GENEVE
    from scapy.layers.l2 import GRE, Ether
    from scapy.layers.vxlan import VXLAN

    outer = Ether(frame)
    if outer.haslayer(GRE):
        gre = outer[GRE]
        return "gre", gre.key, Ether(bytes(gre.payload))
    if outer.haslayer("UDP") and outer["UDP"].dport == 4789:
        vxlan = VXLAN(bytes(outer["UDP"].payload))
        return "vxlan", vxlan.vni, Ether(bytes(vxlan.payload))
    if outer.haslayer("UDP") and outer["UDP"].dport == 6081:
        geneve = GENEVE(bytes(outer["UDP"].payload))
        return "geneve", geneve.vni, Ether(bytes(geneve.payload))
    return None, 0, None


def test_killed_daemon_loses_no_packet(
    mesh: Lab, lost_while_daemon_is_killed: Callable[..., int]
) -> None:
    sender, receiver = mesh.pods[0], mesh.pods[-1]
    assert_all_reach_all(mesh)  # the first packet is lost while a tunnel resolves a MAC address
    before = flows_of(mesh, 1)
    assert lost_while_daemon_is_killed(mesh, sender, receiver) == 0
    assert flows_of(mesh, 1) == before


def test_what_was_changed_by_hand_is_repaired_and_foreign_objects_stay(
    mesh: Lab, on: On, eventually: Eventually
) -> None:
    before = flows_of(mesh, 1)
    target = switch(mesh, 1).target
    foreign = "table=99,priority=5,ip,nw_dst=203.0.113.9 actions=drop"
    host = mesh.names.host(1)
    on(host, f"ovs-ofctl add-flow {target} {foreign.replace(' ', ',')}")
    on(host, f"ovs-ofctl --strict del-flows {target} table=0,priority=0")
    eventually(lambda: flows_of(mesh, 1) == before, "the deleted flow is back")
    on(host, f"ovs-ofctl -O OpenFlow14 mod-flows {target} table=50,actions=drop")
    eventually(lambda: flows_of(mesh, 1) == before, "the changed flows are as they were")
    tunnel = next(
        name
        for name in mesh.ovs(1).vsctl("list-ports", "obr0").splitlines()
        if name.startswith(("mesh-", "192."))
    )
    mesh.ovs(1).vsctl("--no-wait", "del-port", "obr0", tunnel)
    eventually(
        lambda: tunnel in mesh.ovs(1).vsctl("list-ports", "obr0").splitlines(), "the port is back"
    )
    assert_all_reach_all(mesh)
    assert "nw_dst=203.0.113.9" in on(host, f"ovs-ofctl dump-flows {target} table=99")


def test_killed_ovs_vswitchd_gets_its_flows_back(mesh: Lab, eventually: Eventually) -> None:
    server = mesh.ovs(1)
    before = len(flows_of(mesh, 1))
    server.stop("ovs-vswitchd", grace=0)
    server.start_switch()
    eventually(lambda: len(flows_of(mesh, 1)) == before, "flows are back")
    assert_all_reach_all(mesh)


def test_ovsdb_server_away_and_back(mesh: Lab, eventually: Eventually) -> None:
    """The kernel datapath forwards meanwhile; the userspace one stops and goes on.

    ovs-vswitchd polls a userspace datapath's devices in the loop that waits for its database.
    """
    server = mesh.ovs(1)
    sender, receiver = mesh.pods[0], mesh.pods[-1]
    with watched_stream(sender, receiver) as stream:
        eventually(lambda: stream.received > 50, "traffic flows")
        server.stop("ovsdb-server", grace=0)
        mark = stream.received
        if mesh.spec.backend["Datapath"] == "system":
            eventually(lambda: stream.received > mark + 200, "traffic flows without the database")
        server.start_database()
        mark = stream.received
        eventually(lambda: stream.received > mark + 100, "traffic flows with it")
    mesh.add_pod(1, "late")
    try:
        pods = [e for e in mesh.pod_endpoints(4) if e.name in ("h1-late", "h3-p1")]
        assert len(pods) == 2
        assert [c for c in measure(pods, pods, timeout=30.0) if not c.good] == []
    finally:
        mesh.delete_pod(1, "late")


def test_cleanup_removes_all_that_is_ours(mesh: Lab, on: On) -> None:
    host = mesh.names.host(1)
    mesh.stop_daemon(1)
    mesh.ovs(1).vsctl("--no-wait", "--may-exist", "add-br", "theirs")
    done = subprocess.run(
        [*processes.enter(host), sys.executable, "-I", "-m", "agent.main", "--cleanup", "--force"],
        env={**os.environ, **mesh.environment(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stderr
        assert mesh.ovs(1).vsctl("list-br") == "theirs"
        links = {link["ifname"] for link in json.loads(on(host, "ip -json link"))}
        assert not links & {"obr0", "obr0-phy", "kbr0-obr0", "obr0-kbr0", "phy-host", "phy-ovs"}
        assert "flatmesh" not in on(host, "nft list tables")
        assert not (mesh.host_dir(1) / "run/attach.json").exists()
    finally:
        mesh.ovs(1).vsctl("--no-wait", "del-br", "theirs")
        mesh.start_daemon(1)
        mesh.wait_ready(1)
