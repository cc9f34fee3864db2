# SPDX-License-Identifier: Apache-2.0
"""`docker run --publish` on the network driver: by the host, the caller's address is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from lab import hosts as lab_hosts
from lab import processes
from tests.scenario.docker.docker_host import DockerHost, reached, seen_source
from tests.scenario.docker.test_docker_driver import CREATE, DUAL, clean, held

Eventually = Callable[..., None]
DATAGRAM_SERVER = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind(("0.0.0.0", 53))
    server.settimeout(60)
    print("listens", flush=True)
    _, caller = server.recvfrom(64)
    server.sendto(b"answered", caller)
    print(caller[0])
"""
DATAGRAM = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.connect((sys.argv[1], int(sys.argv[2])))
    for _ in range(30):
        client.send(b"asked")
        try:
            print(client.recv(64).decode())
            break
        except TimeoutError:
            pass
"""
TABLE = "nft", "list", "table", "inet", "flatmesh_docker"


@pytest.fixture(scope="module")
def hosts(docker_hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """Each with the network `flat`; on the first `web`, which publishes, and `box` beside it."""
    one = docker_hosts[0]
    for host in docker_hosts:
        host(*CREATE, *DUAL, "flat")
        host.run("box", "--network", "flat")
    v4 = lab_hosts.host_ipv4(one.number)
    publish = "8080:80", "8053:53/udp", f"{v4}:8090:90"
    one.run("web", "--network", "flat", *(word for p in publish for word in ("--publish", p)))
    one.lab.add_pod(1, "p")
    yield docker_hosts
    one.lab.delete_pod(1, "p")
    one("rm", "-f", "web")
    for host in docker_hosts:
        host("rm", "-f", "box")
        assert clean(host)
        host("network", "rm", "flat")
    assert "flatmesh_docker" not in one.host.run("nft", "list", "tables")


def address_of(host: DockerHost, *, ipv6: bool) -> str:
    number = host.number
    return lab_hosts.host_ipv6(number) if ipv6 else lab_hosts.host_ipv4(number)


def seen(hosts: list[DockerHost], sender: list[str], *, ipv6: bool, port: int = 80) -> str:
    """Whom `web` sees when the sender opens the published port at the first host's address."""
    one = hosts[0]
    by = address_of(one, ipv6=ipv6), 8000 + port
    own = one.address("web", "flat", ipv6=ipv6)
    return seen_source(sender, one.inside("web"), own, port, by)


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_container_sees_the_callers_address(hosts: list[DockerHost], ipv6: bool) -> None:
    one, other = hosts
    assert seen(hosts, other.host.enter, ipv6=ipv6) == address_of(other, ipv6=ipv6)
    # what leaves the cluster's network for a host's address is masqueraded by the sender's host
    assert seen(hosts, other.inside("box"), ipv6=ipv6) == address_of(other, ipv6=ipv6)
    assert seen(hosts, one.host.enter, ipv6=ipv6) == address_of(one, ipv6=ipv6)


@pytest.mark.parametrize("ipv6", [False, True])
def test_neighbours_and_the_container_itself_reach_it_as_the_host(
    hosts: list[DockerHost], ipv6: bool
) -> None:
    one = hosts[0]
    (pod,) = (p for p in one.lab.pods if p.host == 1)
    for sender in (one.inside("box"), list(processes.enter(pod.netns)), one.inside("web")):
        assert seen(hosts, sender, ipv6=ipv6) not in ("", address_of(hosts[1], ipv6=ipv6))


def test_one_address_and_udp(hosts: list[DockerHost]) -> None:
    one, other = hosts
    assert seen(hosts, other.host.enter, ipv6=False, port=90) == address_of(other, ipv6=False)
    listen = [*one.inside("web"), sys.executable, "-c", DATAGRAM_SERVER]
    send = [*other.host.enter, sys.executable, "-c", DATAGRAM, address_of(one, ipv6=False), "8053"]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert subprocess.check_output(send, text=True, timeout=60) == "answered\n"
        assert server.stdout.readline().strip() == address_of(other, ipv6=False)


@pytest.mark.parametrize(
    ("publish", "why"),
    [
        ("8080:81", "port all addresses:8080/tcp is already published for container"),
        ("82", "name the host's port, as --publish 8080:82"),
        ("127.0.0.1:8081:80", "never reaches a container of this network"),
        ("192.0.2.1:8081:80", "Cannot assign requested address"),
        ("2379:80", ""),
    ],
)
def test_what_cannot_be_published_is_refused_in_one_line(
    hosts: list[DockerHost], publish: str, why: str
) -> None:
    one = hosts[0]
    before, table = held(one), one.host.run(*TABLE)
    if not why:
        publish, why = "9000:80", "is in use by "
        server = one.host.run("sh", "-c", "busybox nc -l -p 9000 >/dev/null 2>&1 & echo $!")
    with pytest.raises(AssertionError, match=why):
        one("run", "--network", "flat", "--name", "no", "--publish", publish, "fm-busybox", "sleep")
    if why == "is in use by ":
        one.host.run("kill", server)
    one("rm", "-f", "no")
    assert held(one) == before
    assert one.host.run(*TABLE) == table


def test_a_range_gives_a_free_port_of_it(hosts: list[DockerHost]) -> None:
    one, other = hosts
    one.run("range", "--network", "flat", "--publish", "8079-8085:80")
    two = "two", "--network", "flat", "--publish", "8079-8085:80"
    one.run(*two)
    try:
        table = one.host.run(*TABLE)
        assert f"tcp . 8079 : {one.address('range', 'flat')} . 80" in table
        assert f"tcp . 8081 : {one.address('two', 'flat')} . 80" in table  # 8080 is web's
    finally:
        one("rm", "-f", "range", "two")
    assert "8079" not in one.host.run(*TABLE)
    assert reached(other.inside("box"), one.address("web", "flat"))


def test_the_daemon_is_killed_and_rules_are_flushed(
    hosts: list[DockerHost], eventually: Eventually
) -> None:
    one, other = hosts
    pid = one.lab.daemon_pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    processes.stop([pid])
    assert seen(hosts, other.host.enter, ipv6=False) == address_of(other, ipv6=False)
    one.host.run("nft", "delete", "table", "inet", "flatmesh_docker")
    one.start_daemon()
    eventually(lambda: "8080" in one.host.run(*TABLE, check=False), "the table is made again")
    assert seen(hosts, other.host.enter, ipv6=False) == address_of(other, ipv6=False)
    one.host.run("nft", "flush", "chain", "inet", "flatmesh_docker", "published")
    eventually(lambda: "dnat" in one.host.run(*TABLE), "the rules are put back")


def test_a_container_that_dies_publishes_no_more_and_starts_again(
    hosts: list[DockerHost], eventually: Eventually
) -> None:
    one, other = hosts
    one("kill", "web")
    eventually(lambda: "8080" not in one.host.run(*TABLE, check=False), "its ports are free")
    one("start", "web")
    assert seen(hosts, other.host.enter, ipv6=False) == address_of(other, ipv6=False)
