# SPDX-License-Identifier: Apache-2.0
"""The service `web` of a lab: its servers, its endpoints, and a client outside of the cluster."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from rich.console import Console
from rich.table import Table

from hostnet.netns import run_in
from lab import processes
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6
from lab.matrix_report import lab_families
from lab.spec import LabPod
from lab.time_factor import scaled

SERVICE, PORT, PUBLISHED = "web", 80, 8080
SERVER_PORT = 8000
CLIENTS = {4: f"{UNDERLAY_IPV4}.1", 6: f"{UNDERLAY_IPV6}:1"}
"""Addresses of the client, which is on the underlay."""
REQUEST_TIMEOUT = 3.0  # seconds
SERVED_TIMEOUT = 20.0  # seconds until every host leads requests to an endpoint
POLL_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """One request from outside to a host's published port."""

    host: str
    family: int
    address: str
    local: bool
    """Whether an endpoint runs on the host that was asked."""
    endpoint: str
    """Who answered; empty: nobody."""
    client: str
    """The address that it saw."""

    @property
    def good(self) -> bool:
        """Whether an endpoint answered, and saw the client's own address."""
        return bool(self.endpoint) and self.client == CLIENTS[self.family]


def start_web(lab: Lab) -> list[LabPod]:
    """Serve on the first pod of every host but the last, and publish; returns the servers' pods."""
    last = max(lab.host_numbers)
    pods = [pod for pod in lab.pods if pod.name == "p1" and (pod.host != last or last == 1)]
    publish = (f"--port=http={PORT}:{SERVER_PORT}", f"--publish={PUBLISHED}:{PORT}")
    lab.flatmesh("service", "set", SERVICE, *publish)
    for pod in pods:
        name = pod_name(pod)
        command = [lab.spec.python, "-I", "-m", "lab.services.web_server", name, str(SERVER_PORT)]
        processes.spawn(command, pod.netns, lab.host_dir(pod.host) / f"web-{pod.name}.log")
        addresses = [f"--address={one}" for one in pod.addresses]
        host = host_address(lab, pod.host, lab_families(lab.spec)[0])
        lab.flatmesh("endpoint", "set", SERVICE, name, *addresses, f"--host={host}")
    return pods


def measure_web(lab: Lab, pods: Sequence[LabPod]) -> list[WebAnswer]:
    """Ask each host from outside, until all are right or some seconds have passed."""
    local = {pod.host for pod in pods}
    deadline = time.monotonic() + scaled(SERVED_TIMEOUT)
    while True:
        found = []
        for family in lab_families(lab.spec):
            for number in lab.host_numbers:
                address = host_address(lab, number, family)
                answer = get(lab.names.underlay, address, PUBLISHED)
                found.append(WebAnswer(f"h{number}", family, address, number in local, *answer))
        if all(one.good for one in found) or time.monotonic() > deadline:
            return found
        time.sleep(POLL_INTERVAL)


def show_web(console: Console, answers: Sequence[WebAnswer]) -> bool:
    """Print who answered, and what it saw; returns whether all is well."""
    table = Table("asked", "address", "endpoint there", "answered", "saw the client as")
    for one in answers:
        seen = one.client if one.good else f"[red]{one.client}[/red]"
        who = one.endpoint or "[red]nobody[/red]"
        there = "yes" if one.local else "no"
        table.add_row(one.host, url_of(one), there, who, seen)
    console.print(table)
    return all(one.good for one in answers)


def url_of(one: WebAnswer) -> str:
    """Where it was asked, as a URL writes it."""
    return f"[{one.address}]:{PUBLISHED}" if one.family == 6 else f"{one.address}:{PUBLISHED}"


def get(netns: str, address: str, port: int) -> tuple[str, str]:
    """Who answers a GET, and the client that it saw; empty: nobody."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = run_in(processes.NETNS_DIR / netns, lambda: socket.socket(family, socket.SOCK_STREAM))
    with sock, contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
        sock.settimeout(scaled(REQUEST_TIMEOUT))
        sock.connect((address, port))
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = json.loads(response.read(4096))
        return str(answer["name"]), str(answer["client"])
    return "", ""


def host_address(lab: Lab, number: int, family: int) -> str:
    """A host's address on the underlay."""
    prefix = UNDERLAY_IPV4 if family == 4 else UNDERLAY_IPV6
    found = lab.host_endpoints(family)[number - 1].addresses
    return next(
        one for one in found if one.startswith(prefix) and ip_address(one).version == family
    )


def pod_name(pod: LabPod) -> str:
    """`h1-p1`."""
    return f"h{pod.host}-{pod.name}"
