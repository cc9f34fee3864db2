# SPDX-License-Identifier: Apache-2.0
"""Labs for the tests: a real etcd, real daemons, real pods, each lab with a name of its own.

When a test fails, what an operator would look at is printed: links, routes, neighbours, FDB,
and the daemons' logs.
"""

from __future__ import annotations

import contextlib
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

from lab import hosts, processes
from lab.cluster import Lab
from lab.spec import LabPod, LabSpec
from lab.time_factor import scaled
from lab.watched_stream import watched_stream

MakeLab = Callable[..., Lab]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_labs] = []


_labs = pytest.StashKey[list[Lab]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.failed:
        for lab in item.config.stash[_labs]:
            report.sections.append((f"lab {lab.spec.name}", describe(lab)))
    return report


def describe(lab: Lab) -> str:
    """Return the kernel's objects on each host and the end of its daemon's log."""
    text = []
    for number in lab.host_numbers:
        netns = lab.names.host(number)
        for command in (
            "ip -d link",
            "ip addr",
            "ip route",
            "ip -6 route",
            "ip neigh",
            "bridge fdb",
        ):
            done = subprocess.run(
                [*processes.enter(netns), *command.split()],
                capture_output=True,
                text=True,
                check=False,
            )
            text.append(f"--- h{number}: {command}\n{done.stdout}{done.stderr}")
        text.append(f"--- h{number}: flatmeshd.log\n" + lab.log(number)[-6000:])
    return "\n".join(text)


@contextlib.contextmanager
def running_lab(config: pytest.Config, directory: Path, **spec: Any) -> Iterator[Lab]:
    lab = Lab(LabSpec(name=f"t{secrets.token_hex(4)}", **spec), directory)
    config.stash[_labs].append(lab)
    try:
        lab.up()
        yield lab
    finally:
        config.stash[_labs].remove(lab)
        lab.down()


@pytest.fixture
def make_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeLab]:
    """Make labs for one test: `make_lab(hosts=2, backend={"Type": "vxlan"})`."""
    with contextlib.ExitStack() as stack:
        directory = tmp_path_factory.mktemp("labs")
        yield lambda **spec: stack.enter_context(running_lab(request.config, directory, **spec))


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A three-host vxlan cluster; a module's tests share it, and each restores what it changes."""
    with running_lab(request.config, tmp_path_factory.mktemp("labs")) as lab:
        yield lab


@pytest.fixture
def on() -> Callable[..., str]:
    """Run a command in a namespace: `on(netns, "ip route")`."""

    def run(netns: str, command: str, check: bool = True) -> str:
        done = subprocess.run(
            [*processes.enter(netns), *command.split()],
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} in {netns}: {done.stderr}")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Wait for a condition: `eventually(lambda: ..., "the route is gone")`."""

    def wait(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
        deadline = time.monotonic() + scaled(timeout)
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def scrape() -> Callable[[Lab, int], list[str]]:
    """The lines of a host's /metrics; its daemon is started again for that."""
    url = "http://127.0.0.1:9000/metrics"
    get = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"

    def page(lab: Lab, number: int) -> list[str]:
        lab.stop_daemon(number)
        lab.start_daemon(number, "--healthz-ip=127.0.0.1", "--healthz-port=9000")
        lab.wait_ready(number)
        argv = [*processes.enter(lab.names.host(number)), sys.executable, "-c", get]
        return subprocess.check_output(argv, text=True).splitlines()

    return page


@pytest.fixture
def lost_while_daemon_is_killed(eventually: Callable[..., None]) -> Callable[..., int]:
    """Kill a sender's daemon under traffic, start another; returns how many datagrams were lost."""

    def kill(lab: Lab, sender: LabPod, receiver: LabPod, *flags: str) -> int:
        pid = lab.daemon_pid(sender.host)
        assert pid is not None
        with watched_stream(sender, receiver) as stream:
            eventually(lambda: stream.received > 50, "traffic flows")
            os.kill(pid, signal.SIGKILL)
            processes.stop([pid])
            mark = stream.received
            eventually(lambda: stream.received > mark + 100, "traffic flows without the daemon")
            lab.start_daemon(sender.host, *flags)
            lab.wait_ready(sender.host)
            mark = stream.received
            eventually(lambda: stream.received > mark + 100, "traffic flows with the new daemon")
        return stream.lost

    return kill


__all__ = ["describe", "hosts"]
