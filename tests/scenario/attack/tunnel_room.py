# SPDX-License-Identifier: Apache-2.0
"""A lab under attack: forged packets for its backend, and what of them arrives.

A datagram that must arrive is sent after the forged ones: what has not come by then was dropped.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from hostnet.netns import run_in
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6, host_ipv4, host_ipv6
from lab.processes import NETNS_DIR
from lab.spec import LabPod
from tests.scenario.attack.packets import mac_of, packet_socket

PORTS = {"vxlan": 8472, "udp": 8285, "wireguard": 51820}
METRICS, SCHEDULER, ETCD = 9000, 2377, 2379
CONTROL = b"a datagram that must arrive"
METRICS_FLAGS = ("--healthz-ip=0.0.0.0", f"--healthz-port={METRICS}")
PLAIN_PORT = 9  # discard, RFC 863


@dataclass
class Room:
    """A lab with one of the backends, and what attacks need of it."""

    lab: Lab
    family: int = 4
    number: int = 0
    sent: dict[bytes, str] = field(default_factory=dict)
    """What each forged datagram is, by its content."""

    @property
    def backend(self) -> str:
        return str(self.lab.spec.backend["Type"])

    def pod(self, host: int, name: str) -> LabPod:
        return next(p for p in self.lab.pods if (p.host, p.name) == (host, name))

    def address(self, pod: LabPod) -> str:
        return next(a for a in pod.addresses if (":" in a) == (self.family == 6))

    def host(self, number: int, family: int | None = None) -> str:
        four = (family or self.family) == 4
        if number == 0:
            return f"{UNDERLAY_IPV4}.1" if four else f"{UNDERLAY_IPV6}:1"
        return host_ipv4(number) if four else host_ipv6(number)

    def datagram(self, what: str, source: str, target: LabPod) -> Packet:
        """A pod's packet with a content that nobody else sends."""
        self.number += 1
        content = f"forged {self.number}".encode()
        self.sent[content] = what
        header = IP if self.family == 4 else IPv6
        packet = header(src=source, dst=self.address(target)) / UDP(sport=1, dport=PLAIN_PORT)
        return packet / Raw(content)

    def payload(self, inner: Packet, target: int) -> bytes:
        """What a tunnel datagram to a host holds for an inner packet."""
        if self.backend == "udp":
            return bytes(inner)
        return bytes(self.vxlan(inner, target))

    def vxlan(self, inner: Packet, target: int) -> Packet:
        device = "flannel.1" if self.family == 4 else "flannel-v6.1"
        mac = mac_of(self.lab.names.host(target), device)
        return VXLAN(vni=1, flags=8) / Ether(dst=mac, src="02:00:00:00:00:99") / inner

    @property
    def outer_family(self) -> int:
        return 4 if self.backend == "udp" else self.family

    def frame(self, target: int, packet: Packet) -> Packet:
        """A frame on the underlay to a host."""
        return Ether(dst=mac_of(self.lab.names.host(target), "eth0")) / packet

    def encapsulated(self, sender: str, target: int, inner: Packet) -> Packet:
        header = IP if self.outer_family == 4 else IPv6
        outer = header(src=sender, dst=self.host(target, self.outer_family))
        port = PORTS[self.backend]
        payload = Raw(self.payload(inner, target))
        return self.frame(target, outer / UDP(sport=port, dport=port) / payload)

    @contextlib.contextmanager
    def nothing_arrives(self, victim: LabPod, sender: LabPod) -> Iterator[None]:
        """Fails when a forged datagram of the block has reached the victim before a true one."""
        self.sent.clear()
        with packet_socket(victim.netns, "eth0") as sock:
            yield
            seen = self.contents_until_control(sock, victim, sender)
        arrived = sorted(self.sent[content] for content in seen)
        assert not arrived, f"at pod {victim.name} of host {victim.host}: {', '.join(arrived)}"

    def contents_until_control(
        self, sock: socket.socket, victim: LabPod, sender: LabPod
    ) -> set[bytes]:
        kind = socket.AF_INET if self.family == 4 else socket.AF_INET6
        seen: set[bytes] = set()
        deadline = time.monotonic() + 10
        sock.settimeout(0.2)
        with run_in(NETNS_DIR / sender.netns, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as us:
            us.sendto(CONTROL, (self.address(victim), PLAIN_PORT))
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    frame = sock.recv(65536)
                    seen |= {content for content in self.sent if frame.endswith(content)}
                    if frame.endswith(CONTROL):
                        return seen
                us.sendto(CONTROL, (self.address(victim), PLAIN_PORT))
        raise AssertionError("the true datagram did not arrive")

    def dropped(self, number: int) -> dict[str, int]:
        """The filter's counters of a host."""
        from hostnet.nft.counters import read_counters

        return read_counters("inet", "flatmesh", NETNS_DIR / self.lab.names.host(number))


def send_datagram(room: Room, pod: LabPod, address: str, inner: Packet, target: int) -> None:
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    content = b"any" if room.backend == "wireguard" else room.payload(inner, target)
    with run_in(NETNS_DIR / pod.netns, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as us:
        us.sendto(content, (address, PORTS[room.backend]))


def connects(netns: str, address: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection is made within these seconds."""
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in(NETNS_DIR / netns, lambda: socket.socket(kind, socket.SOCK_STREAM)) as us:
        us.settimeout(timeout)
        try:
            us.connect((address, port))
        except TimeoutError:
            return False
        return True


@contextlib.contextmanager
def listening(netns: str, family: int, port: int) -> Iterator[None]:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6

    def make() -> socket.socket:
        sock = socket.socket(kind, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
        sock.listen()
        return sock

    with run_in(NETNS_DIR / netns, make):
        yield
