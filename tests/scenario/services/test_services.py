# SPDX-License-Identifier: Apache-2.0
"""Services: from pods, hosts and outside, over each backend, TCP and UDP, both families."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from itertools import product

import pytest

from hostnet.netns import run_in
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6
from lab.processes import NETNS_DIR
from lab.spec import LabPod
from lab.time_factor import scaled
from tests.scenario.services.peer_server import (
    ANSWER_TIMEOUT,
    NO_ANSWER,
    REFUSED,
    PeerServer,
    ask,
)

NETWORKS = {"ServiceNetwork": "10.96.0.0/16", "IPv6ServiceNetwork": "fd96::/112"}
PORTS = ("--port", "80:8080", "--port", "80:8080/udp")
PUBLISH = ("--publish", "30080:80", "--publish", "30080:80/udp")
PROTOCOLS = ("tcp", "udp")
OUTSIDE = {4: f"{UNDERLAY_IPV4}.1", 6: f"{UNDERLAY_IPV6}:1"}
Eventually = Callable[..., None]


class ServiceLab:
    """A lab with a service `web` and a server in each pod, named after it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pods = {f"h{pod.host}-{pod.name}": pod for pod in lab.pods}
        lab.configure(lab.spec.cluster_config() | NETWORKS)

    def virtual(self) -> list[str]:
        """The service's virtual addresses."""
        (service,) = json.loads(self.lab.flatmesh("service", "list", "-o", "json"))
        return [str(one) for one in service["addresses"]]

    def endpoint(self, name: str, *more: str) -> None:
        addresses = [f"--address={one}" for one in self.pods[name].addresses]
        self.lab.flatmesh("endpoint", "set", "web", name, *addresses, *more)

    def remove_endpoint(self, name: str) -> None:
        self.lab.flatmesh("endpoint", "remove", "web", name)

    def host(self, number: int, family: int) -> str:
        """A host's address on the underlay."""
        found = self.lab.host_endpoints(family)[number - 1].addresses
        pods = ip_network(self.lab.spec.network if family == 4 else self.lab.spec.ipv6_network)
        return next(one for one in found if ip_address(one) not in pods)

    def netns(self, name: str) -> str:
        """Of a pod `h1-p1`, a host `h1`, or `outside`."""
        if name == "outside":
            return self.lab.names.underlay
        return self.pods[name].netns if name in self.pods else self.lab.names.host(int(name[1:]))

    def answers(self, client: str, address: str, port: int, protocol: str) -> tuple[str, str]:
        """Who answered, and which address it saw."""
        name, _, seen = ask(self.netns(client), address, port, protocol).partition(" ")
        return name, seen


@pytest.fixture(
    scope="module",
    params=[{"Type": "vxlan"}, {"Type": "host-gw"}],
    ids=lambda backend: str(backend["Type"]),
)
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceLab]:
    from tests.scenario.conftest import running_lab

    directory = tmp_path_factory.mktemp("labs")
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(
            running_lab(request.config, directory, backend=request.param, ipv6=True)
        )
        made = ServiceLab(lab)
        for name, pod in made.pods.items():
            stack.enter_context(PeerServer(pod.netns, name))
        yield made


@pytest.fixture
def served(web: ServiceLab, eventually: Eventually) -> Iterator[ServiceLab]:
    """The service with one endpoint, h1-p1, on every host."""
    web.lab.flatmesh("service", "set", "web", *PORTS, *PUBLISH)
    web.endpoint("h1-p1")
    reachable(web, eventually, "h1-p1")
    yield web
    web.lab.flatmesh("service", "remove", "web")


def reachable(web: ServiceLab, eventually: Eventually, name: str) -> None:
    """Wait until every host leads new connections to this endpoint only."""
    for client, address, protocol in product(("h1", "h2", "h3"), web.virtual(), PROTOCOLS):
        eventually(
            lambda c=client, a=address, p=protocol: web.answers(c, a, 80, p)[0] == name,
            f"{client} reaches {name} by {address} {protocol}",
        )


def test_every_client_reaches_the_endpoint_and_is_seen_under_its_own_address(
    served: ServiceLab,
) -> None:
    wrong = []
    for address, protocol in product(served.virtual(), PROTOCOLS):
        family = ip_address(address).version
        for client in ("h1-p1", "h1-p2", "h2-p1", "h3-p1", "h1", "h2"):
            name, seen = served.answers(client, address, 80, protocol)
            own = pod_address(served.pods.get(client), family)
            # a pod that is led to itself, and a host, are seen under an address of their host
            right = name == "h1-p1" and (seen == own or client in ("h1-p1", "h1", "h2"))
            if not right:
                wrong.append(f"{client} to {address} {protocol}: {name} saw {seen}")
    for number, version, protocol in product((1, 2, 3), (4, 6), PROTOCOLS):
        address = served.host(number, version)
        for client in ("outside", "h1-p1", "h1-p2", "h2-p1", "h1", "h2"):
            name, seen = served.answers(client, address, 30080, protocol)
            kept = seen == OUTSIDE[version]  # where the endpoint is on the host that was asked
            right = name == "h1-p1" and (number != 1 or client != "outside" or kept)
            if not right:
                wrong.append(f"{client} to {address}:30080 {protocol}: {name} saw {seen}")
    assert wrong == []


def pod_address(pod: LabPod | None, family: int) -> str:
    addresses = pod.addresses if pod is not None else []
    return next((one for one in addresses if ip_address(one).version == family), "")


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
