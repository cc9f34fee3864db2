# SPDX-License-Identifier: Apache-2.0
"""The bytes between client and daemon, as the first installed versions wrote them.

During an upgrade an old executable meets a new daemon, and a new executable an old daemon. So
the bytes stand here as they were, and not as `cni.socket.protocol` or a client makes them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cni.install
from cni.host import PluginHost
from cni.socket import protocol
from cni.socket.server import CniServer

CONF = b'{"cniVersion": "1.1.0", "name": "pods"}'
NAMESPACES = ("/proc/self/ns/net", "/proc/self/ns/mnt")


def number(value: int) -> bytes:
    """32 bits in the machine's byte order."""
    return value.to_bytes(4, sys.byteorder)


def old_request(plugin: bytes, environment: bytes, stdin: bytes) -> bytes:
    """A request as client.c of the first version writes it."""
    sizes = number(len(plugin)) + number(len(environment)) + number(len(stdin))
    return b"FMQ1" + sizes + plugin + environment + stdin


def receive_all(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65536):
        data += part
    return data


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    opened = [os.open(path, os.O_RDONLY) for path in (*NAMESPACES, "/proc/self/ns/net")]
    yield opened
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("cut", [1, 4, 15, 16, 20, 60, 100_000])
def test_a_request_of_an_old_client_is_read(descriptors: list[int], cut: int) -> None:
    environment = b"CNI_COMMAND=ADD\0CNI_CONTAINERID=c1\0CNI_NETNS=/run/netns/x\0"
    message = old_request(b"flatmesh-ipam", environment, CONF)
    ours, theirs = socket.socketpair()

    def send() -> None:
        socket.send_fds(theirs, [message[:cut]], descriptors)
        theirs.sendall(message[cut:])

    with ours, theirs:
        sender = threading.Thread(target=send)
        sender.start()
        received = protocol.receive_call(ours, 30)
        sender.join()
    try:
        call = received.call
        assert (call.plugin, call.stdin) == ("flatmesh-ipam", CONF)
        assert call.environment == {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/run/netns/x",
        }
        assert received.is_in_our_network()
        assert received.has_our_mounts()
        assert call.netns_fd is not None
        assert os.fstat(call.netns_fd).st_ino == os.fstat(descriptors[2]).st_ino
    finally:
        received.close()


def test_the_daemon_answers_an_old_client_as_ever(tmp_path: Path, descriptors: list[int]) -> None:
    server = CniServer(tmp_path / "cni.sock", PluginHost(tmp_path, tmp_path, tmp_path / "env"))
    server.start()
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(tmp_path / "cni.sock"))
            message = old_request(b"flatmesh", b"CNI_COMMAND=STATUS\0", CONF)
            socket.send_fds(client, [message], descriptors[:2])
            answer = receive_all(client)
    finally:
        server.close()
    body = answer[12:]
    assert answer[:12] == b"FMA1" + number(1) + number(len(body))
    assert json.loads(body)["code"] == 50  # there is no lease


def test_the_answer_that_declines_a_call_has_status_254() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            protocol.send_answer(ours, protocol.RUN_IT_YOURSELF, b"")
        assert receive_all(theirs) == b"FMA1" + number(254) + number(0)


@pytest.mark.parametrize("compilers", [cni.install.COMPILERS, ("no-such-cc",)], ids=["c", "python"])
def test_a_client_writes_what_an_old_daemon_reads(
    tmp_path: Path, compilers: tuple[str, ...]
) -> None:
    cni.install.install(tmp_path / "bin", sys.executable, compilers=compilers)
    path = tmp_path / "cni.sock"
    # in this order: the environment is sent as the client has it
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_NETNS": "/proc/self/ns/net",
        "FLATMESH_SOCKET": str(path),
        "LC_CTYPE": "C.UTF-8",  # the Python interpreter adds it where there is none
    }
    block = b"".join(f"{k}={v}\0".encode() for k, v in environment.items())
    expected = old_request(b"flatmesh", block, CONF)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            [tmp_path / "bin" / "flatmesh"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(CONF)
        process.stdin.close()
        listener.settimeout(30)
        connection, _ = listener.accept()
        with connection:
            data, fds, _, _ = socket.recv_fds(connection, 65536, 8)
            while len(data) < len(expected):
                data += connection.recv(65536)
            inodes = [os.fstat(fd).st_ino for fd in fds]
            for fd in fds:
                os.close(fd)
            connection.sendall(b"FMA1" + number(7) + number(3) + b"{}\n")
    assert data == expected
    assert inodes == [Path(p).stat().st_ino for p in (*NAMESPACES, "/proc/self/ns/net")]
    assert process.stdout is not None
    with process.stdout as out:
        assert out.read() == b"{}\n"
    assert process.wait(30) == 7
