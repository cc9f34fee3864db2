# SPDX-License-Identifier: Apache-2.0
"""What is seen on the underlay: nothing unencrypted, not even while something is broken."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostnet.netns import run_in
from lab import hosts, processes
from lab.time_factor import scaled

MARK = b"the quick brown fox " + secrets.token_hex(8).encode()


@contextlib.contextmanager
def captured(netns: str, file: Path) -> Iterator[list[bytes]]:
    """All frames on the underlay's bridge while the block runs; the list is filled after it."""
    frames: list[bytes] = []
    log = file.with_suffix(".log")
    tcpdump = processes.spawn(["tcpdump", "-i", "br0", "-U", "-s0", "-w", str(file)], netns, log)
    try:
        deadline = time.monotonic() + scaled(20)
        while "listening on" not in log.read_text():
            assert tcpdump.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield frames
        # the last frame that must be seen: in clear, from outside the overlay
        end = b"end of the capture " + secrets.token_hex(8).encode()
        send(netns, "192.168.64.11", end)
        while end not in file.read_bytes():
            assert time.monotonic() < deadline + scaled(20)
            time.sleep(0.02)
    finally:
        processes.stop([tcpdump.pid])
        tcpdump.wait()
    from scapy.utils import RawPcapReader

    with RawPcapReader(str(file)) as reader:
        frames += [frame for frame, _ in reader]


def send(netns: str, address: str, payload: bytes) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in(netns, lambda: socket.socket(family, socket.SOCK_DGRAM)) as sender:
        sender.sendto(payload, (address, 9))


def in_clear(frames: list[bytes]) -> list[bytes]:
    return [frame for frame in frames if MARK in frame]


def test_frames_show_neither_content_nor_pod_addresses(
    make_any_mesh: Callable[..., Any], tmp_path: Path
) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    mesh = make_any_mesh(2, ipv6=True)
    mesh.reconcile()
    with captured(mesh.names.underlay, tmp_path / "frames.pcap") as frames:
        mesh.assert_all_reach_all()
        for sender, receiver in (mesh.hosts, mesh.hosts[::-1]):
            for family in (4, 6):
                send(sender.pod, receiver.endpoint(family).addresses[0], MARK)
    assert in_clear(frames) == []
    kinds = set()
    for packet in map(Ether, frames):
        if IP in packet:
            assert not packet[IP].src.startswith("10.5.")
            assert not packet[IP].dst.startswith("10.5.")
        if IPv6 in packet:
            assert not packet[IPv6].src.startswith("fd05:")
            assert not packet[IPv6].dst.startswith("fd05:")
        if UDP in packet and packet[UDP].dport in (51820, 51821):
            kinds.add(bytes(packet[UDP].payload)[0])
    assert kinds == {1, 2, 4}  # handshake initiation, its response, transport data


def test_the_capture_does_see_unencrypted_packets(mesh: Any, tmp_path: Path) -> None:
    with captured(mesh.names.underlay, tmp_path / "frames.pcap") as frames:
        send(mesh.hosts[0].netns, hosts.host_ipv4(2), MARK)
    assert in_clear(frames) != []


@pytest.mark.parametrize("fault", ["killed", "stopped", "unknown subnet", "no peers"])
def test_nothing_leaves_unencrypted_while_the_tunnel_is_broken(
    mesh: Any, tmp_path: Path, fault: str
) -> None:
    first, second = mesh.hosts
    target = second.address
    match fault:
        case "killed":
            first.kill()
        case "stopped":
            first.run(first.plane.processes["flannel-wg"].stop)
        case "unknown subnet":
            target = "10.5.200.2"
        case "no peers":
            first.reconcile([])
    with captured(mesh.names.underlay, tmp_path / "frames.pcap") as frames:
        for _ in range(3):
            with contextlib.suppress(OSError):
                send(first.pod, target, MARK)
        done = subprocess.run(
            [*processes.enter(first.netns), "ip", "route", "get", target],
            capture_output=True,
            text=True,
            check=False,
        )
    assert in_clear(frames) == []
    assert "dev flannel-wg" in done.stdout
