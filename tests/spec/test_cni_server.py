"""The daemon's socket, its two clients, and what happens when the daemon goes away."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import cni.install
from cni.host import HostStatus, PluginHost, host_from_environment, socket_path
from cni.socket import protocol
from cni.socket.server import CniServer, CniServerError
from tests.spec.cni_host import CniHost, MakeConf

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


# -- with real executables ---------------------------------------------------------------


@pytest.fixture(params=["compiled", "python"])
def either_client(request: pytest.FixtureRequest, own_host: CniHost, tmp_path: Path) -> CniHost:
    """A host whose executables are the compiled client, or the one without a compiler."""
    if request.param == "python":
        own_host.bin_dir = tmp_path / "python-bin"
        lines = cni.install.install(own_host.bin_dir, sys.executable, compilers=("no-such-cc",))
        assert "Python client" in lines[0]
    return own_host


def test_both_clients_carry_a_call(either_client: CniHost, container: str, conf: MakeConf) -> None:
    host = either_client
    host.serve()
    pod = host.pod()
    result = host.call("ADD", conf(), container, pod).result()
    host.call("CHECK", conf(prevResult=result), container, pod).result()
    host.call("ADD", conf(), container, pod).refused(102)
    host.call("ADD", conf(), f"{container}-x", "/run/netns/gone").refused(4)
    host.call("DEL", conf(), container, "/run/netns/gone").result()
    assert not host.records()


def test_both_clients_work_without_a_daemon(
    either_client: CniHost, container: str, conf: MakeConf
) -> None:
    host = either_client
    pod = host.pod()
    host.call("ADD", conf(), container, pod).result()
    host.serve()  # and the daemon knows what they did
    host.call("DEL", conf(), container, pod).result()
    assert not host.records()
    assert not host.cables()


def test_a_pod_added_by_the_daemon_goes_without_it(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    own_host.serve()
    pod = own_host.pod()
    own_host.call("ADD", conf(), container, pod).result()
    own_host.kill_server()
    own_host.call("DEL", conf(), container, pod).result()
    assert not own_host.records()


def fake_daemon(path: Path, answer: Callable[[socket.socket], object]) -> socket.socket:
    """A daemon that takes a request and then does what `answer` does with the connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                protocol.receive_call(connection, 30).close()
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: None,
        lambda c: c.sendall(b"FM"),
        lambda c: c.sendall(b"rubbish rubbish rubbish"),
        lambda c: protocol.send_answer(c, protocol.RUN_IT_YOURSELF, b""),
    ],
    ids=["dies", "dies half-way", "speaks otherwise", "declines"],
)
def test_add_succeeds_without_a_daemon_that_does_not_answer(
    either_client: CniHost,
    container: str,
    conf: MakeConf,
    answer: Callable[[socket.socket], object],
) -> None:
    host = either_client
    listener = fake_daemon(host.directory / "run" / "cni.sock", answer)
    try:
        pod = host.pod()
        large = conf(**{"x-comment": "x" * 300_000})
        assert host.call("ADD", large, container, pod).result()["ips"]
        host.call("DEL", large, container, pod).result()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_an_answer_cut_off_in_the_middle_is_no_second_add(
    either_client: CniHost, container: str, conf: MakeConf
) -> None:
    host = either_client
    listener = fake_daemon(
        host.directory / "run" / "cni.sock",
        lambda c: c.sendall(struct.pack("=4sII", b"FMA1", 0, 1000) + b'{"cni'),
    )
    try:
        host.call("ADD", conf(), container, host.pod()).refused(11)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_stopping_daemon_finishes_what_it_has_begun(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    own_host.serve()
    pods = [own_host.pod() for _ in range(8)]
    calls = [own_host.start("ADD", conf(), f"{container}-{n}", p) for n, p in enumerate(pods)]
    own_host.kill_server(signal.SIGTERM)
    for call in calls:  # answered by the daemon, or done without it: all the same
        own_host.finish(call).result()
    assert len(own_host.records()) == 8
    assert not (own_host.directory / "run" / "cni.sock").exists()


def test_a_daemon_of_another_host_is_not_used(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    """The socket of one host reached from another's network namespace, by a wrong variable."""
    own_host.serve()
    stranger = own_host.pod()
    pod = own_host.pod()
    enter = ["nsenter", f"--net={stranger}"]
    done = subprocess.run(
        [*enter, str(own_host.bin_dir / "flatmesh")],
        env={
            **own_host.variables,
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": own_host.cni_path,
        },
        input=json.dumps(conf()).encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert own_host.cables() == []
    assert any(x["ifname"] == "kbr0" for x in own_host.ip("link", "show", pod=stranger))


# -- installing --------------------------------------------------------------------------


def test_install_is_repeatable_and_uninstall_takes_only_ours(tmp_path: Path) -> None:
    (tmp_path / "flannel").write_text("#!/bin/sh\nexec the real one\n")
    lines = cni.install.install(tmp_path, sys.executable)
    assert sum("left alone" in line for line in lines) == 1
    before = (tmp_path / "flatmesh").stat().st_ino
    cni.install.install(tmp_path, sys.executable)
    assert (tmp_path / "flatmesh").stat().st_ino != before  # replaced, not written into
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flannel", "flatmesh", "flatmesh-ipam"]
    cni.install.uninstall(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["flannel"]


def test_an_executable_in_use_can_be_replaced(tmp_path: Path) -> None:
    cni.install.install(tmp_path, sys.executable)
    running = subprocess.Popen(
        [tmp_path / "flatmesh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=VERSION
    )
    cni.install.install(tmp_path, sys.executable)
    out, _ = running.communicate(b"{}", 60)
    assert json.loads(out)["supportedVersions"]


def test_a_fallback_that_is_gone_is_one_line(tmp_path: Path) -> None:
    cni.install.install(tmp_path, "/nowhere/bin/python")
    done = subprocess.run(
        [tmp_path / "flatmesh"],
        input=b"{}",
        env={**VERSION, "FLATMESH_SOCKET": "/nowhere.sock"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5
    assert "/nowhere/bin/python" in json.loads(done.stdout)["msg"]


def test_an_install_directory_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-I", "-m", "cni.install", "--bin-dir", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
