# SPDX-License-Identifier: Apache-2.0
"""`flatmesh check` finds each fault while it lasts, by the pair and the direction."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipam.subnet_env import SubnetEnv
from lab import processes
from lab.cluster import Lab

Eventually = Callable[..., None]
On = Callable[..., str]
Fault = Callable[[Lab, On], contextlib.AbstractContextManager[None]]
Bad = set[tuple[str, str, int, str]]


def start(lab: Lab, number: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *processes.enter(lab.names.host(number)),
            *(sys.executable, "-m", "cli.main", "check", f"--etcd-endpoints={lab.endpoint}"),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **lab.environment(number)},
    )


def check(lab: Lab, number: int) -> tuple[int, dict[str, Any]]:
    process = start(lab, number, "-o", "json")
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, json.loads(out) if out else {"error": err}


def leftovers(lab: Lab, on: On) -> list[str]:
    """Keys in etcd, addresses and interfaces of checks."""
    found = lab.etcd.ctl("get", "--prefix", "--keys-only", "/coreos.com/network/check/").split()
    for number in lab.host_numbers:
        links = on(lab.names.host(number), "ip -o link show type veth").splitlines()
        found += [line for line in links if "flatmesh-check" in line]
    return found


def subnet(lab: Lab, number: int, family: int) -> str:
    env = SubnetEnv.read(lab.host_dir(number) / "run/subnet.env")
    one = env.subnet if family == 4 else env.ipv6_subnet
    assert one is not None
    return str(one.network)


@contextlib.contextmanager
def without_daemon(lab: Lab) -> Iterator[None]:
    """So that nobody puts right what is made wrong on h1."""
    lab.stop_daemon(1)
    try:
        yield
    finally:
        lab.start_daemon(1)
        lab.wait_ready(1)


def route_replaced(family: int) -> Fault:
    @contextlib.contextmanager
    def fault(lab: Lab, on: On) -> Iterator[None]:
        with without_daemon(lab):
            on(lab.names.host(1), f"ip -{family} route replace blackhole {subnet(lab, 2, family)}")
            try:
                yield
            finally:
                on(lab.names.host(1), f"ip -{family} route del blackhole {subnet(lab, 2, family)}")

    return fault


@contextlib.contextmanager
def fdb_overwritten(lab: Lab, on: On) -> Iterator[None]:
    with without_daemon(lab):
        entries = on(lab.names.host(1), "bridge fdb show dev flannel.1").splitlines()
        mac = next(line.split()[0] for line in entries if "dst 192.168.64.12" in line)
        replace = "bridge fdb replace {} dev flannel.1 dst {} self permanent"
        on(lab.names.host(1), replace.format(mac, "192.168.64.99"))
        yield


def dropped(family: int) -> Fault:
    """A rule of somebody else's firewall on h2."""
    name = "ip" if family == 4 else "ip6"

    @contextlib.contextmanager
    def fault(lab: Lab, on: On) -> Iterator[None]:
        host, source = lab.names.host(2), subnet(lab, 1, family)
        on(host, "nft add table inet wrong")
        on(host, "nft add chain inet wrong forward { type filter hook forward priority 10 ; }")
        on(host, f"nft add rule inet wrong forward {name} saddr {source} drop")
        try:
            yield
        finally:
            on(host, "nft delete table inet wrong")

    return fault


def translated(family: int) -> Fault:
    name = "ip" if family == 4 else "ip6"

    @contextlib.contextmanager
    def fault(lab: Lab, on: On) -> Iterator[None]:
        host, source = lab.names.host(1), subnet(lab, 1, family)
        on(host, f"nft add table {name} wrong")
        on(host, f"nft add chain {name} wrong post {{ type nat hook postrouting priority 90 ; }}")
        target = subnet(lab, 2, family)
        on(host, f"nft add rule {name} wrong post {name} saddr {source} {name} daddr {target}"
                 " masquerade")  # fmt: skip
        try:
            yield
        finally:
            on(host, f"nft delete table {name} wrong")

    return fault


@contextlib.contextmanager
def smaller_mtu_on_the_way(lab: Lab, on: On) -> Iterator[None]:
    """A path to h2 that takes less than h1 was told, and says nothing."""
    host, hook = lab.names.host(2), "type filter hook ingress device eth0 priority 0 ;"
    on(host, "nft add table netdev wrong")
    on(host, f"nft add chain netdev wrong ingress {{ {hook} }}")
    on(host, "nft add rule netdev wrong ingress meta length > 1400 drop")
    try:
        yield
    finally:
        on(host, "nft delete table netdev wrong")


@contextlib.contextmanager
def closed_to_pods(lab: Lab, on: On) -> Iterator[None]:
    """The firewall of h2 drops what pods of h1 send to h2 itself."""
    host = lab.names.host(2)
    on(host, "nft add table inet wrong")
    on(host, "nft add chain inet wrong input { type filter hook input priority 10 ; }")
    on(host, f"nft add rule inet wrong input ip saddr {subnet(lab, 1, 4)} drop")
    try:
        yield
    finally:
        on(host, "nft delete table inet wrong")


FAULTS: dict[str, tuple[Fault, Bad]] = {
    "route": (route_replaced(4), {("h1", "h2", 4, "lost")}),
    "FDB": (fdb_overwritten, {("h1", "h2", 4, "lost")}),
    "firewall, IPv6": (dropped(6), {("h1", "h2", 6, "lost")}),
    "masquerade": (translated(4), {("h1", "h2", 4, "translated")}),
    "MTU": (
        smaller_mtu_on_the_way,
        {("h1", "h2", 4, "large packets lost"), ("h1", "h2", 6, "large packets lost")},
    ),
    "host": (closed_to_pods, {("h1", "h2", 4, "lost")}),
}


def test_a_cluster_that_is_well_is_told_so(pair: Lab, on: On, eventually: Eventually) -> None:
    code, found = check(pair, 1)
    assert (code, found["bad"], found["absent"], sorted(found["hosts"])) == (
        0,
        [],
        {},
        ["h1", "h2"],
    )
    assert found["tried"] == 2 * 2 * 4  # hosts, families; pod to pod and two hosts, host to pod
    assert all(one["milliseconds"] for one in found["round_trips"])
    eventually(lambda: leftovers(pair, on) == [], "nothing is left")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_pair_and_direction(pair: Lab, on: On, name: str) -> None:
    fault, expected = FAULTS[name]
    with fault(pair, on):
        code, found = check(pair, 1)
    assert "bad" in found, found
    bad = {(one["from"], one["to"], one["family"], one["fault"]) for one in found["bad"]}
    # no answer of a host to an echo request does not tell the direction
    pods = {one for one in bad if one != ("h2", "h1", one[2], "lost")}
    tells = [one["text"] for one in found["bad"]]
    assert expected <= bad, tells
    assert pods == expected, tells
    both = [one for one in found["bad"] if (one["from"], one["to"]) == ("h2", "h1")]
    assert all("sent there, or on the way back" in one["text"] for one in both), tells
    assert (code, found["good"]) == (3, False)


def test_a_host_that_is_down_is_named(pair: Lab) -> None:
    pair.stop_daemon(2)
    try:
        code, found = check(pair, 1)
    finally:
        pair.start_daemon(2)
        pair.wait_ready(2)
    assert code == 3
    assert "its daemon does not answer" in found["absent"]["h2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_check_that_is_ended(
    pair: Lab, on: On, eventually: Eventually, number: int
) -> None:
    with dropped(4)(pair, on):  # so that it takes a while
        process = start(pair, 1)
        eventually(lambda: len(leftovers(pair, on)) > 4, "it is at work")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    eventually(lambda: leftovers(pair, on) == [], "nothing is left", timeout=60.0)
    pods = [lab_pod.addresses for lab_pod in pair.pods]
    assert len(pods) == 2
    for host_number in pair.host_numbers:
        listed = subprocess.check_output(
            [
                *processes.enter(pair.names.host(host_number)),
                *(sys.executable, "-m", "cli.main", "pods", "-o", "json"),
            ],
            env={**os.environ, **pair.environment(host_number)},
        )
        assert len(json.loads(listed)) == 1
