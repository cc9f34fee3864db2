# SPDX-License-Identifier: Apache-2.0
"""Real etcd servers for tests, each on a loopback address of its own; they end with the test.

Also what holds for all tests: which need a kernel feature, and time-outs on a slow machine.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from lab.etcd_server import EtcdServer
from lab.time_factor import scaled
from tests.kernel import features

# A single member elects itself: short timeouts make its start faster, and do no harm.
ALONE = ("--heartbeat-interval=20", "--election-timeout=200")


def pytest_addoption(parser: pytest.Parser) -> None:
    features.add_options(parser)


@pytest.hookimpl(tryfirst=True)  # before pytest-timeout reads it
def pytest_configure(config: pytest.Config) -> None:
    # a busy machine takes longer than Hypothesis' 0.2 s for an example now and then
    hypothesis.settings.register_profile("without deadline", deadline=None)
    hypothesis.settings.load_profile("without deadline")
    if config.getoption("timeout") is None:
        config.option.timeout = scaled(float(config.getini("timeout")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    features.choose(config, items)
    for item in items:
        mark = item.get_closest_marker("timeout")
        if mark is not None:
            item.add_marker(pytest.mark.timeout(scaled(mark.args[0])), append=False)


def loopback() -> str:
    """A loopback address nobody else uses: fixed ports then never clash."""
    number = random.SystemRandom().randrange(1 << 8, (1 << 24) - 1)
    return f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """One real etcd for one test, which may stop, freeze or damage it."""
    address = loopback()
    server = EtcdServer(
        tmp_path / "etcd",
        f"http://{address}:2379",
        f"http://{address}:2380",
        flags=ALONE,
        die_with_caller=True,
    )
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        yield server


@pytest.fixture
def etcd_cluster(tmp_path: Path) -> Iterator[Callable[[int], list[EtcdServer]]]:
    """Make a cluster of several members: `etcd_cluster(3)`."""
    with contextlib.ExitStack() as stack:

        def make(size: int) -> list[EtcdServer]:
            urls = {f"m{number}": f"http://{loopback()}" for number in range(size)}
            together = ",".join(f"{name}={url}:2380" for name, url in urls.items())
            members = [
                EtcdServer(
                    tmp_path / name,
                    f"{url}:2379",
                    f"{url}:2380",
                    name=name,
                    cluster=together,
                    die_with_caller=True,
                )
                for name, url in urls.items()
            ]
            for member in members:
                stack.callback(member.stop)
                member.start(wait=False)
            for member in members:
                member.wait()
            return members

        yield make
