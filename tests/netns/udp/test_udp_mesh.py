# SPDX-License-Identifier: Apache-2.0
"""The udp backend end to end: real devices, processes and packets."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from hostnet.events import Monitor
from lab import hosts

MakeMesh = Any


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "underlay_ipv4", "underlay_ipv6"),
    [
        (True, False, True, False),
        (True, True, True, True),
        (True, True, False, True),
        (False, True, True, True),
    ],
    ids=["ipv4", "dual stack", "both over ipv6", "ipv6 over ipv4"],
)
def test_pods_reach_each_other(
    make_mesh: MakeMesh, ipv4: bool, ipv6: bool, underlay_ipv4: bool, underlay_ipv6: bool
) -> None:
    mesh = make_mesh(
        3, ipv4=ipv4, ipv6=ipv6, underlay_ipv4=underlay_ipv4, underlay_ipv6=underlay_ipv6
    )
    mesh.reconcile()
    mesh.assert_all_reach_all()
    assert mesh.reconcile() == [[], [], []]


def test_a_daemon_that_restarts_finds_its_process_again(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    before = [host.pid() for host in mesh.hosts]
    for host in mesh.hosts:
        host.start()
    assert mesh.reconcile() == [[], []]
    assert [host.pid() for host in mesh.hosts] == before


def test_cleanup_leaves_nothing(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    host = mesh.hosts[0]
    assert "flannel0" in host.links()
    host.run(host.plane.cleanup)
    assert "flannel0" not in host.links()
    assert list((host.directory / "run").iterdir()) == []


def test_a_reconcile_with_nothing_to_do_does_not_cause_another(make_mesh: MakeMesh) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    host = mesh.hosts[0]
    with contextlib.closing(Monitor(host.netns)) as monitor:
        mesh.reconcile()
        assert monitor.drain() == []
        hosts.ip("-n", host.netns, "link", "set", "flannel0", "mtu", "1400")
        assert monitor.drain() != []  # the monitor does report
