# SPDX-License-Identifier: Apache-2.0
"""A floating address is on one host, and moves on when that one dies, is stopped or is cut off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lab import processes
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4, UNDERLAY_IPV6
from tests.scenario.conftest import running_lab

Eventually = Callable[..., None]
ADDRESSES = (f"{UNDERLAY_IPV4}.200", f"{UNDERLAY_IPV6}:200")
TIMEOUT = 40.0
"""Seconds for a take-over: the lease's, and some for a busy machine."""


class VipLab:
    """Three hosts, and who has the address, by their kernels."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.most = 0
        """The most hosts that had an address at one time, as far as was looked."""

    def holders(self, address: str = ADDRESSES[0]) -> list[int]:
        """The hosts that have the address."""
        found = [n for n in self.lab.host_numbers if address in self.addresses(n)]
        self.most = max(self.most, len(found))
        return found

    def addresses(self, number: int) -> set[str]:
        enter = processes.enter(self.lab.names.host(number))
        listed = subprocess.check_output([*enter, "ip", "-j", "addr", "show", "dev", "eth0"])
        return {one["local"] for each in json.loads(listed) for one in each.get("addr_info", [])}

    def told(self) -> str:
        """The holder by etcd."""
        (row,) = json.loads(self.lab.flatmesh("vip", "list", "-o", "json"))
        return str(row["holder"])

    def answers(self) -> bool:
        """Whether a client outside reaches the holder under both addresses."""
        enter = processes.enter(self.lab.names.underlay)
        return all(
            subprocess.run(
                [*enter, "ping", "-c1", "-W1", one], capture_output=True, check=False
            ).returncode
            == 0
            for one in ADDRESSES
        )


@pytest.fixture(scope="module")
def floating(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VipLab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, ipv6=True, pods_per_host=0) as lab:
        addresses = [f"--address={one}" for one in ADDRESSES]
        found = VipLab(lab)
        hosts = [f"--host=h{number}" for number in (2, 1, 3)]
        lab.flatmesh("vip", "set", "web", *addresses, *hosts)
        yield found


@contextlib.contextmanager
def watched(floating: VipLab) -> Iterator[None]:
    """Look all the time that no two hosts have the address."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for address in ADDRESSES:
                floating.holders(address)

    floating.most = 0
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert floating.most <= 1


def test_the_preferred_host_holds_it_and_moves_it_by_command(
    floating: VipLab, eventually: Eventually
) -> None:
    with watched(floating):
        eventually(lambda: floating.holders() == [2], "h2 holds it", TIMEOUT)
        eventually(floating.answers, "it answers on h2")
        leases = floating.lab.flatmesh("lease", "list", "-o", "json")
        floating.lab.flatmesh("vip", "move", "web", "h1")
        eventually(lambda: floating.holders() == [1], "h1 holds it", TIMEOUT)
        eventually(floating.answers, "neighbours know the new MAC", 5.0)
    assert ADDRESSES[0] not in floating.lab.flatmesh("lease", "list", "-o", "json")
    assert leases.count("10.5.") == floating.lab.flatmesh("lease", "list", "-o", "json").count(
        "10.5."
    )


def test_an_address_that_was_removed_comes_back(floating: VipLab, eventually: Eventually) -> None:
    eventually(lambda: len(floating.holders()) == 1, "one holds it", TIMEOUT)
    (number,) = floating.holders()
    enter = processes.enter(floating.lab.names.host(number))
    subprocess.check_call([*enter, "ip", "addr", "del", f"{ADDRESSES[0]}/32", "dev", "eth0"])
    eventually(lambda: floating.holders() == [number], "it is there again", TIMEOUT)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_holder_that_stops_or_dies_loses_it_before_another_takes_over(
    floating: VipLab, eventually: Eventually, how: signal.Signals
) -> None:
    lab = floating.lab
    eventually(lambda: len(floating.holders()) == 1, "one holds it", TIMEOUT)
    (number,) = floating.holders()
    pid = lab.daemon_pid(number)
    assert pid is not None
    with watched(floating):
        os.kill(pid, how)
        eventually(
            lambda: len(floating.holders()) == 1 and floating.holders() != [number],
            "another holds it",
            TIMEOUT,
        )
        eventually(floating.answers, "the other answers", 5.0)
        if how == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
            time.sleep(1)
        else:
            lab.start_daemon(number)
            lab.wait_ready(number)
        assert floating.holders() != [number]


def test_a_daemon_that_is_started_again_goes_on_and_without_etcd_nobody_holds_it(
    floating: VipLab, eventually: Eventually
) -> None:
    lab = floating.lab
    eventually(lambda: len(floating.holders()) == 1, "one holds it", TIMEOUT)
    (number,) = floating.holders()
    lab.stop_daemon(number)
    lab.start_daemon(number)
    lab.wait_ready(number)
    eventually(lambda: floating.told() != "", "it has a holder")
    with watched(floating):
        lab.etcd.pause()
        try:
            eventually(lambda: floating.holders() == [], "it is given up", TIMEOUT)
        finally:
            lab.etcd.resume()
        eventually(lambda: len(floating.holders()) == 1, "one holds it again", TIMEOUT)


def test_it_goes_with_its_key(floating: VipLab, eventually: Eventually) -> None:
    eventually(lambda: len(floating.holders()) == 1, "one holds it", TIMEOUT)
    floating.lab.flatmesh("vip", "remove", "web")
    for address in ADDRESSES:
        eventually(lambda a=address: floating.holders(a) == [], "nobody has it", TIMEOUT)
