# SPDX-License-Identifier: Apache-2.0
"""The datagrams that systemd gets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.systemd.notify import NotifySocket


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_arrive_as_one_datagram(tmp_path: Path, abstract: bool) -> None:
    name = f"flatmesh-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}" if abstract else name)
        environment = {
            "NOTIFY_SOCKET": f"@{name}" if abstract else name,
            "WATCHDOG_USEC": "6000000",
            "WATCHDOG_PID": str(os.getpid()),
            "HOME": "/root",
        }
        manager = NotifySocket.take(environment)
        assert environment == {"HOME": "/root"}  # processes that we start don't speak for us
        assert manager.watchdog == 6.0
        assert manager.tell("READY=1", "STATUS=ready")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=ready"


def test_a_service_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        manager = NotifySocket.take({"NOTIFY_SOCKET": name})
        assert manager.watchdog is None
        sent = 0
        while manager.tell("WATCHDOG=1"):
            sent += 1
        assert sent > 0
        systemd.recv(1000)
        assert manager.tell("WATCHDOG=1")
    assert not manager.tell("WATCHDOG=1")


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    foreign = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}
    assert NotifySocket.take(foreign).watchdog is None
    assert not NotifySocket.take({}).tell("READY=1")
