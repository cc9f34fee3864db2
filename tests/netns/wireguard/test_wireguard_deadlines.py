# SPDX-License-Identifier: Apache-2.0
"""wireguard-go does not answer: calls end in time; later ones apply what is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from base.errors import FlatmeshError
from flannel.wireguard.process import START_TIMEOUT, STOP_TIMEOUT, VERSION_TIMEOUT
from flannel.wireguard.uapi import UAPI_TIMEOUT

if TYPE_CHECKING:
    from tests.netns.wireguard.conftest import Host, Mesh

LONGEST = 10.0  # seconds that any call may take
SLACK = 3.0  # seconds: a busy machine


@contextlib.contextmanager
def stopped(host: Host) -> Iterator[None]:
    """SIGSTOP wireguard-go: it holds device and socket, but is silent."""
    pid = host.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_stopped_wireguard_go_ends_every_call_in_time_and_goes_on_when_continued(
    mesh: Mesh,
) -> None:
    first, second = mesh.hosts
    pid = first.pid()
    with stopped(first):
        started = time.monotonic()
        with pytest.raises(FlatmeshError, match="no answer") as error:
            first.reconcile([first.own])
        assert time.monotonic() - started < UAPI_TIMEOUT + SLACK
        assert "\n" not in str(error.value)
        started = time.monotonic()
        assert "no answer" in (first.run(first.plane.problem) or "")
        assert time.monotonic() - started < 1  # /readyz calls it, and must not wait
    changes = first.reconcile([first.own])
    assert len(changes) == 1
    assert changes[0].endswith("remove")
    assert first.plane.problem() is None
    first.reconcile([first.own, second.own])
    assert first.pid() == pid
    mesh.assert_all_reach_all()


def test_stopped_wireguard_go_is_ended_in_time(mesh: Mesh) -> None:
    first = mesh.hosts[0]
    with stopped(first):
        started = time.monotonic()
        first.run(first.plane.processes["flannel-wg"].stop)
        assert time.monotonic() - started < LONGEST + SLACK


def test_no_timeout_is_longer_than_the_limit() -> None:
    assert max(UAPI_TIMEOUT, START_TIMEOUT, 2 * STOP_TIMEOUT, VERSION_TIMEOUT) <= LONGEST
