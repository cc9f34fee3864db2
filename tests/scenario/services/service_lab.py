# SPDX-License-Identifier: Apache-2.0
"""A lab with servers in its pods, and a service in front of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from itertools import product

from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6
from lab.spec import LabPod
from tests.scenario.services.peer_server import PeerServer, ask

NETWORKS = {"ServiceNetwork": "10.96.0.0/16", "IPv6ServiceNetwork": "fd96::/112"}
PROTOCOLS = ("tcp", "udp")
ALL_PROTOCOLS = (*PROTOCOLS, "sctp")
PORTS = tuple(word for one in ALL_PROTOCOLS for word in ("--port", f"80:8080/{one}"))
PUBLISH = tuple(word for one in ALL_PROTOCOLS for word in ("--publish", f"30080:80/{one}"))
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
        services = json.loads(self.lab.flatmesh("service", "list", "-o", "json"))
        (addresses,) = (one["addresses"] for one in services if one["name"] == "web")
        return [str(one) for one in addresses]

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


@contextlib.contextmanager
def servers(lab: Lab) -> Iterator[ServiceLab]:
    """A server in each pod."""
    with contextlib.ExitStack() as stack:
        made = ServiceLab(lab)
        for name, pod in made.pods.items():
            stack.enter_context(PeerServer(pod.netns, name))
        yield made


def serve(web: ServiceLab, eventually: Eventually) -> None:
    """The service with one endpoint, h1-p1, on every host."""
    web.lab.flatmesh("service", "set", "web", *PORTS, *PUBLISH)
    web.endpoint("h1-p1")
    reachable(web, eventually, "h1-p1")


def reachable(web: ServiceLab, eventually: Eventually, name: str) -> None:
    """Wait until every host leads new connections to this endpoint only."""
    for client, address, protocol in product(("h1", "h2", "h3"), web.virtual(), PROTOCOLS):
        eventually(
            lambda c=client, a=address, p=protocol: web.answers(c, a, 80, p)[0] == name,
            f"{client} reaches {name} by {address} {protocol}",
        )


def wrong_answers(served: ServiceLab) -> list[str]:
    """Clients that do not reach h1-p1, or are not seen under their own address, a line each."""
    wrong = []
    for address, protocol in product(served.virtual(), ALL_PROTOCOLS):
        family = ip_address(address).version
        for client in ("h1-p1", "h1-p2", "h2-p1", "h3-p1", "h1", "h2"):
            name, seen = served.answers(client, address, 80, protocol)
            own = pod_address(served.pods.get(client), family)
            # a pod that is led to itself, and a host, are seen under an address of their host
            right = name == "h1-p1" and (seen == own or client in ("h1-p1", "h1", "h2"))
            if not right:
                wrong.append(f"{client} to {address} {protocol}: {name} saw {seen}")
    for number, version, protocol in product((1, 2, 3), (4, 6), ALL_PROTOCOLS):
        address = served.host(number, version)
        for client in ("outside", "h1-p1", "h1-p2", "h2-p1", "h1", "h2"):
            name, seen = served.answers(client, address, 30080, protocol)
            right = name == "h1-p1" and (client != "outside" or seen == OUTSIDE[version])
            if not right:
                wrong.append(f"{client} to {address}:30080 {protocol}: {name} saw {seen}")
    return wrong


def pod_address(pod: LabPod | None, family: int) -> str:
    addresses = pod.addresses if pod is not None else []
    return next((one for one in addresses if ip_address(one).version == family), "")
