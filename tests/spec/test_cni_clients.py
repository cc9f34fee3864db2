# SPDX-License-Identifier: Apache-2.0
"""The executables, compiled and in Python: with a daemon, without one, and with a broken one."""

from __future__ import annotations

import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import cni.install
from cni.socket import protocol
from tests.spec.cni_host import CniHost, MakeConf


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
    assert not host.host_interfaces()


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
    assert own_host.host_interfaces() == []
    assert any(x["ifname"] == "kbr0" for x in own_host.ip("link", "show", pod=stranger))
