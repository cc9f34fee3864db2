# SPDX-License-Identifier: Apache-2.0
"""Endpoints that go and come while clients ask; no daemon, no etcd. One vxlan lab."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from lab.time_factor import scaled
from tests.scenario.conftest import running_lab
from tests.scenario.services.echo_server import echo_server
from tests.scenario.services.peer_server import PeerServer
from tests.scenario.services.request_load import RequestLoad, load
from tests.scenario.services.service_lab import (
    PORTS,
    PUBLISH,
    Eventually,
    ServiceLab,
    reachable,
    servers,
)

KNOWN = 2.0
"""Seconds from a change in etcd until every host has it, on a busy machine."""
OLD_PORT, NEW_PORT, ECHO_PORT = 8081, 8082, 8090


@pytest.fixture(scope="module")
def web(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceLab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, ipv6=True) as lab, servers(lab) as made:
        lab.flatmesh("service", "set", "web", *PORTS, *PUBLISH)
        yield made


def clients_of(web: ServiceLab) -> list[tuple[str, str, int]]:
    """Pods and hosts at the virtual addresses, and one from outside at the published port."""
    first, second = web.virtual()
    return [
        ("h1-p2", first, 80),
        ("h3-p1", second, 80),
        ("h1", first, 80),
        ("outside", web.host(3, 4), 30080),
    ]


def answered_by(found: RequestLoad, names: set[str], eventually: Eventually) -> None:
    """Wait until each of these has answered a request sent from now on."""
    now = time.monotonic()
    eventually(lambda: names <= set(found.since(now)), f"{names} answer")


def test_no_request_reaches_an_endpoint_that_was_removed(
    web: ServiceLab, eventually: Eventually
) -> None:
    """The server itself still runs: a request that was led there would be answered by it."""
    web.endpoint("h1-p1")
    web.endpoint("h2-p1")
    with load(web, clients_of(web)) as found:
        answered_by(found, {"h1-p1", "h2-p1"}, eventually)
        web.remove_endpoint("h2-p1")
        bound = time.monotonic() + scaled(KNOWN)
        eventually(lambda: len(found.since(bound)) > 50, "requests after the change")
        assert set(found.since(bound)) == {"h1-p1"}


def test_all_endpoints_are_replaced_under_load_without_a_failed_request(
    web: ServiceLab, eventually: Eventually
) -> None:
    """Each new one comes, the old one drains, goes from etcd, and its server ends."""
    hosts = ("h1-p1", "h2-p1", "h3-p1")
    ports = [f"--port=80-tcp={port}" for port in (OLD_PORT, NEW_PORT)]
    with contextlib.ExitStack() as after:
        old = [PeerServer(web.pods[name].netns, f"old-{name}", OLD_PORT) for name in hosts]
        running = [contextlib.ExitStack() for _ in old]
        for stack, server in zip(running, old, strict=True):
            after.enter_context(stack).enter_context(server)
        for name in hosts:
            web.endpoint(name, ports[0])
        reached = {server.name for server in old}
        found = after.enter_context(load(web, clients_of(web)))
        eventually(lambda: reached <= {name for _, name in found.answers[-60:]}, "all answer")
        started = time.monotonic()
        for name, stack in zip(hosts, running, strict=True):
            new = f"new-{name}"
            after.enter_context(PeerServer(web.pods[name].netns, new, NEW_PORT))
            address = [f"--address={one}" for one in web.pods[name].addresses]
            web.lab.flatmesh("endpoint", "set", "web", new, *address, ports[1])
            answered_by(found, {new}, eventually)
            web.endpoint(name, ports[0], "--state=draining")
            time.sleep(scaled(KNOWN))
            web.remove_endpoint(name)
            time.sleep(scaled(KNOWN))
            stack.close()
        now = time.monotonic()
        eventually(lambda: len(found.since(now)) > 50, "requests after the last change")
        new_names = {f"new-{name}" for name in hosts}
        assert set(found.since(started)) <= reached | new_names
        assert set(found.since(now)) <= new_names
    for name in hosts:
        web.lab.flatmesh("endpoint", "remove", "web", f"new-{name}")


def test_an_established_connection_to_an_endpoint_that_goes_is_reset(
    web: ServiceLab, eventually: Eventually
) -> None:
    """Its next segment is answered with a reset, wherever the client is."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(echo_server(web.pods["h2-p1"].netns, ECHO_PORT))
        web.endpoint("h2-p1", f"--port=80-tcp={ECHO_PORT}")
        opened: dict[str, socket.socket] = {}

        def connect(client: str, address: str, port: int) -> bool:
            one = run_in(
                NETNS_DIR / web.netns(client),
                lambda: socket.socket(
                    socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM
                ),
            )
            one.settimeout(scaled(2.0))
            try:
                one.connect((address, port))
                one.sendall(b"first")
                assert one.recv(64) == b"first"
            except (OSError, AssertionError):
                one.close()
                return False
            opened[client] = stack.enter_context(one)
            return True

        for client in clients_of(web):
            eventually(lambda c=client: connect(*c), f"{client} is connected")
        web.remove_endpoint("h2-p1")

        def reset(one: socket.socket) -> bool:
            try:
                one.sendall(b"more")
                return not one.recv(64)
            except TimeoutError:
                return False
            except OSError:
                return True

        for name, one in opened.items():
            eventually(lambda o=one: reset(o), f"{name}'s connection is reset")


def test_services_go_on_without_the_daemons_and_without_etcd(
    web: ServiceLab, eventually: Eventually
) -> None:
    web.endpoint("h1-p1")
    reachable(web, eventually, "h1-p1")
    with load(web, clients_of(web)) as found:
        answered_by(found, {"h1-p1"}, eventually)
        started = time.monotonic()
        for number in web.lab.host_numbers:
            pid = web.lab.daemon_pid(number)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        now = time.monotonic()
        eventually(lambda: len(found.since(now)) > 50, "requests without the daemons")
        web.lab.etcd.kill()
        now = time.monotonic()
        eventually(lambda: len(found.since(now)) > 50, "requests without etcd")
        assert set(found.since(started)) == {"h1-p1"}
