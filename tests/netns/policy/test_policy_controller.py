# SPDX-License-Identifier: Apache-2.0
"""The network policy controller in a real namespace, with a source that tells what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.controller import Change, Dirty
from agent.controllers.policy import PolicyController
from agent.policy import feed
from agent.policy.feed import PolicyFeed
from agent.settings import Settings
from cni.host import PluginHost
from hostnet.netns import run_in
from hostnet.nft.chain_table import ChainTableSocket
from policy.model import EVERYTHING, Policy, PolicyChanges
from policy.source import PolicySource
from tests.unit.agent.agent_inputs import WHOLE, inputs
from tests.unit.policy.examples import known, pod


class ToldSource:
    """Fits `policy.source.PolicySource`."""

    node = "here"

    def __init__(self) -> None:
        self.news: asyncio.Queue[PolicyChanges | Exception] = asyncio.Queue()

    async def changes(self) -> AsyncIterator[PolicyChanges]:
        while True:
            one = await self.news.get()
            if isinstance(one, Exception):
                raise one
            yield one

    def problem(self) -> str | None:
        return None


class Fed:
    """A feed that runs in a loop of its own thread."""

    def __init__(self) -> None:
        self.feed = PolicyFeed(enabled=True)
        self.source = ToldSource()
        self.changed = threading.Event()
        self.feed.on_change = lambda _: self.changed.set()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def start(self) -> None:
        @contextlib.asynccontextmanager
        async def factory(settings: Settings) -> AsyncIterator[PolicySource]:
            del settings
            yield self.source

        self._thread.start()
        self.task = asyncio.run_coroutine_threadsafe(self.feed.run(Settings(), factory), self.loop)

    def stop(self) -> None:
        self.task.cancel()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        for left in asyncio.all_tasks(self.loop):
            with contextlib.suppress(asyncio.CancelledError):
                self.loop.run_until_complete(left)
        self.loop.close()

    def tell(self, one: PolicyChanges | Exception) -> None:
        self.changed.clear()
        self.loop.call_soon_threadsafe(self.source.news.put_nowait, one)

    def wait(self) -> None:
        assert self.changed.wait(20)


@pytest.fixture
def fed() -> Iterator[Fed]:
    made = Fed()
    made.start()
    yield made
    made.stop()


Apply = Callable[[Dirty], int]


@pytest.fixture
def controller(fed: Fed, netns: str, tmp_path: Path) -> Iterator[PolicyController]:
    host = PluginHost(tmp_path, tmp_path, tmp_path / "subnet.env")
    made = PolicyController(fed.feed, ChainTableSocket(netns), host)
    yield made
    made.close()


@pytest.fixture
def apply(controller: PolicyController, netns: str) -> Apply:
    def work(dirty: Dirty) -> int:
        report = run_in(netns, lambda: controller.apply(controller.desired(inputs(), dirty)))
        assert not report.failures
        return report.changes

    return work


CHANGED = Dirty(changes=Change.POLICIES, reasons=["test"])


def chains(netns: str) -> str:
    command = ["ip", "netns", "exec", netns, "nft", "list", "ruleset"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_nothing_is_changed_before_all_is_known_and_little_after(
    fed: Fed, controller: PolicyController, apply: Apply, netns: str
) -> None:
    assert apply(WHOLE) == 0
    assert controller.status() == (
        "network policy: not all policies, pods and namespaces are read yet"
    )
    deny = Policy("shop", "deny", EVERYTHING, ())
    fed.tell(replace(known([pod("shop/a", "10.5.1.2")], [deny]), whole=True))
    fed.wait()
    assert apply(CHANGED) > 10
    assert controller.status() is None
    assert "10.5.1.2 : goto pods_ingress" in chains(netns)
    assert apply(WHOLE) == 0, "as it was read back"
    # a source that is opened again tells what there is: what is gone meanwhile is no longer there
    fed.tell(RuntimeError("a fault"))
    fed.tell(replace(known([pod("shop/b", "10.5.1.3")]), whole=True))
    fed.wait()
    assert apply(CHANGED) > 0
    assert "10.5.1.2" not in chains(netns)
    assert "10.5.1.3 : accept" in chains(netns)
    assert run_in(netns, controller.cleanup) == []
    assert chains(netns) == ""


def test_an_add_waits_until_the_kernel_has_its_pods_policies(
    fed: Fed, apply: Apply, netns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PROTECT_TIMEOUT", 60.0)
    fed.tell(PolicyChanges(whole=True))
    fed.wait()
    apply(WHOLE)
    waiting = threading.Thread(target=fed.feed.protect, args=("shop/new", ["10.5.1.9/24"]))
    fed.changed.clear()
    waiting.start()
    fed.wait()
    apply(CHANGED)
    assert "10.5.1.9 : goto refused_ingress" in chains(netns)
    assert waiting.is_alive(), "the source has not told of it yet"
    deny = Policy("shop", "deny", EVERYTHING, ())
    fed.tell(known([pod("shop/new", "")], [deny]))
    fed.wait()
    apply(CHANGED)
    waiting.join(20)
    assert not waiting.is_alive()
    assert "10.5.1.9 : goto pods_ingress" in chains(netns)
