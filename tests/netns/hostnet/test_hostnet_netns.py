# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hostnet import netns as namespaces
from hostnet.netns import NetnsRef


def identity(netns: NetnsRef | None = None) -> tuple[int, int]:
    """Device and inode: equal exactly when two references are the same namespace."""
    path = namespaces.path_of(netns) if netns is not None else "/proc/thread-self/ns/net"
    stat = Path(path).stat()
    return (stat.st_dev, stat.st_ino)


def test_namespace_is_the_one_that_ip_netns_shows_and_its_loopback_is_up(netns: str) -> None:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert netns in listed.stdout
    loopback = subprocess.run(
        ["ip", "-n", netns, "-br", "link", "show", "lo"], capture_output=True, text=True, check=True
    )
    assert "LOWER_UP" in loopback.stdout
    inside = namespaces.run_in(netns, identity)
    assert inside == identity(netns) != identity()


def test_namespace_made_by_ip_netns_is_entered_and_removed_by_us() -> None:
    name = f"fm-{secrets.token_hex(4)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        assert namespaces.run_in(name, identity) == identity(name)
    finally:
        assert namespaces.remove(name)
    assert not namespaces.remove(name)
    assert name not in namespaces.names()


def test_taken_name_is_refused_and_left_alone(netns: str) -> None:
    before = identity(netns)
    with pytest.raises(namespaces.NetnsError, match="File exists"):
        namespaces.create(netns)
    assert identity(netns) == before


def test_missing_namespace_and_plain_file_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(namespaces.NetnsError, match="No such file"):
        namespaces.open_netns("/run/netns/nobody-made-this")
    plain = tmp_path / "left-by-a-reboot"
    plain.touch()
    with pytest.raises(namespaces.NetnsError, match="is a file, but no network namespace"):
        namespaces.open_netns(plain)
    with pytest.raises(namespaces.NetnsError, match="no network namespace"):
        namespaces.open_netns("/proc/self/ns/uts")


def test_socket_opened_inside_is_used_from_outside(netns: str) -> None:
    def listen() -> socket.socket:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(10)
        return server

    with namespaces.run_in(netns, listen) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        client = namespaces.run_in(
            netns, lambda: socket.create_connection(("127.0.0.1", port), timeout=5)
        )
        with client, server.accept()[0] as accepted:
            client.sendall(b"hello")
            assert accepted.recv(5) == b"hello"


def test_callers_thread_stays_where_it_is_also_after_an_error(netns: str) -> None:
    before = identity()

    def fail() -> None:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        namespaces.run_in(netns, fail)
    assert identity() == before
    with namespaces.own_netns() as own:
        fd = namespaces.open_netns(netns)
        with namespaces.entered(fd, own):
            assert identity() == identity(netns)
        os.close(fd)
    assert identity() == before


def test_descriptor_keeps_a_removed_namespace_usable(
    make_netns: Callable[[], str],
) -> None:
    name = make_netns()
    fd = namespaces.open_netns(name)
    try:
        expected = identity(fd)
        namespaces.remove(name)
        assert namespaces.run_in(fd, identity) == expected
    finally:
        os.close(fd)


def test_many_threads_work_in_their_own_namespaces(make_netns: Callable[[], str]) -> None:
    names = [make_netns() for _ in range(3)]
    wrong: list[str] = []

    def work(name: str) -> None:
        seen = {namespaces.run_in(name, identity) for _ in range(50)}
        wrong.extend([name] * (seen != {identity(name)}))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_fresh_namespace_dies_with_its_thread() -> None:
    inside = namespaces.run_in_new(identity)
    assert inside != identity()
