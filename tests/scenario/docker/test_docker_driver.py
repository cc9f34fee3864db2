# SPDX-License-Identifier: Apache-2.0
"""`docker network create -d flatmesh --ipam-driver flatmesh`: containers beside pods, on kbr0."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ipam.address_store import AddressStore
from lab import processes
from tests.scenario.docker.docker_host import IMAGE, DockerHost, reached, seen_source

Eventually = Callable[..., None]
CREATE = "network", "create", "--driver", "flatmesh", "--ipam-driver", "flatmesh"
DUAL = "--ipv6", "--subnet", "10.5.0.0/16", "--subnet", "fd05::/48"
"""The cluster's networks: the same command on every host."""
SWEEP = """
from pathlib import Path
from cni.host import PluginHost
from docker_plugin.sweep import sweep
host = PluginHost(subnet_file=Path("/run/flatmesh/subnet.env"))
print(*sweep(host, grace=0), sep="\\n")
"""
"""What the daemon does every half a minute, without waiting for a minute."""


def held(host: DockerHost) -> dict[str, str]:
    """Every address that is held on the host, and by whom."""
    with AddressStore(host.host.state_dir / "addresses.sqlite", durable=False) as store:
        return {
            str(address): record.attachment.network
            for record in store.list()
            for address in record.addresses
        }


def endpoints(host: DockerHost) -> list[str]:
    """The host's ends of veth pairs of our driver, as far as their alias says so."""
    links = json.loads(host.host.run("ip", "-json", "link", "show", "type", "veth"))
    return [one["ifname"] for one in links if ".docker" in one.get("ifalias", "")]


def call(host: DockerHost, name: str, body: object) -> Any:
    """What the driver answers, without dockerd."""
    text = json.dumps(body)
    head = f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(f"{host.plugins}/flatmesh.sock")
        client.sendall((head + text).encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def clean(host: DockerHost) -> bool:
    return not endpoints(host) and ".docker" not in held(host).values()


@pytest.fixture(scope="module")
def hosts(docker_hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """Each with the network `flat`, a container `box` on it, and a pod `p`."""
    for host in docker_hosts:
        host(*CREATE, *DUAL, "flat")
        host.run("box", "--network", "flat")
        host.lab.add_pod(host.number, "p")
    yield docker_hosts
    for host in docker_hosts:
        host("rm", "-f", "box")
        host.lab.delete_pod(host.number, "p")
        host("network", "rm", "flat")


def test_containers_and_pods_of_all_hosts_reach_each_other_unchanged(
    hosts: list[DockerHost],
) -> None:
    one, other = hosts
    pods = {pod.host: pod for pod in one.lab.pods}
    in_pod = list(processes.enter(pods[1].netns))
    for ipv6 in (False, True):
        here, there = (host.address("box", "flat", ipv6=ipv6) for host in hosts)
        of_pod = pods[1].addresses[int(ipv6)]
        assert reached(one.inside("box"), there)
        assert seen_source(one.inside("box"), other.inside("box"), there) == here
        assert reached(in_pod, there)
        assert seen_source(in_pod, other.inside("box"), there) == of_pod
        assert seen_source(one.inside("box"), in_pod, of_pod) == here
        assert seen_source(other.inside("box"), in_pod, of_pod) == there


def test_a_container_has_the_mtu_and_gateway_of_a_pod(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    shown = json.loads(host.host.run("ip", "-json", "link", "show", "kbr0"))
    assert f"mtu {shown[0]['mtu']} " in host("exec", "box", "ip", "link", "show", "eth0")
    gateway = str(ipaddress.ip_interface(host.lab.subnet(1)).network[1])
    assert f"default via {gateway} dev eth0" in host("exec", "box", "ip", "route")
    assert "default via fd05:" in host("exec", "box", "ip", "-6", "route")
    address = host.address("box", "flat")
    suffix = ":".join(f"{int(part):02x}" for part in address.split("."))
    assert f"0a:58:{suffix}" in host("exec", "box", "ip", "link", "show", "eth0")


def test_the_operator_sees_a_container_once(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    rows = [row for row in host.flatmesh("pods").splitlines() if host.address("box", "flat") in row]
    assert len(rows) == 1, host.flatmesh("pods")
    assert sum("10.5." in row for row in host.flatmesh("pods").splitlines()) == 2  # it and the pod


def test_a_forward_chain_that_drops_lets_containers_through(hosts: list[DockerHost]) -> None:
    one, other = hosts
    for tool in ("iptables", "ip6tables"):
        other.host.run(tool, "-P", "FORWARD", "DROP")
    try:
        for ipv6 in (False, True):
            assert reached(one.inside("box"), other.address("box", "flat", ipv6=ipv6))
    finally:
        for tool in ("iptables", "ip6tables"):
            other.host.run(tool, "-P", "FORWARD", "ACCEPT")


def test_a_container_can_not_send_from_an_address_of_others(hosts: list[DockerHost]) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    stolen = str(ipaddress.ip_interface(one.lab.subnet(1)).network[99])
    inside = one.inside("box")
    subprocess.run([*inside, "ip", "addr", "add", f"{stolen}/32", "dev", "eth0"], check=True)
    try:
        argv = [*inside, "ping", "-c", "2", "-W", "1", "-I", stolen, there]
        assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
        assert reached(inside, there)
    finally:
        subprocess.run([*inside, "ip", "addr", "del", f"{stolen}/32", "dev", "eth0"], check=True)


def test_fixed_address_and_mac_and_names(hosts: list[DockerHost]) -> None:
    one, other = hosts
    wanted = str(ipaddress.ip_interface(one.lab.subnet(1)).network[77])
    mac = "02:00:00:00:00:77"
    one.run("fixed", "--network", "flat", "--ip", wanted, "--mac-address", mac)
    try:
        assert mac in one("exec", "fixed", "ip", "link", "show", "eth0")
        assert reached(other.inside("box"), wanted)
        assert ", 0% packet loss" in one("exec", "box", "ping", "-c", "1", "-W", "5", "fixed")
        second = one("run", "--rm", "--network", "flat", "--ip", wanted, IMAGE, "ip", check=False)
        assert second == "" or "held by another" in second
        one("rm", "-f", "fixed")
        one.run("fixed", "--network", "flat", "--ip", wanted)  # another MAC: it is announced
        assert reached(other.inside("box"), wanted)
    finally:
        one("rm", "-f", "fixed")


def test_connect_and_disconnect_beside_another_network(hosts: list[DockerHost]) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    one("network", "create", "aside")
    one.run("both", "--network", "aside")
    try:
        one("network", "connect", "flat", "both")
        here = one.address("both", "flat")
        assert reached(one.inside("both"), there)
        assert seen_source(one.inside("both"), other.inside("box"), there) == here
        assert here in held(one)
        one("network", "disconnect", "flat", "both")
        assert here not in held(one)
        one("network", "connect", "flat", "both")
        assert reached(one.inside("both"), there)
    finally:
        one("rm", "-f", "both")
        one("network", "rm", "aside")


def test_a_network_that_names_no_subnet(hosts: list[DockerHost]) -> None:
    one, other = hosts
    one(*CREATE, "short")
    try:
        one.run("brief", "--network", "short")
        assert reached(other.inside("box"), one.address("brief", "short"))
        before = held(one)
        with pytest.raises(AssertionError, match="conflicts with existing route"):
            one("network", "connect", "flat", "brief")  # the two are one network
        assert held(one) == before
        assert reached(other.inside("box"), one.address("brief", "short"))
    finally:
        one("rm", "-f", "brief")
        one("network", "rm", "short")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--internal",), "leave it out"),
        (("--opt", "colour=blue"), "driver option colour"),
        (("--subnet", "10.99.0.0/24"), "is not this host's lease"),
    ],
)
def test_what_a_network_can_not_have_is_refused_in_one_line(
    hosts: list[DockerHost], arguments: tuple[str, ...], why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        hosts[0](*CREATE, *arguments, "refused")
    assert "refused" not in hosts[0]("network", "ls")


def test_another_ipam_is_refused(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    before = held(host)
    with pytest.raises(AssertionError, match="add --ipam-driver flatmesh"):
        host("network", "create", "--driver", "flatmesh", "refused")
    assert held(host) == before


def test_many_at_once_and_nothing_is_left(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    before = held(host)
    names = [f"many{number}" for number in range(20)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: host.run(name, "--network", "flat"), names))
    addresses = [host.address(name, "flat") for name in names]
    assert len(set(addresses)) == len(names)
    assert not set(addresses) & before.keys()
    argv = " && ".join(f"ping -c 1 -W 5 {address}" for address in addresses)
    host("exec", "box", "sh", "-c", argv)
    host("kill", *names[:10])
    host("rm", "-f", *names)
    assert held(host) == before
    assert len(endpoints(host)) == 1


def test_flatmeshd_is_killed_and_containers_come_and_go(
    hosts: list[DockerHost], eventually: Eventually
) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    before = held(one)
    pid = one.lab.daemon_pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    processes.stop([pid])
    assert reached(one.inside("box"), there)
    with ThreadPoolExecutor(1) as pool:  # dockerd asks again until the daemon answers
        made = pool.submit(one.run, "late", "--network", "flat")
        one.start_daemon()
        made.result()
    assert one.address("late", "flat") not in before
    assert reached(one.inside("late"), there)
    one("rm", "-f", "late")
    eventually(lambda: held(one) == before, "what it had is free")


def test_what_others_change_of_a_container_is_put_right(
    hosts: list[DockerHost], eventually: Eventually
) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    (name,) = endpoints(one)
    one.host.run("ip", "link", "set", name, "nomaster")
    eventually(lambda: reached(one.inside("box"), there), "the port is back on its bridge")
    one.host.run("nft", "delete", "table", "bridge", "flatmesh_guard")
    eventually(
        lambda: (
            name in one.host.run("nft", "list", "table", "bridge", "flatmesh_guard", check=False)
        ),
        "the source guard knows the container again",
    )


def test_an_address_that_dockerd_forgot_is_freed(hosts: list[DockerHost]) -> None:
    """dockerd was killed between its request of an address and the endpoint's creation."""
    host = hosts[0]
    before = held(host)
    pool = str(ipaddress.ip_interface(host.lab.subnet(1)).network)
    answer = call(host, "IpamDriver.RequestAddress", {"PoolID": pool})
    forgotten = answer["Address"].partition("/")[0]
    assert forgotten in held(host)
    assert f"freed {forgotten}" in host.host.run(sys.executable, "-c", SWEEP)
    assert held(host) == before
    assert call(host, "IpamDriver.ReleaseAddress", {"PoolID": pool, "Address": forgotten}) == {}


def test_an_endpoint_without_its_veth_pair_is_freed(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    before, others = held(host), set(endpoints(host))
    host.run("cut", "--network", "flat")
    (name,) = set(endpoints(host)) - others
    host.host.run("ip", "link", "del", name)
    assert "removed what was left" in host.host.run(sys.executable, "-c", SWEEP)
    host("rm", "-f", "cut")
    assert held(host) == before


def test_a_lost_store_is_made_again_with_the_containers(
    hosts: list[DockerHost], eventually: Eventually
) -> None:
    host = hosts[0]
    box = host.address("box", "flat")
    host.lab.stop_daemon(1)
    for file in host.host.state_dir.glob("addresses.sqlite*"):
        file.unlink()
    host.start_daemon()
    eventually(lambda: held(host).get(box) == ".docker", "the container is recorded")
    host("rm", "-f", "box")
    assert clean(host)
    host.run("box", "--network", "flat")


def test_dockerd_is_killed(hosts: list[DockerHost]) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    one.kill()
    assert reached(one.host.enter, there)
    one.start()
    one("start", "box")
    assert reached(one.inside("box"), there)
    assert len(endpoints(one)) == 1
    own = {address for address, network in held(one).items() if network == ".docker"}
    assert own == {one.address("box", "flat"), one.address("box", "flat", ipv6=True)}


def test_dockerd_is_restarted_with_running_containers(hosts: list[DockerHost]) -> None:
    one, other = hosts
    there = other.address("box", "flat")
    options = one.options
    one.kill()
    one.start(*options, "--live-restore")
    one("start", "box")
    before = one("inspect", "--format", "{{.State.Pid}}", "box"), one.address("box", "flat")
    one.kill()
    assert reached(one.host.enter, before[1])
    one.start()
    assert (
        one("inspect", "--format", "{{.State.Pid}}", "box"),
        one.address("box", "flat"),
    ) == before
    assert reached(one.inside("box"), there)
    one("restart", "box")
    assert reached(one.inside("box"), there)
    one.kill()
    one.start(*options)
    one("start", "box")


def test_network_is_removed_and_created_again(hosts: list[DockerHost]) -> None:
    host = hosts[0]
    host("rm", "-f", "box")
    host("network", "rm", "flat")
    assert clean(host)
    host(*CREATE, *DUAL, "flat")
    host.run("box", "--network", "flat")
    assert reached(host.inside("box"), hosts[1].address("box", "flat"))
