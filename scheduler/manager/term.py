# SPDX-License-Identifier: Apache-2.0
"""One term of a leader: everything is read, followed and reconciled until the term ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass

from etcd.client import Etcd
from scheduler.manager.grants import Grants
from scheduler.manager.leader import Leader
from scheduler.manager.network.publisher import Publisher
from scheduler.manager.network.view import NetworkView
from scheduler.manager.tracker import Tracker
from scheduler.manager.writer import Writer
from scheduler.store.follow import follow
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

log = logging.getLogger("scheduler.manager")


@dataclass(frozen=True, slots=True)
class Leadership:
    """What is the same for all terms of a manager."""

    etcd: Etcd
    keys: Keys
    network_prefix: str
    rebalance: bool = False
    history: int = 5

    async def lead(self, revision: int) -> None:
        """Lead from this revision of the leader key on. Raises NotLeadingError, EtcdError."""
        view, network = ClusterView(self.keys), NetworkView(self.network_prefix)
        tracker = Tracker(view)
        grants = Grants(view, tracker.table)
        view.listeners += [tracker.changed, grants.changed]
        leader_key = self.keys.leader
        leader = Leader(
            Writer(self.etcd, leader_key, revision, view.wrote),
            tracker,
            self.keys,
            Publisher(network, tracker),
            Writer(self.etcd, leader_key, revision, network.wrote),
            grants,
            self.rebalance,
            self.history,
        )
        complete = asyncio.Event()

        async def look() -> None:
            async for batch in follow(self.etcd, self.keys.everything):
                async with leader.quiet:
                    for _ in view.take_steps(batch):
                        await asyncio.sleep(0)
                if batch.complete:
                    complete.set()
                leader.woken.set()

        async def look_at_network() -> None:
            async for batch in follow(self.etcd, f"{self.network_prefix}/"):
                network.take(batch)
                if batch.complete or network.changed_services:
                    leader.woken.set()

        async def reconcile() -> None:
            await complete.wait()
            for node in view.nodes:  # a node without a key at all makes no event
                if node not in view.reports:
                    tracker.silent.setdefault(node, time.monotonic())
            for service in view.services:
                tracker.mark(service, None)
            gc.collect()
            gc.freeze()  # a full collection of 100,000 tasks would stop everything for a second
            log.info(
                "leading: %d services, %d tasks, %d nodes",
                *(len(view.services), len(view.tasks), len(view.nodes)),
            )
            await leader.run()

        try:
            await first_of(look(), look_at_network(), reconcile())
        finally:
            gc.unfreeze()
            view.listeners.clear()


async def first_of(*works: Coroutine[None, None, None]) -> None:
    """Run them until one ends, and cancel the others. Raises what that one raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
