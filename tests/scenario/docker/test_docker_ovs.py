# SPDX-License-Identifier: Apache-2.0
"""Containers of Docker on the Open vSwitch mesh with GRE tunnels, beside pods."""

from __future__ import annotations

import os

import pytest

from lab import processes
from tests.scenario.docker.conftest import running_docker_hosts
from tests.scenario.docker.docker_host import reached, seen_source
from tests.scenario.docker.test_docker_driver import CREATE, DUAL, clean

LONG = bool(os.environ.get("FLATMESH_LONG"))


@pytest.mark.parametrize("attach", ["kbr0", *LONG * ["obr0"]])
def test_containers_and_pods_reach_each_other_unchanged(
    request: pytest.FixtureRequest, attach: str
) -> None:
    backend = {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow", "PodAttach": attach}
    with running_docker_hosts(request.config, bridge=attach == "kbr0", backend=backend) as hosts:
        one, other = hosts
        for host in hosts:
            host(*CREATE, *DUAL, "flat")
            host.run("box", "--network", "flat")
            if attach == "kbr0":
                host.run("plain")  # on the default bridge
        pod = one.lab.add_pod(1, "p")
        in_pod = list(processes.enter(pod.netns))
        for ipv6 in (False, True):
            here, there = (host.address("box", "flat", ipv6=ipv6) for host in hosts)
            of_pod = pod.addresses[int(ipv6)]
            assert reached(one.inside("box"), there)
            assert seen_source(one.inside("box"), other.inside("box"), there) == here
            assert reached(in_pod, there)
            assert seen_source(in_pod, other.inside("box"), there) == of_pod
            assert seen_source(other.inside("box"), in_pod, of_pod) == there
            assert seen_source(one.inside("box"), in_pod, of_pod) == here
            if attach == "kbr0":
                plain = other.address("plain", ipv6=ipv6)
                assert reached(one.inside("plain"), plain)
                seen = seen_source(one.inside("plain"), other.inside("plain"), plain)
                assert seen == one.address("plain", ipv6=ipv6)
        for host in hosts:
            host("rm", "-f", "box")
            assert clean(host)
