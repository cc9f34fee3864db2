# SPDX-License-Identifier: Apache-2.0
"""Services over vxlan: from pods, hosts and outside, TCP and UDP, both families."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from itertools import product

import pytest

from hostnet.netns import run_in
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4
from lab.processes import NETNS_DIR
from lab.time_factor import scaled
from tests.scenario.conftest import running_lab
from tests.scenario.services.peer_server import ANSWER_TIMEOUT, NO_ANSWER, REFUSED, ask
from tests.scenario.services.service_lab import (
    PORTS,
    PROTOCOLS,
    PUBLISH,
    Eventually,
    ServiceLab,
    reachable,
    serve,
    servers,
    wrong_answers,
)


@pytest.fixture(scope="module")
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceLab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, ipv6=True) as lab, servers(lab) as made:
        yield made


@pytest.fixture
def served(web: ServiceLab, eventually: Eventually) -> Iterator[ServiceLab]:
    """The service with one endpoint, h1-p1, on every host."""
    serve(web, eventually)
    yield web
    web.lab.flatmesh("service", "remove", "web")


def test_every_client_reaches_the_endpoint_and_is_seen_under_its_own_address(
    served: ServiceLab,
) -> None:
    assert wrong_answers(served) == []


def test_no_service_leads_a_pod_to_what_is_closed_to_it(
    served: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    """A service whose endpoint is etcd: the filter sees the packet after its translation."""
    served.remove_endpoint("h1-p1")
    etcd = f"{UNDERLAY_IPV4}.1"
    served.lab.flatmesh("endpoint", "set", "web", "e", f"--address={etcd}", "--port=80-tcp=2379")
    address, pod = served.virtual()[0], served.netns("h1-p1")
    counter = "nft list counter inet flatmesh pod_to_etcd"
    before = on(served.netns("h1"), counter)
    eventually(
        lambda: ask(pod, address, 80) == NO_ANSWER and on(served.netns("h1"), counter) != before,
        "it is dropped",
    )


def test_a_service_without_endpoints_is_refused_at_once(
    served: ServiceLab, eventually: Eventually
) -> None:
    served.remove_endpoint("h1-p1")
    for client, address in product(("h1-p1", "h2-p1", "h1", "h2"), served.virtual()):
        for protocol in PROTOCOLS:
            # a host's own datagram is refused by the system call: EPERM
            eventually(
                lambda c=client, a=address, p=protocol: (
                    served.answers(c, a, 80, p)[0] in (REFUSED, "EPERM")
                ),
                f"{client} is refused by {address} {protocol}",
            )
        assert served.answers(client, address, 81, "tcp")[0] == REFUSED
    for number, family in product((1, 2), (4, 6)):
        answer = served.answers("outside", served.host(number, family), 30080, "tcp")
        assert answer[0] == REFUSED


def test_connections_follow_their_endpoint(served: ServiceLab, eventually: Eventually) -> None:
    """UDP from one port moves on when its endpoint goes, and not before."""
    address = served.virtual()[0]
    pod = NETNS_DIR / served.pods["h3-p1"].netns
    with run_in(pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagram:
        datagram.settimeout(scaled(ANSWER_TIMEOUT))
        datagram.connect((address, 80))

        def answer() -> str:
            try:
                datagram.send(b"who")
                return datagram.recv(2048).decode().partition(" ")[0]
            except TimeoutError:
                return NO_ANSWER
            except OSError:
                return REFUSED

        assert answer() == "h1-p1"
        served.endpoint("h2-p1")
        served.endpoint("h1-p1", "--state", "draining")
        reachable(served, eventually, "h2-p1")
        assert answer() == "h1-p1"  # draining: what is under way stays
        served.lab.stop_daemon(3)
        served.lab.start_daemon(3)
        served.lab.wait_ready(3)
        eventually(lambda: services_log(served.lab, 3), "services are served again")
        assert answer() == "h1-p1"  # a daemon that starts again deletes no entry that is right
        served.remove_endpoint("h1-p1")
        eventually(lambda: answer() == "h2-p1", "the same socket is led to the other endpoint")
        served.remove_endpoint("h2-p1")
        eventually(lambda: answer() == REFUSED, "the same socket is refused")
        served.endpoint("h1-p1")
        eventually(lambda: answer() == "h1-p1", "the same socket is led to the new endpoint")


def services_log(lab: Lab, number: int) -> bool:
    """Whether the daemon that runs now has compared what is served."""
    return "services: " in lab.log(number).rpartition("flatmeshd starts")[2]


def test_only_the_sources_that_were_given_use_a_published_port(
    served: ServiceLab, eventually: Eventually
) -> None:
    address = served.host(1, 4)
    served.lab.flatmesh("service", "set", "web", *PORTS, *PUBLISH, "--service-source=192.0.2.0/24")
    eventually(
        lambda: served.answers("outside", address, 30080, "tcp")[0] == REFUSED,
        "others are refused",
    )
    network = str(ip_network(f"{address}/24", strict=False))
    served.lab.flatmesh("service", "set", "web", *PORTS, *PUBLISH, f"--service-source={network}")
    eventually(
        lambda: served.answers("outside", address, 30080, "tcp")[0] == "h1-p1",
        "these may use it",
    )


def test_without_services_there_is_no_table_and_no_route(
    web: ServiceLab, on: Callable[..., str], eventually: Eventually
) -> None:
    web.lab.flatmesh("service", "set", "web", *PORTS)
    host = web.lab.names.host(2)
    eventually(lambda: "flatmesh_services" in on(host, "nft list tables"), "there is a table")
    web.lab.flatmesh("service", "remove", "web")
    eventually(lambda: "flatmesh_services" not in on(host, "nft list tables"), "it is gone")
    assert "10.96." not in on(host, "ip route show table all")
    bridge = on(host, "ip -d link show kbr0")
    eventually(
        lambda: "nf_call_iptables 0" in on(host, "ip -d link show kbr0"), f"not tracked: {bridge}"
    )
