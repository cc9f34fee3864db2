# SPDX-License-Identifier: Apache-2.0
"""Real TCP, UDP and ICMP through the udp data plane, and its ICMP errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flannel.udp.control import call
from hostnet.netns import run_in
from lab import hosts, processes

TIMEOUT = 20.0  # seconds
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
MakeMesh = Any


def udp_socket(netns: str, address: str, port: int = 0) -> socket.socket:
    def opened() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(TIMEOUT)
        sock.bind((address, port))
        return sock

    made: socket.socket = run_in(processes.NETNS_DIR / netns, opened)
    return made


@contextlib.contextmanager
def tcp_pair(client: str, server: str, address: str) -> Iterator[tuple[Any, Any]]:
    """An established connection between two namespaces: both ends."""

    def listening() -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, 0), family=family)

    with run_in(processes.NETNS_DIR / server, listening) as listener:
        listener.settimeout(TIMEOUT)
        target = listener.getsockname()[:2]
        near = run_in(
            processes.NETNS_DIR / client, lambda: socket.create_connection(target, TIMEOUT)
        )
        with near:
            far, _ = listener.accept()
            far.settimeout(TIMEOUT)
            with far:
                yield near, far


def transfer(near: socket.socket, far: socket.socket, size: int) -> None:
    """Send `size` random bytes and compare digests."""
    sent, got = hashlib.sha256(), hashlib.sha256()
    chance = random.Random(size)

    def send() -> None:
        left = size
        while left:
            block = chance.randbytes(min(left, 1 << 18))
            sent.update(block)
            near.sendall(block)
            left -= len(block)

    sender = threading.Thread(target=send)
    sender.start()
    left = size
    while left:
        block = far.recv(min(left, 1 << 18))
        assert block, "the connection broke"
        got.update(block)
        left -= len(block)
    sender.join()
    assert got.digest() == sent.digest()


@pytest.mark.parametrize("by", ["ipv4", "ipv6"])
def test_a_tcp_stream_arrives_unchanged_in_super_packets(make_mesh: MakeMesh, by: str) -> None:
    mesh = make_mesh(ipv6=by == "ipv6", ipv4=by == "ipv4")
    mesh.reconcile()
    first, second = mesh.hosts
    address = second.endpoints()[0].addresses[0]
    with tcp_pair(first.pod, second.pod, address) as (near, far):
        transfer(near, far, 32 << 20)
        transfer(far, near, 8 << 20)
    counted = second.counters()
    assert counted["rx_packets"] > 3 * counted["rx_writes"]
    assert "rx_checksum_wrong" not in counted
    assert not [name for name in counted if name.startswith("drop_rx")]


def test_datagrams_of_any_size_arrive_unchanged(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    first, second = mesh.hosts
    near = udp_socket(first.pod, first.pod_ip)
    far = udp_socket(second.pod, second.pod_ip, 4000)
    chance = random.Random(1)
    with near, far:
        for size in [0, 1, 2, 100, 1443, 1444, 1445, 3000, 65507, *range(500, 520)]:
            content = chance.randbytes(size)
            near.sendto(content, (second.pod_ip, 4000))
            assert far.recv(70000) == content


# -- beside flanneld ----------------------------------------------------------------------


def flanneld_like(listening: socket.socket, stop: threading.Event) -> None:
    """One bare packet in, the answer out: a ping's echo, as a host with flanneld would send it."""
    listening.settimeout(0.05)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            packet, sender = listening.recvfrom(65536)
            answer = bytearray(packet)
            answer[12:16], answer[16:20] = packet[16:20], packet[12:16]
            answer[20] = 0  # echo reply; its checksum is off by the type
            total = struct.unpack(">H", packet[22:24])[0] + 0x0800
            answer[22:24] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
            listening.sendto(answer, sender)


def test_a_host_that_sends_single_bare_packets_is_understood(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    first, second = mesh.hosts
    leases = [host.publish() for host in mesh.hosts]
    first.reconcile(leases)
    stop = threading.Event()
    with udp_socket(second.netns, hosts.host_ipv4(2), 8285) as sock:
        old = threading.Thread(target=flanneld_like, args=(sock, stop))
        old.start()
        try:
            done = in_pod(first.pod, "ping", "-c", "3", "-i", "0.01", "-W", "10", "10.5.2.77")
            large = in_pod(first.pod, "ping", "-c", "1", "-s", "1444", "-W", "10", "10.5.2.77")
        finally:
            stop.set()
            old.join()
    assert " 0% packet loss" in done, done
    assert " 0% packet loss" in large, large


def in_pod(netns: str, *command: str) -> str:
    import subprocess

    done = subprocess.run(
        [*processes.enter(netns), *command], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


# -- who may speak ------------------------------------------------------------------------


def test_packets_of_unknown_hosts_never_reach_a_pod(make_mesh: MakeMesh, wait: Any) -> None:
    mesh = make_mesh(3)
    mesh.reconcile()
    first, second, third = mesh.hosts
    with (
        udp_socket(first.pod, first.pod_ip, 5000) as pod,
        udp_socket(third.netns, hosts.host_ipv4(3)) as stranger,
    ):
        inner = udp_packet(second.pod_ip, first.pod_ip, 5000, b"forged")
        stranger.sendto(inner, (hosts.host_ipv4(1), 8285))
        wait(lambda: first.counters().get("drop_rx_spoofed") == 1, "the drop is counted")
        own = udp_packet(third.pod_ip, first.pod_ip, 5000, b"honest")
        stranger.sendto(own, (hosts.host_ipv4(1), 8285))
        assert pod.recv(100) == b"honest"


def udp_packet(source: str, destination: str, port: int, content: bytes) -> bytes:
    """A bare IPv4 packet with a UDP datagram without checksum."""
    head: bytes = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(content), 0, 0x4000, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack(">10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    head = head[:10] + (~total & 0xFFFF).to_bytes(2, "big") + head[12:]
    return head + struct.pack(">HHHH", 6000, port, 8 + len(content), 0) + content


# -- ICMP ---------------------------------------------------------------------------------


def test_a_subnet_that_nobody_leases_is_unreachable(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(ipv6=True)
    mesh.reconcile()
    pod = mesh.hosts[0].pod
    assert "Destination Net Unreachable" in in_pod(pod, "ping", "-c1", "-W5", "10.5.200.1")
    said = in_pod(pod, "ping", "-6", "-c1", "-W5", "fd05:0:0:c8::1")
    assert "Destination unreachable: No route" in said


def test_both_hosts_decrement_the_ttl(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(ipv6=True)
    mesh.reconcile()
    first, second = mesh.hosts
    for target, family in ((second.pod_ip, "-4"), (str(second.ipv6_subnet[2]), "-6")):
        said = {
            ttl: in_pod(first.pod, "ping", family, "-c1", "-W5", "-t", str(ttl), target)
            for ttl in range(1, 6)
        }
        for ttl in range(1, 5):
            assert "xceeded" in said[ttl], (ttl, said[ttl])
        assert " 0% packet loss" in said[5]


@pytest.mark.parametrize("family", [4, 6])
def test_a_smaller_path_mtu_is_reported_to_the_pod(make_mesh: MakeMesh, family: int) -> None:
    mesh = make_mesh(ipv6=True)
    mesh.reconcile()
    first, second = mesh.hosts
    # the kernel turns a router's ICMP error into a route with a smaller MTU
    hosts.ip(
        "-n", first.netns, "route", "add", hosts.host_ipv4(2), "dev", "eth0", "mtu", "lock", "1400"
    )
    # sent first: later the pod knows the path MTU and fragments by itself
    may_be_cut = in_pod(first.pod, "ping", "-4", "-c1", "-W5", "-Mdont", "-s1400", second.pod_ip)
    assert " 0% packet loss" in may_be_cut
    assert first.counters()["tx_fragments"] >= 2
    address = second.pod_ip if family == 4 else str(second.ipv6_subnet[2])
    said = in_pod(first.pod, "ping", f"-{family}", "-c1", "-W5", "-Mdo", "-s1400", address)
    assert "mtu = 1372" in said or "mtu=1372" in said, said
    with tcp_pair(first.pod, second.pod, address) as (near, far):
        transfer(near, far, 1 << 20)


# -- survival -----------------------------------------------------------------------------


def test_a_connection_outlives_the_daemon_and_an_upgrade(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flannel.udp import data_plane as udp_data_plane

    mesh = make_mesh()
    mesh.reconcile()
    first, second = mesh.hosts
    with tcp_pair(first.pod, second.pod, second.pod_ip) as (near, far):
        transfer(near, far, 1 << 20)
        first.start()  # the daemon starts anew
        mesh.reconcile()
        transfer(near, far, 1 << 20)
        before, counted = first.pid(), first.counters()
        monkeypatch.setattr(udp_data_plane, "build", lambda: "new code")
        first.reconcile([host.own for host in mesh.hosts])
        assert first.pid() != before
        transfer(near, far, 1 << 20)
        assert all(first.counters()[name] >= value for name, value in counted.items())


def test_no_datagram_is_lost_while_the_process_is_handed_over(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flannel.udp import data_plane as udp_data_plane

    mesh = make_mesh()
    mesh.reconcile()
    first, second = mesh.hosts
    monkeypatch.setattr(udp_data_plane, "build", lambda: "new code")
    stop = threading.Event()
    with (
        udp_socket(first.pod, first.pod_ip) as near,
        udp_socket(second.pod, second.pod_ip, 4000) as far,
    ):
        far.setsockopt(
            socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20
        )  # so that a slow reader loses none
        sent = 0
        got: set[int] = set()

        def send() -> None:
            nonlocal sent
            while not stop.is_set():
                near.sendto(sent.to_bytes(4, "big"), (second.pod_ip, 4000))
                sent += 1
                stop.wait(0.001)

        def receive() -> None:
            with contextlib.suppress(TimeoutError):
                while sender.is_alive() or len(got) < sent + 1:
                    got.add(int.from_bytes(far.recv(100), "big"))

        receiver = threading.Thread(target=receive)
        sender = threading.Thread(target=send)
        sender.start()
        receiver.start()
        for host in mesh.hosts:
            host.reconcile([h.own for h in mesh.hosts])
        stop.set()
        sender.join()
        near.sendto(
            sent.to_bytes(4, "big"), (second.pod_ip, 4000)
        )  # so that no peer is left waiting
        receiver.join()
    assert set(range(sent + 1)) - got == set(), [
        hosts.ip("-n", host.netns, "-s", "link", "show", "flannel0") for host in mesh.hosts
    ]


def test_a_killed_process_is_replaced(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    first = mesh.hosts[0]
    before = first.pid()
    processes.stop([before], grace=0)
    assert first.run(first.plane.problem) == "udp: the data plane is not running"
    mesh.reconcile()
    assert first.pid() != before
    mesh.assert_all_reach_all()


def test_a_deleted_device_ends_the_process_and_comes_back(make_mesh: MakeMesh, wait: Any) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    first = mesh.hosts[0]
    before = first.pid()
    hosts.ip("-n", first.netns, "link", "del", "flannel0")
    wait(lambda: not processes.running(before), "the process ends")
    mesh.reconcile()
    mesh.assert_all_reach_all()


def test_a_process_that_cannot_be_reached_any_more_ends(make_mesh: MakeMesh, wait: Any) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    first = mesh.hosts[0]
    before = first.pid()
    first.plane.files.socket.unlink()
    wait(lambda: not processes.running(before), "the process ends")


def test_a_taken_port_is_reported_in_one_line(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    first = mesh.hosts[0]
    with (
        udp_socket(first.netns, hosts.host_ipv4(1), 8285),
        pytest.raises(OSError, match=r"port 8285 is in use by .*; stop it, or set Backend.Port"),
    ):
        mesh.reconcile()


def test_a_device_of_another_program_is_left_alone(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    first = mesh.hosts[0]
    hosts.ip("-n", first.netns, "link", "add", "flannel0", "type", "bridge")
    with pytest.raises(OSError, match="device flannel0 exists and is not ours"):
        mesh.reconcile()
    first.run(first.plane.cleanup)
    assert "flannel0" in first.links()


def test_bad_requests_are_answered_and_change_nothing(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    files: Any = mesh.hosts[0].plane.files
    bad: list[dict[str, Any]] = [
        {},
        {"op": "dance"},
        {"op": "set table"},
        {"op": "set table", "table": {"own": ["x"], "peers": []}},
        {"op": "set table", "table": 3},
    ]
    for request in bad:
        with pytest.raises(OSError, match="bad request"):
            call(files, json.loads(json.dumps(request)))
    mesh.assert_all_reach_all()
