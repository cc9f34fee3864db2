# SPDX-License-Identifier: Apache-2.0
"""A program that the daemon talks to is stopped (SIGSTOP): only what needs it waits.

SIGTERM ends the daemon, /readyz answers at once with the reason, a lease change is made in the
kernel's tables; and when the program goes on, all is as it should be without anyone's help.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flannel.wireguard.key import KeyFile
from lab import processes
from lab.cluster import Lab

Eventually = Callable[..., None]
On = Callable[..., str]
MakeLab = Callable[..., Lab]
STOP_LIMIT = 5.0
"""Seconds that SIGTERM may take; what systemd and an operator's patience allow is more."""
ANSWER_LIMIT = 2.0
"""Seconds that /readyz may take, on a loaded machine; it answers in half a second."""
HEALTH = ("--healthz-ip=127.0.0.1", "--healthz-port=9000")


def pids(lab: Lab, number: int, pattern: str) -> list[int]:
    """Processes in a host's namespace whose command line contains the pattern."""
    inside = processes.in_namespaces([lab.names.host(number)])
    return [p for p in inside if pattern.encode() in Path(f"/proc/{p}/cmdline").read_bytes()]


@contextmanager
def stopped(victims: list[int]) -> Iterator[None]:
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in victims:
            os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    seconds: float


def readyz(lab: Lab, number: int) -> Answer:
    get = "curl -s -m 20 http://127.0.0.1:9000/readyz"
    started = time.monotonic()
    done = subprocess.run(
        [*processes.enter(lab.names.host(number)), *get.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    return Answer(done.stdout, time.monotonic() - started)


def restart(lab: Lab, number: int) -> None:
    lab.stop_daemon(number)
    lab.start_daemon(number, *HEALTH)
    lab.wait_ready(number)


def seconds_to_end(lab: Lab, number: int) -> float:
    pid = lab.daemon_pid(number)
    assert pid is not None
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    while lab.daemon_pid(number) is not None:
        assert time.monotonic() - started < 30, "the daemon does not end"
        time.sleep(0.01)
    return time.monotonic() - started


def assert_all_reach_all(lab: Lab) -> None:
    results = lab.matrix(4, timeout=40.0)
    assert [result for result in results if not result.good] == []


# By name: the backend, and a word of the command line of the program that is stopped.
DATA_PLANES: dict[str, tuple[dict[str, Any], str]] = {
    "ovs": ({"Type": "ovs", "Tunnel": "geneve", "Mesh": "flow"}, "ovs-vswitchd"),
    "ovs database": ({"Type": "ovs", "Tunnel": "geneve", "Mesh": "static"}, "ovsdb-server"),
    "wireguard": ({"Type": "wireguard"}, "wireguard-go"),
    "udp": ({"Type": "udp"}, "flannel.udp.process"),
}


@pytest.mark.parametrize(("backend", "program"), DATA_PLANES.values(), ids=DATA_PLANES.keys())
def test_a_stopped_data_plane_keeps_nothing_else_waiting(
    make_lab: MakeLab, on: On, eventually: Eventually, backend: dict[str, Any], program: str
) -> None:
    lab = make_lab(hosts=3, pods_per_host=1, backend=backend)
    restart(lab, 1)
    eventually(lambda: readyz(lab, 1).text == "ok\n", "all is well")
    host, subnet = lab.names.host(1), lab.subnet(3)
    with stopped(pids(lab, 1, program)):
        lab.stop_daemon(3)
        lab.flatmesh("lease", "release", subnet)
        if backend["Type"] != "udp":  # which has one route for all peers
            eventually(
                lambda: subnet not in on(host, "ip route"), "the kernel has the change", timeout=5.0
            )
        answers: list[Answer] = []

        def told() -> bool:
            answers.append(readyz(lab, 1))
            return answers[-1].text not in ("ok\n", "")

        eventually(told, "/readyz tells the reason", timeout=30.0)
        assert max(answer.seconds for answer in answers) < ANSWER_LIMIT
        assert seconds_to_end(lab, 1) < STOP_LIMIT
        lab.start_daemon(1, *HEALTH)
        time.sleep(1.0)
        assert seconds_to_end(lab, 1) < STOP_LIMIT
        lab.start_daemon(1, *HEALTH)
    lab.start_daemon(3)
    for number in (1, 3):
        lab.wait_ready(number, timeout=60.0)
    eventually(lambda: readyz(lab, 1).text == "ok\n", "all is well again", timeout=60.0)
    assert_all_reach_all(lab)


def test_a_stopped_ovs_database_is_told_when_nothing_is_to_be_changed(
    make_lab: MakeLab, eventually: Eventually
) -> None:
    lab = make_lab(hosts=1, pods_per_host=1, backend={"Type": "ovs"})
    restart(lab, 1)
    eventually(lambda: readyz(lab, 1).text == "ok\n", "all is well")
    with stopped(pids(lab, 1, "ovsdb-server")):
        eventually(
            lambda: "db.sock" in readyz(lab, 1).text, "/readyz tells the reason", timeout=5.0
        )
        assert readyz(lab, 1).seconds < ANSWER_LIMIT
    eventually(lambda: readyz(lab, 1).text == "ok\n", "all is well again")


def test_a_stopped_etcd_keeps_nothing_else_waiting(
    make_lab: MakeLab, on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "vxlan"})
    restart(lab, 1)
    host, subnet = lab.names.host(1), lab.subnet(2)
    pid = lab.etcd.pid
    assert pid is not None
    with stopped([pid]):
        on(host, f"ip route del {subnet}")
        eventually(lambda: subnet in on(host, "ip route"), "a deleted route is back", timeout=5.0)
        answer = readyz(lab, 1)
        assert (answer.text, answer.seconds < ANSWER_LIMIT) == ("ok\n", True)
        lab.add_pod(1, "meanwhile")
        assert seconds_to_end(lab, 1) < STOP_LIMIT
        lab.start_daemon(1, *HEALTH)
        eventually(lambda: readyz(lab, 1).text not in ("", "ok\n"), "/readyz tells the reason")
        assert readyz(lab, 1).seconds < ANSWER_LIMIT
        assert seconds_to_end(lab, 1) < STOP_LIMIT
        lab.start_daemon(1, *HEALTH)
    lab.wait_ready(1, timeout=60.0)
    eventually(lambda: readyz(lab, 1).text == "ok\n", "all is well again", timeout=60.0)
    assert_all_reach_all(lab)


def test_a_backend_whose_program_is_stopped_can_be_left_for_another(
    make_lab: MakeLab, on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "ovs", "Tunnel": "geneve"})
    host, subnet = lab.names.host(1), lab.subnet(2)
    with stopped(pids(lab, 1, "ovsdb-server")):
        lab.configure({**lab.spec.cluster_config(), "Backend": {"Type": "vxlan"}})
        eventually(
            lambda: subnet in on(host, "ip route show dev flannel.1", check=False),
            "the new backend's routes are there",
            timeout=40.0,
        )
    eventually(
        lambda: lab.ovs(1).vsctl("list-br") == "", "the old backend is cleaned up", timeout=40.0
    )
    assert_all_reach_all(lab)


def test_a_key_asked_for_while_wireguard_is_stopped_keeps_nothing_else_waiting(
    make_lab: MakeLab, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "wireguard"})
    lab.stop_daemon(1)
    lab.start_daemon(1, "--resync=1", *HEALTH)
    lab.wait_ready(1)
    with stopped(pids(lab, 1, "wireguard-go")):
        KeyFile(lab.host_dir(1) / "var").ask_rotation()
        eventually(lambda: "new WireGuard key" in lab.log(1), "the daemon makes one")
        assert readyz(lab, 1).seconds < ANSWER_LIMIT
        assert seconds_to_end(lab, 1) < STOP_LIMIT
    lab.start_daemon(1, *HEALTH)
    lab.wait_ready(1, timeout=60.0)
    assert_all_reach_all(lab)
