# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch does not answer: calls end in time; later ones apply what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from base.errors import FlatmeshError
from ovs_mesh.clients.appctl import APPCTL_TIMEOUT, AppctlError, appctl
from ovs_mesh.clients.openflow import OFCTL_TIMEOUT, OpenFlowError, Switch
from ovs_mesh.clients.ovsdb import OVSDB_TIMEOUT, Ovsdb, OvsdbError

if TYPE_CHECKING:
    from tests.netns.ovs_mesh.conftest import OvsHost

LONGEST = 10.0  # seconds that any call may take
SLACK = 4.0  # seconds: a busy machine


@contextmanager
def ends_within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds + SLACK


def flows_of_peer(host: OvsHost, number: int) -> int:
    switch = Switch(host.server.directory, "obr0")
    lines = switch._run("dump-flows", switch.target).splitlines()
    return sum(f"10.5.{number}.0/24" in line for line in lines)


@pytest.mark.parametrize(
    ("program", "compares_everything"),
    [("ovs-vswitchd", True), ("ovs-vswitchd", False), ("ovsdb-server", True)],
)
def test_stopped_server_ends_a_reconcile_in_time_and_the_next_one_catches_up(
    ovs_host: OvsHost, program: str, compares_everything: bool
) -> None:
    ovs_host.reconcile(3)
    assert flows_of_peer(ovs_host, 3)
    with ovs_host.stopped(program):
        if compares_everything:
            ovs_host.plane.mark_dirty()
        with ends_within(LONGEST), pytest.raises(FlatmeshError) as error:
            ovs_host.reconcile(4)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, OSError)
        assert ovs_host.plane.problem() is not None
    ovs_host.reconcile(4)
    assert ovs_host.plane.problem() is None
    assert flows_of_peer(ovs_host, 4)
    assert not flows_of_peer(ovs_host, 3)
    assert ovs_host.reconcile(4) == []


def test_changed_lease_of_a_flow_mesh_needs_no_database(ovs_host: OvsHost) -> None:
    ovs_host.reconcile(3)
    with ovs_host.stopped("ovsdb-server"), ends_within(1.0):
        ovs_host.reconcile(4)
    assert flows_of_peer(ovs_host, 4)


@pytest.mark.parametrize(
    ("program", "call", "error", "seconds"),
    [
        ("ovs-vswitchd", lambda d: appctl(d, "version"), AppctlError, APPCTL_TIMEOUT),
        ("ovs-vswitchd", lambda d: Switch(d, "obr0").changes([]), OpenFlowError, OFCTL_TIMEOUT),
        ("ovsdb-server", Ovsdb, OvsdbError, OVSDB_TIMEOUT),
    ],
)
def test_each_call_to_a_stopped_server_ends_in_time(
    ovs_host: OvsHost,
    program: str,
    call: Callable[[object], object],
    error: type[FlatmeshError],
    seconds: float,
) -> None:
    assert seconds <= LONGEST
    ovs_host.reconcile()
    with ovs_host.stopped(program), ends_within(seconds), pytest.raises(error, match="not answer"):
        call(ovs_host.server.directory)
    call(ovs_host.server.directory)


def test_daemon_stops_while_the_switch_does_not_answer(ovs_host: OvsHost) -> None:
    ovs_host.reconcile()
    ovs_host.plane.watch(lambda: None)
    with ovs_host.stopped("ovs-vswitchd"), ends_within(1.0):
        ovs_host.plane.close()
