# SPDX-License-Identifier: Apache-2.0
"""Real network namespaces for tests: made for each test, removed also when it fails.

`netns` is the name of one; `make_netns()` makes more. When a test fails, what an operator
would look at first is printed for each.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hostnet import netns as namespaces

MakeNetns = Callable[[], str]
_made = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if "tests/netns" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


@pytest.fixture
def make_netns(request: pytest.FixtureRequest) -> Iterator[MakeNetns]:
    made: list[str] = request.node.stash.setdefault(_made, [])

    def make() -> str:
        name = f"fm-{secrets.token_hex(4)}"
        namespaces.create(name)
        made.append(name)
        return name

    yield make
    for name in made:
        namespaces.remove(name)


@pytest.fixture
def netns(make_netns: MakeNetns) -> str:
    return make_netns()


@pytest.fixture
def host(netns: str) -> str:
    """A namespace that looks like a host: eth0 on an underlay, with a default route.

    192.168.64.2/24 and fd00:1::2/64; the veth pair's other end is eth1 in the same namespace.
    """
    make_underlay(netns)
    return netns


@pytest.fixture(scope="module")
def shared_host() -> Iterator[str]:
    """As `host`, for all tests of a module: each leaves it as it was."""
    name = f"fm-{secrets.token_hex(4)}"
    namespaces.create(name)
    try:
        make_underlay(name)
        yield name
    finally:
        namespaces.remove(name)


def make_underlay(netns: str) -> None:
    for command in (
        "link add eth0 type veth peer name eth1",
        "link set eth1 up",
        "link set eth0 up",
        "addr add 192.168.64.2/24 dev eth0",
        "addr add fd00:1::2/64 dev eth0 nodad",
        "route add default via 192.168.64.1",
        "-6 route add default via fd00:1::1",
    ):
        subprocess.run(["ip", "-n", netns, *command.split()], check=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and call.when == "call":
        for name in item.stash.get(_made, []):
            report.sections.append((f"namespace {name}", describe(name)))
    return report


def describe(name: str) -> str:
    """Links, addresses, routes, neighbours and FDB of a namespace."""
    commands = ("ip -d link", "ip addr", "ip route", "ip -6 route", "ip neigh", "bridge fdb")
    text = []
    for command in commands:
        words = command.split()
        done = subprocess.run(
            [words[0], "-n", name, *words[1:]], capture_output=True, text=True, check=False
        )
        text.append(f"--- {command}\n{done.stdout}{done.stderr}")
    return "\n".join(text)
