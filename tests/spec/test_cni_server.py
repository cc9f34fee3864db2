# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket: who is answered, with what, and what happens to junk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cni.host import HostStatus, PluginHost, host_from_environment, socket_path
from cni.socket import protocol
from cni.socket.listener import CniServerError
from cni.socket.server import CniServer

VERSION = {"CNI_COMMAND": "VERSION"}


def serving(directory: Path, **more: Any) -> CniServer:
    return CniServer(
        directory / "cni.sock",
        PluginHost(directory, directory / "state", directory / "env", **more),
    )


def ask(
    path: Path,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"{}",
    plugin: str = "flatmesh",
    fds: tuple[str, ...] = ("net", "mnt"),
) -> tuple[int, bytes] | None:
    """What the server answers: status and body, None when it only closes."""
    opened = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in fds]
    block = b"".join(
        f"{k}={v}\0".encode() for k, v in (VERSION if environment is None else environment).items()
    )
    message = struct.pack("=4sIII", b"FMQ1", len(plugin), len(block), len(stdin))
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            socket.send_fds(client, [message + plugin.encode() + block + stdin], opened)
            answer = b""
            while part := client.recv(65536):
                answer += part
    finally:
        for fd in opened:
            os.close(fd)
    if not answer:
        return None
    magic, status, length = struct.unpack_from("=4sII", answer)
    assert magic == b"FMA1"
    assert len(answer) == 12 + length
    return status, answer[12:]


def answered(path: Path, *arguments: Any, **keywords: Any) -> tuple[int, bytes]:
    """What the server answers when it must."""
    answer = ask(path, *arguments, **keywords)
    assert answer is not None
    return answer


def test_the_socket_is_root_s_alone(tmp_path: Path) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        assert (tmp_path / "cni.sock").stat().st_mode & 0o777 == 0o600
        status, body = answered(tmp_path / "cni.sock")
        assert status == 0
        assert "1.1.0" in json.loads(body)["supportedVersions"]
    finally:
        server.close()
    assert not (tmp_path / "cni.sock").exists()


def test_another_user_is_not_answered() -> None:
    directory = Path(tempfile.mkdtemp())  # pytest's own keeps other users out already
    server = serving(directory)
    server.start()
    try:
        directory.chmod(0o755)
        (directory / "cni.sock").chmod(0o666)  # even if somebody opened it up
        code = (
            "import os, socket\n"
            "os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX)\n"
            f"s.connect({str(directory / 'cni.sock')!r})\n"
            "s.settimeout(30)\n"
            "print(s.recv(99))\n"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
        )
        assert done.stdout == "b''\n", done.stderr
    finally:
        server.close()
        shutil.rmtree(directory)


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "cni.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = serving(tmp_path)
    server.start()
    try:
        assert ask(path) is not None
        with pytest.raises(CniServerError, match="another daemon"):
            serving(tmp_path).start()
        assert ask(path) is not None
    finally:
        server.close()


def test_a_second_daemon_of_a_host_ends_with_one_line(tmp_path: Path) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        done = subprocess.run(
            [
                *("unshare", "--net", sys.executable, "-I", "-m", "agent.main"),
                *("--run-dir", str(tmp_path), "--state-dir", str(tmp_path / "state")),
                *("--subnet-file", str(tmp_path / "env"), "--healthz-port", "0"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        server.close()
    assert done.returncode == 1
    assert "another daemon" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_closing_server_leaves_its_successor_s_socket(tmp_path: Path) -> None:
    first, second = serving(tmp_path), serving(tmp_path)
    first.start()
    (tmp_path / "cni.sock").unlink()
    second.start()
    first.close()
    try:
        assert ask(tmp_path / "cni.sock") is not None
    finally:
        second.close()


def test_too_long_a_path_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CniServerError, match="107 bytes"):
        CniServer(tmp_path / ("x" * 120), PluginHost()).start()


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"GET / HTTP/1.0\r\n\r\n",
        b"FMQ1",
        struct.pack("=4sIII", b"FMQ1", 1 << 30, 0, 0),
        struct.pack("=4sIII", b"FMQ1", 8, 1 << 31, 0),
        struct.pack("=4sIII", b"FMQ1", 8, 0, 1 << 31),
        struct.pack("=4sIII", b"FMQ1", 8, 0, 100) + b"flatmesh" + b"short",
        os.urandom(5000),
    ],
)
def test_junk_is_dropped_and_the_server_serves_on(tmp_path: Path, junk: bytes) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(tmp_path / "cni.sock"))
            client.sendall(junk)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(99) == b""
        assert ask(tmp_path / "cni.sock") is not None
    finally:
        server.close()


def test_silent_clients_do_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni.socket.server.REQUEST_TIMEOUT", 0.2)
    server = serving(tmp_path)
    server.workers = 2
    server.start()
    silent = []
    try:
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(tmp_path / "cni.sock"))
            silent.append(client)
        assert ask(tmp_path / "cni.sock") is not None
    finally:
        for client in silent:
            client.close()
        server.close()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_not_leaked(tmp_path: Path) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        ask(tmp_path / "cni.sock")
        before = open_descriptors()
        for _ in range(50):
            ask(tmp_path / "cni.sock", fds=("net", "mnt", "net"))
            ask(tmp_path / "cni.sock", environment={"CNI_COMMAND": "FLY"})
        deadline = time.monotonic() + 30
        # a leak of one a call would show as 50; other tests' leftovers come and go meanwhile
        while open_descriptors() > before + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert open_descriptors() <= before + 20
    finally:
        server.close()


def test_a_client_without_its_namespaces_does_the_work_itself(tmp_path: Path) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        assert ask(tmp_path / "cni.sock", fds=()) == (protocol.RUN_IT_YOURSELF, b"")
    finally:
        server.close()


def test_status_is_the_daemon_s(tmp_path: Path) -> None:
    status = HostStatus("no lease yet: etcd is away", pods_affected=True)
    server = serving(tmp_path, status=lambda: status)
    server.start()
    conf = json.dumps({"cniVersion": "1.1.0", "name": "pods"}).encode()
    try:
        for plugin in ("flatmesh", "flatmesh-ipam", "flannel"):
            code, body = answered(tmp_path / "cni.sock", {"CNI_COMMAND": "STATUS"}, conf, plugin)
            assert code == 1
            assert json.loads(body)["code"] == 51
            assert json.loads(body)["msg"] == "no lease yet: etcd is away"
    finally:
        server.close()


def test_an_unknown_plugin_is_refused(tmp_path: Path) -> None:
    server = serving(tmp_path)
    server.start()
    try:
        code, body = answered(tmp_path / "cni.sock", plugin="other")
        assert (code, json.loads(body)["code"]) == (1, 4)
    finally:
        server.close()


def test_where_the_socket_is() -> None:
    assert socket_path({}) == "/run/flatmesh/cni.sock"
    assert socket_path({"FLATMESH_RUN_DIR": "/x"}) == "/x/cni.sock"
    assert socket_path({"FLATMESH_RUN_DIR": "/x", "FLATMESH_SOCKET": "/y"}) == "/y"
    host = host_from_environment({"FLATMESH_STATE_DIR": "/s"})
    assert (host.state_dir, host.run_dir) == (Path("/s"), Path("/run/flatmesh"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """The socket of a server that runs during the test."""
    server = serving(tmp_path)
    server.start()
    yield server.socket_path
    server.close()


@pytest.mark.parametrize("sent", [b"", b"FMQ1"], ids=["idle", "a few bytes"])
def test_a_thousand_idle_connections_keep_no_call_waiting(served: Path, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(30)
            client.connect(str(served))
            client.sendall(sent)
        started = time.monotonic()
        assert answered(served)[0] == 0
        assert time.monotonic() - started < 20


def test_a_request_that_comes_late_is_answered(served: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(served))
        time.sleep(0.3)
        client.sendall(struct.pack("=4sIII", b"FMQ1", 8, 0, 2) + b"flatmesh{}")
        assert client.recv(65536)[:4] == b"FMA1"


@pytest.mark.parametrize("what", ["socket", "directory", "other file"])
def test_a_socket_that_somebody_removes_is_opened_again(tmp_path: Path, what: str) -> None:
    """The fast path comes back by itself, and calls at work are answered meanwhile."""
    directory = tmp_path / "run"
    directory.mkdir()
    path = directory / "cni.sock"
    server = serving(directory)
    server.start()
    try:
        assert answered(path)[0] == 0
        for _ in range(2):
            if what == "directory":
                shutil.rmtree(directory)
            else:
                path.unlink()
            if what == "other file":
                path.write_text("")
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError):
                    assert answered(path)[0] == 0
                    break
                assert time.monotonic() < deadline, "nobody listens again"
                time.sleep(0.05)
    finally:
        server.close()
    assert not path.exists()
    assert not [t for t in threading.enumerate() if t.name.startswith("cni-")]
