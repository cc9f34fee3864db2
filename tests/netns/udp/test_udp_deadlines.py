# SPDX-License-Identifier: Apache-2.0
"""A data-plane process does not answer: calls end in time; later ones apply what is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from base.errors import FlatmeshError
from flannel.udp import lifecycle
from flannel.udp.lifecycle import CALL_LIMIT
from lab import processes

if TYPE_CHECKING:
    from tests.netns.udp.conftest import Host, MakeMesh

SLACK = 3.0  # seconds: a busy machine


@contextlib.contextmanager
def stopped(host: Host) -> Iterator[int]:
    """SIGSTOP the data-plane process: it holds its lock and socket, but is silent."""
    pid = host.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_stopped_process_ends_every_call_in_time_and_goes_on_when_continued(
    make_mesh: MakeMesh,
) -> None:
    mesh = make_mesh()
    mesh.reconcile()
    first, second = mesh.hosts
    leases = [host.own for host in mesh.hosts]
    with stopped(first) as pid:
        started = time.monotonic()
        with pytest.raises(FlatmeshError, match="no answer") as error:
            first.reconcile(leases)
        assert "\n" not in str(error.value)
        with pytest.raises(FlatmeshError, match="no answer"):
            first.run(lambda: first.plane.reconcile(first.own, [], first.underlay))
        assert time.monotonic() - started < CALL_LIMIT + SLACK
        started = time.monotonic()
        assert "no answer" in (first.plane.problem() or "")
        assert time.monotonic() - started < 1  # /readyz calls it, and must not wait
    assert first.reconcile(leases) == []
    assert first.pid() == pid
    assert first.plane.problem() is None
    assert first.reconcile([first.own]) == [f"udp: - {second.subnet} at 192.168.64.12"]


def test_process_that_is_silent_for_long_is_replaced(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "HUNG_TIMEOUT", 1.0)
    mesh = make_mesh()
    mesh.reconcile()
    first = mesh.hosts[0]
    leases = [host.own for host in mesh.hosts]
    with stopped(first) as pid:
        with pytest.raises(FlatmeshError, match="no answer"):
            first.reconcile(leases)
        time.sleep(1.0)
        started = time.monotonic()
        first.reconcile(leases)
        assert time.monotonic() - started < CALL_LIMIT + SLACK
        assert first.pid() != pid
        assert not processes.running(pid)
    mesh.assert_all_reach_all()
