# SPDX-License-Identifier: Apache-2.0
"""The daemon's status socket: for root alone, bounded, and never a wait without an end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.settings import Settings
from agent.status.client import NoDaemonError, RefusedError, ask
from agent.status.daemon_settings import ask_settings, exported
from agent.status.server import MAX_REQUESTS, StatusServer
from base.errors import FlatmeshError
from etcd.connect import EtcdSettings

SECRET = "correct horse"  # noqa: S105 - looked for in what must not hold it
ETCD = EtcdSettings(
    ("https://[fd00::1]:2379", "https://etcd:2379"),
    "/net",
    "/k.pem",
    "/c.pem",
    "/ca.pem",
    "root",
    SECRET,
)


@contextlib.contextmanager
def serving(directory: Path, busy: threading.Barrier | None = None) -> Iterator[StatusServer]:
    def wait(request: object) -> str:
        del request
        assert busy is not None
        busy.wait(20)  # until all are here
        busy.wait(20)  # until they may go
        return "done"

    def fail(request: object) -> str:
        raise FlatmeshError(f"can't: {request}")

    settings = Settings(etcd=ETCD, run_dir=directory)
    answers = {"settings": lambda _: exported(settings), "wait": wait, "fail": fail}
    server = StatusServer(directory / "status.sock", answers)
    server.start()
    try:
        yield server
    finally:
        server.close()


def test_the_settings_are_told_without_the_password(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.path.stat().st_mode & 0o777 == 0o600
        told = ask_settings(tmp_path)
        assert SECRET not in str(ask(tmp_path, "settings"))
    etcd = told.etcd
    assert etcd is not None
    assert (etcd.endpoints, etcd.prefix) == (ETCD.endpoints, "/net")
    assert (etcd.keyfile, etcd.certfile, etcd.cafile) == ("/k.pem", "/c.pem", "/ca.pem")
    assert (etcd.username, etcd.password, told.has_password) == ("root", None, True)
    assert told.run_dir == tmp_path
    assert not server.path.exists()


def test_a_daemon_that_is_away_or_stuck_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError, match="does not run here"):
        ask(tmp_path, "settings")
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "status.sock"))
        stuck.listen()
        started = time.monotonic()
        with pytest.raises(NoDaemonError, match="stopped or stuck"):
            ask(tmp_path, "settings", timeout=0.2)
        assert time.monotonic() - started < 2


def test_what_can_t_be_answered_is_an_error_of_one_line(tmp_path: Path) -> None:
    with serving(tmp_path):
        with pytest.raises(RefusedError, match="answers settings, wait, fail only"):
            ask(tmp_path, "tea")
        with pytest.raises(RefusedError, match="can't: "):
            ask(tmp_path, "fail")
        with pytest.raises(RefusedError, match="at most 4096 bytes"):
            ask(tmp_path, "x" * 5000)
        for garbage in (b"\0\n", b"[]\n", b'{"ask":1', b"[" * 4000 + b"\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "status.sock"))
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                assert b'"error"' in client.recv(4096)
        assert ask(tmp_path, "settings")


def test_more_than_it_serves_at_once_are_told_so(tmp_path: Path) -> None:
    busy = threading.Barrier(MAX_REQUESTS + 1)
    with serving(tmp_path, busy):
        asking = [
            threading.Thread(target=ask, args=[tmp_path, "wait", 60.0]) for _ in range(MAX_REQUESTS)
        ]
        for thread in asking:
            thread.start()
        busy.wait(20)
        with pytest.raises(RefusedError, match="ask again"):
            ask(tmp_path, "settings")
        busy.wait(20)
        for thread in asking:
            thread.join()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(RefusedError):
                assert ask(tmp_path, "settings")
                return
        pytest.fail("nobody is served again")


def test_a_socket_whose_file_is_removed_is_opened_again(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.path.unlink()
        deadline = time.monotonic() + 20
        while not server.path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ask(tmp_path, "settings")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_refused_although_the_file_lets_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        for directory in (tmp_path, *tmp_path.parents[:3]):
            directory.chmod(0o755)
        server.path.chmod(0o777)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534)
                ask(tmp_path, "settings")
            except NoDaemonError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
