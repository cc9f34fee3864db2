# SPDX-License-Identifier: Apache-2.0
"""The routing mesh over vxlan: what may go wrong on a client's way through another host."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from hostnet.netns import run_in
from lab import processes
from lab.processes import NETNS_DIR
from lab.time_factor import scaled
from tests.scenario.conftest import running_lab
from tests.scenario.services.echo_server import many_descriptors
from tests.scenario.services.open_connections import (
    led_into_the_mesh,
    lost_in_a_failover,
    opened,
    published_echo,
)
from tests.scenario.services.peer_server import ANSWER_TIMEOUT, NO_ANSWER, REFUSED
from tests.scenario.services.service_lab import (
    OUTSIDE,
    PROTOCOLS,
    Eventually,
    ServiceLab,
    serve,
    servers,
)

CONNECTIONS = 500  # of each family
IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU, PMTUDISC_DO = 10, 14, 23, 24, 2  # linux/in.h


@pytest.fixture(scope="module")
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceLab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, ipv6=True) as lab, servers(lab) as made:
        yield made


@pytest.fixture(scope="module")
def served(web: ServiceLab, eventually: Eventually) -> Iterator[ServiceLab]:
    """Two services with one endpoint each, both h1-p1."""
    with published_echo(web):
        serve(web, eventually)
        kept(web, eventually)
        yield web


def kept(web: ServiceLab, eventually: Eventually) -> None:
    """Wait until every host brings clients to h1-p1 under their own address."""
    for number, family, protocol in product((1, 2, 3), (4, 6), PROTOCOLS):
        eventually(
            lambda n=number, f=family, p=protocol: (
                web.answers("outside", web.host(n, f), 30080, p) == ("h1-p1", OUTSIDE[f])
            ),
            f"h{number} keeps the source, IPv{family} {protocol}",
        )


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_learns_how_large_its_packets_may_be(served: ServiceLab, family: int) -> None:
    address = served.host(2, family)
    headers = 28 if family == 4 else 48
    level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
    discover, mtu = (IP_MTU_DISCOVER, IP_MTU) if family == 4 else (IPV6_MTU_DISCOVER, IPV6_MTU)
    with opened(served, address, socket.SOCK_DGRAM) as one:
        one.setsockopt(level, discover, PMTUDISC_DO)
        one.send(bytes(1500 - headers))  # larger than the pod's MTU: the client is told
        with pytest.raises(OSError, match="too long"):
            one.recv(4096)
        size = one.getsockopt(level, mtu) - headers
        assert size > 1280 - headers
        one.send(bytes(size))
        assert len(one.recv(4096)) == size
    data = os.urandom(2_000_000)
    with opened(served, address, socket.SOCK_STREAM) as one:
        sending = threading.Thread(target=one.sendall, args=(data,))
        sending.start()
        got = bytearray()
        while len(got) < len(data) and (part := one.recv(1 << 16)):
            got += part
        sending.join()
        assert bytes(got) == data


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_arrive(served: ServiceLab, family: int) -> None:
    with opened(served, served.host(2, family), socket.SOCK_DGRAM) as one:
        one.send(bytes(4000))
        assert len(one.recv(8192)) == 4000


def test_datagrams_follow_their_endpoint(served: ServiceLab, eventually: Eventually) -> None:
    """UDP from one port is not sent to an endpoint that is gone, whichever host was asked."""
    outside = NETNS_DIR / served.netns("outside")
    with run_in(outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        one.settimeout(scaled(ANSWER_TIMEOUT))
        one.connect((served.host(3, 4), 30080))

        def answer() -> str:
            try:
                one.send(b"who")
                return one.recv(2048).decode()
            except TimeoutError:
                return NO_ANSWER
            except OSError:
                return REFUSED

        assert answer() == f"h1-p1 {OUTSIDE[4]}"
        served.endpoint("h1-p2")
        served.remove_endpoint("h1-p1")
        eventually(lambda: answer() == f"h1-p2 {OUTSIDE[4]}", "the other pod on the same host")
        served.endpoint("h2-p1")
        served.remove_endpoint("h1-p2")
        eventually(lambda: answer() == f"h2-p1 {OUTSIDE[4]}", "a pod on another host")
    served.endpoint("h1-p1")
    served.remove_endpoint("h2-p1")
    kept(served, eventually)


def test_strangers_do_not_use_the_tunnel(
    served: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    outside = NETNS_DIR / served.netns("outside")
    listing = "nft list counter inet flatmesh_mesh not_a_member"
    before = on(served.netns("h1"), listing)
    with run_in(outside, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        one.sendto(bytes(64), (served.host(1, 4), 8473))
    eventually(lambda: on(served.netns("h1"), listing) != before, "it is dropped and counted")


def test_what_others_change_is_put_right(
    served: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    on(served.netns("h2"), "ip link del flatmesh-in")
    kept(served, eventually)
    on(served.netns("h2"), "nft delete table netdev flatmesh_mesh")
    on(served.netns("h1"), "nft flush chain inet flatmesh_mesh origin")
    on(served.netns("h1"), "ip rule del pref 8473")
    kept(served, eventually)
    fdb = on(served.netns("h2"), "bridge fdb show dev flatmesh-in").splitlines()
    entry = next(one for one in fdb if f"dst {served.host(1, 4)}" in one)
    on(served.netns("h2"), f"bridge fdb del {entry.split()[0]} dev flatmesh-in self")
    kept(served, eventually)


def test_a_firewall_that_drops_what_is_forwarded_lets_replies_through(
    served: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    """Docker sets this policy, and the host that clients ask forwards what is no pod's."""
    for command in ("iptables -P FORWARD DROP", "ip6tables -P FORWARD DROP"):
        on(served.netns("h2"), command)
    eventually(
        lambda: "flatmesh-in" in on(served.netns("h2"), "ip6tables-save -t filter"),
        "the rules are there",
    )
    kept(served, eventually)
    for command in ("iptables -P FORWARD ACCEPT", "ip6tables -P FORWARD ACCEPT"):
        on(served.netns("h2"), command)


def test_a_dry_run_tells_what_is_missing_and_cleanup_leaves_no_trace(
    served: ServiceLab, on: Callable[..., str]
) -> None:
    host = served.netns("h3")
    assert "flatmesh-in" in on(host, "ip link")
    served.lab.stop_daemon(3)

    def flatmeshd(*flags: str) -> str:
        return subprocess.run(
            [*processes.enter(host), *served.lab.daemon(3).argv, *flags],
            env=os.environ | served.lab.environment(3),
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    assert "flatmesh_services" not in flatmeshd("--dry-run")  # all is as it should be
    on(host, "ip link del flatmesh-in")
    on(host, "nft delete table inet flatmesh_services")
    plan = flatmeshd("--dry-run")
    assert "ip link add flatmesh-in" in plan
    assert "add table inet flatmesh_services" in plan
    flatmeshd("--cleanup", "--force")
    assert "flatmesh-in" not in on(host, "ip link")
    assert "flatmesh_mesh" not in on(host, "nft list tables")
    assert "8473" not in on(host, "ip rule") + on(host, "ip -6 rule")
    served.lab.start_daemon(3)
    served.lab.wait_ready(3)


def test_connections_outlive_the_host_that_they_came_by(
    served: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    """Floating addresses move from a host that dies to the endpoint's own, and on to a third."""
    led_into_the_mesh(served, on, eventually, "h2")
    with many_descriptors():
        assert lost_in_a_failover(served, on, CONNECTIONS) == []
