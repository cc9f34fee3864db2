# SPDX-License-Identifier: Apache-2.0
"""A new kind of network device is one module (`toys.macvlan`) and one line in a table."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.link import Link
from hostnet.kinds.links import table
from hostnet.kinds.links.device_kind import DeviceKind
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from tests.netns.hostnet.toys.macvlan import Macvlan, MacvlanKind


@pytest.fixture
def kernel(host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    toy: DeviceKind[Macvlan] = MacvlanKind()
    monkeypatch.setattr(table, "DEVICE_KINDS", [*table.DEVICE_KINDS, toy])
    with Kernel(host) as opened:
        yield opened


def wanted(lower: str, mode: str) -> HostState:
    link = Link("toy0", "macvlan", mtu=1400, details=Macvlan(lower, mode))
    return HostState([link, Address("toy0", "10.9.9.9/24")])


def shown(host: str) -> str:
    command = ["ip", "-n", host, "-d", "link", "show", "toy0"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_toy_device_is_made_changed_made_anew_and_swept(kernel: Kernel, host: str) -> None:
    outcome = reconcile(wanted("eth0", "private"), kernel)
    assert outcome.failures == []
    assert outcome.lines() == [
        "ip link add link eth0 name toy0 type macvlan mode private",
        "ip link set toy0 alias flatmesh up",
        "ip addr replace 10.9.9.9/24 dev toy0",
    ]
    assert "mode private" in shown(host)
    assert plan_full(wanted("eth0", "private"), kernel).lines() == []

    outcome = reconcile(wanted("eth0", "bridge"), kernel)
    assert outcome.failures == []
    assert outcome.lines() == ["ip link set toy0 type macvlan mode bridge"]
    assert "mode bridge" in shown(host)

    outcome = reconcile(wanted("eth1", "bridge"), kernel)
    assert outcome.failures == []
    assert outcome.lines()[0] == "ip link del toy0"
    assert "toy0@eth1" in shown(host)
    assert plan_full(wanted("eth1", "bridge"), kernel).lines() == []

    assert reconcile(HostState(), kernel).lines() == ["ip link del toy0"]
    assert shown(host) == ""
