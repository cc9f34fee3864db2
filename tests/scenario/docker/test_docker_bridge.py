# SPDX-License-Identifier: Apache-2.0
"""Docker's default bridge is kbr0: `flatmesh docker-options`, as in the pictures with docker0."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from lab import hosts, processes
from lab.runtime import PluginError
from tests.scenario.docker.docker_host import DockerHost, reached, seen_source

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def containers(docker_hosts: list[DockerHost]) -> Iterator[list[DockerHost]]:
    """A container `box` on the default network of each host, and beside it a pod `p`."""
    for host in docker_hosts:
        host.run("box")
        host.lab.add_pod(host.number, "p")
    yield docker_hosts
    for host in docker_hosts:
        host("rm", "-f", "box")
        host.lab.delete_pod(host.number, "p")


def part_of(host: DockerHost) -> list[str]:
    options = dict(o[2:].split("=") for o in host.flatmesh("docker-options").split())
    return [options["fixed-cidr"], options["fixed-cidr-v6"]]


def test_containers_and_pods_of_all_hosts_reach_each_other_unchanged(
    containers: list[DockerHost],
) -> None:
    one, other = containers
    lab = one.lab
    pods = {pod.host: pod for pod in lab.pods}
    in_pod = list(processes.enter(pods[1].netns))
    for ipv6 in (False, True):
        there = other.address("box", ipv6=ipv6)
        here = one.address("box", ipv6=ipv6)
        assert reached(one.inside("box"), there)
        assert seen_source(one.inside("box"), other.inside("box"), there) == here
        of_pod = pods[1].addresses[int(ipv6)]
        assert reached(in_pod, there)
        assert seen_source(in_pod, other.inside("box"), there) == of_pod
        assert reached(other.inside("box"), of_pod)
        assert seen_source(one.inside("box"), in_pod, of_pod) == here  # of the same host
        assert seen_source(other.inside("box"), in_pod, of_pod) == there


def test_a_forward_chain_that_drops_lets_containers_through(containers: list[DockerHost]) -> None:
    one, other = containers
    for tool in ("iptables", "ip6tables"):
        other.host.run(tool, "-P", "FORWARD", "DROP")
    try:
        for ipv6 in (False, True):
            assert reached(one.inside("box"), other.address("box", ipv6=ipv6))
    finally:
        for tool in ("iptables", "ip6tables"):
            other.host.run(tool, "-P", "FORWARD", "ACCEPT")


def test_a_published_port_shows_the_address_of_the_caller(containers: list[DockerHost]) -> None:
    one, other = containers
    one.run("published", "--publish", "8080:80")
    try:
        published = hosts.host_ipv4(one.number), 8080
        inside = one.inside("published"), one.address("published")
        seen = seen_source(other.host.enter, *inside, port=80, by=published)
        assert seen == hosts.host_ipv4(other.number)
    finally:
        one("rm", "-f", "published")


def test_docker_and_pods_never_get_the_same_address(containers: list[DockerHost]) -> None:
    host = containers[0]
    lab = host.lab
    parts = [ipaddress.ip_network(part) for part in part_of(host)]
    for part, ipv6 in zip(parts, (False, True), strict=True):
        assert ipaddress.ip_address(host.address("box", ipv6=ipv6)) in part
    pod = next(pod for pod in lab.pods if pod.host == host.number)
    assert not any(ipaddress.ip_address(a) in part for a in pod.addresses for part in parts)
    wanted = str(parts[0][9])
    interface = replace(lab.pod_interface(host.number, "p"), ifname="eth1", args=f"IP={wanted}")
    with pytest.raises(PluginError, match=f"{wanted} is in none of the ranges"):
        lab.runtime(host.number).add(lab.conflist, interface)


def test_the_bridge_is_made_and_kept_without_a_pod(
    docker_hosts: list[DockerHost], eventually: Eventually
) -> None:
    host = docker_hosts[0]
    assert "10.5." in host.host.run("ip", "-br", "addr", "show", "kbr0")
    host.host.run("ip", "link", "del", "kbr0")
    eventually(
        lambda: "10.5." in host.host.run("ip", "-br", "addr", "show", "kbr0", check=False),
        "kbr0 is made again",
    )
