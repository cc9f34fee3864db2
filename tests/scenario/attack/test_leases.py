# SPDX-License-Identifier: Apache-2.0
"""Somebody who can write to etcd: what a lease or the config claims is not believed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from tests.scenario.conftest import running_lab
from tests.scenario.free_subnets import free_subnets

On = Callable[..., str]
Eventually = Callable[..., None]
PREFIX = "/coreos.com/network"
KEY = "qkYl0Xn0oBmMfEJxTTYAqRhQ4hDBfVDHTVvuEvpGGGA="
"""A WireGuard key that nobody has."""


@pytest.fixture(scope="module", params=["vxlan", "host-gw", "udp", "wireguard", "ovs"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    spec = {"hosts": 2, "pods_per_host": 1, "backend": {"Type": request.param}}
    with running_lab(request.config, directory, **spec) as made:
        made.stop_daemon(1)
        made.start_daemon(1, "--healthz-port=9000")
        made.wait_ready(1)
        yield made


def key(subnet: str) -> str:
    """The last part of a lease's key in etcd, which is its name in messages."""
    return subnet.replace("/", "-")


class EtcdWriter:
    """Writes what it likes below the prefix, and takes it away at the end."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.keys: list[str] = []
        self.backend = lab.spec.backend["Type"]

    def lease(self, subnet: str, public_ip: str, **data: Any) -> None:
        value: dict[str, Any] = {"PublicIP": public_ip, "BackendType": self.backend}
        if self.backend == "vxlan":
            value["BackendData"] = {"VNI": 1, "VtepMAC": "02:66:66:66:66:66", **data}
        elif self.backend == "wireguard":
            value["BackendData"] = {"PublicKey": KEY, **data}
        elif self.backend == "udp":
            del value["BackendType"]
        self.put(f"{PREFIX}/subnets/{key(subnet)}", json.dumps(value))

    def put(self, key: str, value: str) -> None:
        self.keys.append(key)
        self.lab.etcd.ctl("put", key, value)

    def get(self, key: str) -> str:
        return self.lab.etcd.ctl("get", "--print-value-only", key).strip()

    def withdraw(self) -> None:
        for key in self.keys:
            self.lab.etcd.ctl("del", key)
        self.keys = []


@pytest.fixture
def writer(lab: Lab) -> Iterator[EtcdWriter]:
    made = EtcdWriter(lab)
    yield made
    made.withdraw()


def reaches(lab: Lab, on: On) -> bool:
    first, last = lab.pods[0], lab.pods[-1]
    # one of three: a busy machine may answer late, and a neighbour may be asked for first
    said = on(first.netns, f"ping -c 3 -i 0.2 -W 2 {last.addresses[0]}", check=False)
    return " 0 received" not in said and " received" in said


def routes(lab: Lab, on: On, number: int) -> set[str]:
    return set(on(lab.names.host(number), "ip -4 route show table all").splitlines())


READ = """
import urllib.error, urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1:9000/readyz")
except urllib.error.HTTPError as refusal:
    answer = refusal
print(answer.read().decode())
"""


def refusals(lab: Lab) -> dict[str, str]:
    """What /readyz says of leases that are not served: the lines by key."""
    done = subprocess.run(
        [*processes.enter(lab.names.host(1)), "python3", "-c", READ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    return {line.split()[1]: line for line in lines if "is not served" in line}


def claims(lab: Lab) -> dict[str, tuple[str, str]]:
    """Hostile leases: subnet and PublicIP by what is wrong with them."""
    theirs = lab.subnet(2)
    (free,) = free_subnets(lab, 1)
    whole = theirs.replace("/24", "/23") if int(theirs.split(".")[2]) % 2 == 0 else "10.5.0.0/16"
    return {
        "the underlay's subnet": ("192.168.64.0/24", "192.168.64.66"),
        "a peer's address": (f"{host_ipv4(2)}/32", "192.168.64.66"),
        "etcd's address": ("192.168.64.1/32", "192.168.64.66"),
        "everything": ("0.0.0.0/1", "192.168.64.66"),
        "more than a peer's subnet": (whole, "192.168.64.66"),
        "a part of a peer's subnet": (theirs.replace(".0/24", ".0/25"), "192.168.64.66"),
        "another network": ("10.77.1.0/24", "192.168.64.66"),
        "a multicast PublicIP": (free, "224.0.0.5"),
        "the broadcast address": (free, "255.255.255.255"),
        "a loopback PublicIP": (free, "127.0.0.1"),
        "a pod's address as PublicIP": (free, lab.pods[-1].addresses[0]),
        "a peer's PublicIP": (free, host_ipv4(2)),
    }


def test_hostile_leases_change_nothing(
    lab: Lab, writer: EtcdWriter, on: On, eventually: Eventually
) -> None:
    eventually(lambda: reaches(lab, on), "pods reach each other")
    before = routes(lab, on, 1)
    for name, (subnet, public_ip) in claims(lab).items():
        writer.lease(subnet, public_ip)
        eventually(lambda s=subnet: key(s) in refusals(lab), f"a line about {name}")
        assert len(refusals(lab)[key(subnet)]) < 500
        assert reaches(lab, on), name
        assert routes(lab, on, 1) == before, name
        writer.withdraw()
        eventually(lambda: refusals(lab) == {}, f"{name} is forgotten")
    assert "is not served" in lab.log(1)


def test_another_program_s_route_is_never_replaced(
    lab: Lab, writer: EtcdWriter, on: On, eventually: Eventually
) -> None:
    """docker0's route, or an administrator's, inside the cluster's network."""
    host = lab.names.host(1)
    routed, bridged = free_subnets(lab, 2)
    on(host, f"ip route add {routed} via 192.168.64.1")  # it is read with docker0's address
    on(host, "ip link add docker0 type bridge")
    try:
        on(host, f"ip addr add {ip_network(bridged)[1]}/24 dev docker0")
        on(host, "ip link set docker0 up")
        before = routes(lab, on, 1)
        writer.lease(bridged, "192.168.64.66")
        writer.lease(routed, "192.168.64.67", VtepMAC="02:66:66:66:66:67", PublicKey=KEY)

        def other_is_told() -> bool:
            """The lease is refused; if it came before the route was read, a conflict is told."""
            line = f"conflict: route {routed} via 192.168.64.1"
            return key(routed) in refusals(lab) or line in lab.log(1)

        eventually(lambda: key(bridged) in refusals(lab), "docker0's is refused")
        eventually(other_is_told, "the administrator's is told")
        assert routes(lab, on, 1) == before
        eventually(lambda: reaches(lab, on), "pods of the first holders reach each other")
        on(host, f"ip route del {routed}")
        eventually(lambda: set(refusals(lab)) == {key(bridged)}, "the other one is served")
    finally:
        on(host, "ip link del docker0")


def test_many_hostile_leases_are_a_few_lines(lab: Lab, writer: EtcdWriter, on: On) -> None:
    before = lab.log(1).count("is not served")
    for number in range(40):
        writer.lease(f"10.99.{number}.0/24", "192.168.64.66")
    assert reaches(lab, on)
    assert lab.log(1).count("is not served") - before < 15


def test_two_leases_of_one_host_share_entries(
    lab: Lab, writer: EtcdWriter, on: On, eventually: Eventually
) -> None:
    """The second claims the first one's MAC or key: that it goes takes nothing from the first."""
    (value,) = (json.loads(writer.get(f"{PREFIX}/subnets/{key(lab.subnet(2))}")),)
    data = value.get("BackendData") or {}
    before = routes(lab, on, 1)
    (claimed,) = free_subnets(lab, 1)
    writer.lease(claimed, "192.168.64.66", **data)
    if data.keys() & {"VtepMAC", "PublicKey"}:
        eventually(lambda: key(claimed) in refusals(lab), "it is refused")
    assert reaches(lab, on)
    writer.withdraw()
    eventually(lambda: routes(lab, on, 1) == before, "all is as before")
    assert reaches(lab, on)


def test_a_network_that_takes_the_underlay_is_refused(
    lab: Lab, writer: EtcdWriter, on: On, eventually: Eventually
) -> None:
    good = writer.get(f"{PREFIX}/config")
    before = routes(lab, on, 1)
    hostile = {**json.loads(good), "Network": "192.168.0.0/16"}
    flags = ["--etcd-endpoints", lab.endpoint]
    command = [*processes.enter(lab.names.host(1)), lab.spec.python, "-m", "cli.main", "config"]
    done = subprocess.run(
        [*command, "set", json.dumps(hostile), *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "192.168.0.0/16 overlaps" in done.stderr
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1
    lab.etcd.ctl("put", f"{PREFIX}/config", json.dumps(hostile))
    try:
        words = "192.168.0.0/16 overlaps"
        eventually(lambda: words in lab.log(1), "a line about the network")
        assert "the last good one stays in force" in lab.log(1)
        assert routes(lab, on, 1) == before
        assert reaches(lab, on)
    finally:
        lab.etcd.ctl("put", f"{PREFIX}/config", good)
    eventually(lambda: lab.ready(1), "ready")
    assert reaches(lab, on)
