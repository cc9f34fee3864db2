# SPDX-License-Identifier: Apache-2.0
"""With wireguard configured no packet between pods is ever seen in clear on the underlay.

Pods of two hosts send marked datagrams to each other throughout, in both families, and so do the
hosts; the underlay's bridge is captured. Whatever breaks, no frame has the mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from lab.matrix import PairResult
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
WIREGUARD = {"Type": "wireguard"}
SEND = """
import socket, sys, time
mark, *targets = sys.argv[1:]
while True:
    for target in targets:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.sendto(mark.encode() * 4, (target, 9))
        except OSError:
            pass  # no route, or refused: not sent
    time.sleep(0.01)
"""


class Underlay:
    """What is seen on the underlay's bridge of everything that pods and hosts send."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.mark = secrets.token_hex(8)
        self.file = directory / "underlay.pcap"
        self.log = directory / "tcpdump.log"

    @contextlib.contextmanager
    def captured(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            argv = ["tcpdump", "-i", "br0", "-U", "-s0", "-w", str(self.file)]
            self._spawn(stack, argv, self.lab.names.underlay, self.log)
            wait(lambda: "listening on" in self.log.read_text(), "tcpdump captures")
            addresses = {pod.netns: pod.addresses for pod in self.lab.pods}
            hosts = [self.lab.names.host(number) for number in self.lab.host_numbers]
            for number, netns in enumerate((*addresses, *hosts)):
                targets = [a for pod, its in addresses.items() if pod != netns for a in its]
                log = self.log.with_name(f"sender{number}.log")
                argv = [sys.executable, "-c", SEND, self.mark, *targets]
                self._spawn(stack, argv, netns, log)
            yield

    def _spawn(self, stack: contextlib.ExitStack, argv: list[str], netns: str, log: Path) -> None:
        process = processes.spawn(argv, netns, log)
        stack.callback(process.wait)
        stack.callback(processes.stop, [process.pid])

    def in_clear(self) -> int:
        """Frames with the mark, a moment after now."""
        time.sleep(1.0)  # dozens of datagrams of each sender
        return self.file.read_bytes().count(self.mark.encode() * 4)


def wait(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    spec: dict[str, Any] = {"hosts": 2, "ipv6": True, "pods_per_host": 1, "backend": WIREGUARD}
    with running_lab(request.config, tmp_path_factory.mktemp("labs"), **spec) as lab:
        yield lab


@pytest.fixture
def underlay(cluster: Lab, tmp_path: Path) -> Iterator[Underlay]:
    assert_all_reach_all(cluster)
    seen = Underlay(cluster, tmp_path)
    with seen.captured():
        yield seen


def run(netns: str, command: str, *, check: bool = True) -> str:
    argv = [*processes.enter(netns), *command.split()]
    return subprocess.run(argv, capture_output=True, text=True, check=check).stdout


def write_unchecked(lab: Lab, backend: dict[str, Any] | None) -> None:
    document = {**lab.spec.cluster_config(), "Backend": backend}
    if backend is None:
        del document["Backend"]
    text = json.dumps(document, separators=(",", ":"))
    put = f"etcdctl --endpoints={lab.endpoint} put /coreos.com/network/config {text}"
    run(lab.names.underlay, put)


def assert_all_reach_all(lab: Lab) -> None:
    def bad() -> list[PairResult]:
        found = [result for family in (4, 6) for result in lab.matrix(family, timeout=10.0)]
        return [result for result in found if not result.good]

    wait(lambda: bad() == [], "everybody reaches everybody", timeout=60.0)


def kill_daemon(lab: Lab, number: int) -> None:
    pid = lab.daemon_pid(number)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    processes.stop([pid])


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ({"Type": "wiregaurd"}, "did you mean wireguard"),
        ({"Type": "udpp"}, "did you mean udp"),
        ({"Type": "ovss"}, "did you mean ovs"),
        ({"Type": "wireguard", "PSK": "none"}, "wg genpsk"),
        (None, "it was wireguard"),
    ],
)
def test_a_wrong_config(
    cluster: Lab, underlay: Underlay, backend: dict[str, Any] | None, why: str
) -> None:
    write_unchecked(cluster, backend)
    for number in cluster.host_numbers:
        wait(lambda n=number: why in cluster.log(n), "the daemon says why")  # type: ignore[misc]
    assert underlay.in_clear() == 0
    assert_all_reach_all(cluster)
    cluster.configure(cluster.spec.cluster_config())


def test_devices_are_deleted_while_the_daemon_runs(cluster: Lab, underlay: Underlay) -> None:
    for _ in range(3):
        for device in ("flannel-wg", "flannel-wg-v6"):
            run(cluster.names.host(1), f"ip link del {device}", check=False)
        time.sleep(0.3)
    assert underlay.in_clear() == 0
    assert_all_reach_all(cluster)


def test_daemon_and_tunnel_are_gone(cluster: Lab, underlay: Underlay) -> None:
    kill_daemon(cluster, 1)
    host = cluster.names.host(1)
    for device in ("flannel-wg", "flannel-wg-v6"):
        run(host, f"ip link del {device}")
    run(host, "nft delete table inet flatmesh")
    assert underlay.in_clear() == 0
    cluster.start_daemon(1)
    cluster.wait_ready(1)
    assert underlay.in_clear() == 0
    assert_all_reach_all(cluster)


def test_a_daemon_starts_beside_a_wrong_config_after_the_tunnel_has_gone(
    cluster: Lab, underlay: Underlay
) -> None:
    kill_daemon(cluster, 1)
    for device in ("flannel-wg", "flannel-wg-v6"):
        run(cluster.names.host(1), f"ip link del {device}")
    write_unchecked(cluster, {"Type": "wiregaurd"})
    (cluster.host_dir(1) / "var/config.json").unlink()  # not even the last one is known
    cluster.start_daemon(1)
    wait(lambda: "did you mean wireguard" in cluster.log(1), "the daemon says why")
    assert underlay.in_clear() == 0
    cluster.configure(cluster.spec.cluster_config())
    cluster.wait_ready(1)
    assert_all_reach_all(cluster)


def test_the_table_is_repaired(cluster: Lab, eventually: Eventually) -> None:
    host = cluster.names.host(1)
    there = run(host, "nft list table inet flatmesh_encryption")
    assert "10.5.0.0/16" in there
    assert "fd05::/48" in there
    for damage in ("delete table", "flush table"):
        run(host, f"nft {damage} inet flatmesh_encryption")
        eventually(
            lambda: "flannel-wg" in run(host, "nft list ruleset").partition("_encryption")[2],
            "the table is back",
        )


def test_a_valid_switch_takes_the_table_away_and_back(cluster: Lab, eventually: Eventually) -> None:
    config = cluster.spec.cluster_config()
    hosts = [cluster.names.host(number) for number in cluster.host_numbers]
    for backend in ("vxlan", "host-gw", "udp"):
        cluster.configure({**config, "Backend": {"Type": backend}})
        for host in hosts:
            gone = lambda h=host: "flatmesh_encryption" not in run(h, "nft list tables")  # noqa: E731
            eventually(gone, f"{backend} stands, and the table is gone")
        assert_all_reach_all(cluster)
        cluster.configure(config)
        for host in hosts:
            back = lambda h=host: "flatmesh_encryption" in run(h, "nft list tables")  # noqa: E731
            eventually(back, "the table is back")
        assert_all_reach_all(cluster)


def test_the_network_before_stays_closed_over_a_restart(
    cluster: Lab, underlay: Underlay, eventually: Eventually
) -> None:
    """Pods that run keep their addresses of it; another daemon finds the table as it was."""
    host = cluster.names.host(1)
    other = {**cluster.spec.cluster_config(), "Network": "10.9.0.0/16"}

    def closed() -> list[str]:
        table = run(host, "nft list table inet flatmesh_encryption", check=False)
        return [net for net in ("10.5.0.0/16", "10.9.0.0/16") if f"daddr {net}" in table]

    cluster.configure(other)
    eventually(lambda: closed() == ["10.5.0.0/16", "10.9.0.0/16"], "both networks are closed")
    for flush in (False, True):
        cluster.stop_daemon(1)
        if flush:
            run(host, "nft delete table inet flatmesh_encryption")
        cluster.start_daemon(1)
        cluster.wait_ready(1)
        assert closed() == ["10.5.0.0/16", "10.9.0.0/16"]
        if not flush:
            assert underlay.in_clear() == 0
    for pod in [pod for pod in cluster.pods if pod.host == 1]:
        cluster.delete_pod(1, pod.name)
    cluster.stop_daemon(1)
    cluster.start_daemon(1)
    eventually(lambda: closed() == ["10.9.0.0/16"], "no pod needs the network before")


def test_cleanup_removes_the_table(cluster: Lab) -> None:
    cluster.stop_daemon(1)
    host = cluster.names.host(1)
    assert "flatmesh_encryption" in run(host, "nft list tables")
    subprocess.run(
        [*processes.enter(host), sys.executable, "-I", "-m", "agent.main", "--cleanup", "--force"],
        env={**os.environ, **cluster.environment(1)},
        check=True,
        capture_output=True,
    )
    assert "flatmesh" not in run(host, "nft list tables")
