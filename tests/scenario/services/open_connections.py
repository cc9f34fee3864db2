# SPDX-License-Identifier: Apache-2.0
"""Connections from outside to a published echo server that stay open, and an address that moves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

from hostnet.netns import run_in
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6
from lab.processes import NETNS_DIR
from lab.time_factor import scaled
from tests.scenario.services.echo_server import echo_server
from tests.scenario.services.peer_server import ANSWER_TIMEOUT
from tests.scenario.services.service_lab import Eventually, ServiceLab

FLOATING = {4: f"{UNDERLAY_IPV4}.200", 6: f"{UNDERLAY_IPV6}:200"}
ECHO = 30090
On = Callable[..., str]


@contextlib.contextmanager
def published_echo(web: ServiceLab) -> Iterator[None]:
    """A service `echo` with one endpoint, h1-p1."""
    with echo_server(web.pods["h1-p1"].netns, 9090):
        web.lab.flatmesh(
            *("service", "set", "echo", "--port", "90:9090", "--port", "90:9090/udp"),
            *("--publish", f"{ECHO}:90", "--publish", f"{ECHO}:90/udp"),
        )
        addresses = [f"--address={one}" for one in web.pods["h1-p1"].addresses]
        web.lab.flatmesh("endpoint", "set", "echo", "e", *addresses)
        yield


def opened(web: ServiceLab, address: str, kind: socket.SocketKind) -> socket.socket:
    """A client outside, connected to the echo server at an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    outside = NETNS_DIR / web.netns("outside")
    one = run_in(outside, lambda: socket.socket(family, kind))
    one.settimeout(scaled(ANSWER_TIMEOUT))
    one.connect((address, ECHO))
    return one


def led_into_the_mesh(web: ServiceLab, on: On, eventually: Eventually, host: str) -> None:
    """Wait until this host sends the echo server's clients on to its host, in both families."""
    for family in (4, 6):
        listing = f"nft list map netdev flatmesh_mesh ingress{family}_tcp_hash_32"
        eventually(
            lambda command=listing: f"{ECHO} . " in on(web.netns(host), command),
            f"{host} leads IPv{family} clients on",
        )


def lost(clients: list[socket.socket]) -> int:
    """How many connections do not bring back what they send; all wait for the slowest at once."""
    count = 0
    end = time.monotonic() + scaled(ANSWER_TIMEOUT)
    for number, one in enumerate(clients):
        with contextlib.suppress(OSError):
            one.sendall(b"%d" % number)
    for number, one in enumerate(clients):
        one.settimeout(max(end - time.monotonic(), 0.01))
        try:
            count += one.recv(64) != b"%d" % number
        except OSError:
            count += 1
    return count


def lost_in_a_failover(web: ServiceLab, on: On, connections: int) -> list[str]:
    """The host asked, h2, is killed; its floating addresses go to h1, the endpoint's, then to h3.

    Returns a line for each step after which connections are lost.
    """
    with contextlib.ExitStack() as stack:
        for address in FLOATING.values():
            on(web.netns("h2"), f"ip addr add {_prefix(address)} dev eth0 nodad")
        clients = {
            family: [
                stack.enter_context(opened(web, address, socket.SOCK_STREAM))
                for _ in range(connections)
            ]
            for family, address in FLOATING.items()
        }
        found = _losses(clients, "at the beginning")
        pid = web.lab.daemon_pid(2)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        on(web.netns("h2"), "ip link set eth0 down")
        for number, before in ((1, None), (3, 1)):
            for address in FLOATING.values():
                if before is not None:
                    on(web.netns(f"h{before}"), f"ip addr del {_prefix(address)} dev eth0")
                on(web.netns(f"h{number}"), f"ip addr add {_prefix(address)} dev eth0 nodad")
            on(web.netns("outside"), "ip neigh flush all")
            found += _losses(clients, f"the addresses are on h{number}")
    return found


def _losses(clients: dict[int, list[socket.socket]], when: str) -> list[str]:
    counts = {family: lost(those) for family, those in clients.items()}
    return [f"{when}: {count} of IPv{family}" for family, count in counts.items() if count]


def _prefix(address: str) -> str:
    return f"{address}/64" if ":" in address else f"{address}/24"
