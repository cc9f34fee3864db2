# SPDX-License-Identifier: Apache-2.0
"""Follows services in etcd for the controllers that serve them.

`run` is a task of the event loop; `take` is called by the controllers' worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from base.background_task import task_of
from etcd.client import Etcd
from etcd.connect import EtcdSettings, connect
from services.follow import KeyChanges, follow
from services.keys import Keys
from services.served import KnownServices, ServedService

BALANCER, NAMES = "balancer", "names"
READERS = (BALANCER, NAMES)
"""Who takes the changes, each all of them."""
RETRY_INTERVAL = 2.0  # seconds until a fault of the program is tried again
MANY_KEYS = 1000

log = logging.getLogger("agent.services")


@dataclass(frozen=True, slots=True)
class TakenServices:
    """Services as they are now."""

    services: Mapping[str, ServedService | None]
    """By name; None: gone."""
    refused: tuple[str, ...] = ()
    """Why some keys are not served, a line each."""


@dataclass(slots=True)
class ServiceFeed:
    """What is known of the services below one prefix."""

    prefix: str
    on_change: Callable[[], None] = lambda: None
    """Called in the event loop."""
    _known: KnownServices = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _changed: dict[str, set[str]] = field(default_factory=lambda: {one: set() for one in READERS})
    """By reader, what it has not taken yet."""
    _listed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with nothing known."""
        self._known = KnownServices(Keys(self.prefix.rstrip("/")))

    def _parts(self) -> list[tuple[str, Callable[[KeyChanges], set[str]]]]:
        keys = self._known.keys
        return [
            (keys.services, self._known.take_services),
            (keys.endpoints, self._known.take_endpoints),
        ]

    async def read(self, etcd: Etcd) -> None:
        """Take in what there is now. Raises EtcdError."""
        for prefix, take in self._parts():
            found, _ = await etcd.list(prefix)
            self._take_in(KeyChanges.complete(found), prefix, take)

    async def run(self, etcd: Etcd) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for prefix, take in self._parts():
                tasks.create_task(self._follow(etcd, prefix, take), name=f"follow {prefix}")

    async def _follow(
        self, etcd: Etcd, prefix: str, take: Callable[[KeyChanges], set[str]]
    ) -> None:
        while True:
            try:
                async for changes in follow(etcd, prefix):
                    if (
                        len(changes.every or changes.keys) > MANY_KEYS
                    ):  # seconds that the loop has better use for
                        told = await asyncio.to_thread(self._take_in, changes, prefix, take)
                    else:
                        told = self._take_in(changes, prefix, take)
                    if told:
                        self.on_change()
            except Exception:  # a fault of this part must not stop the daemon
                log.exception("following %s", prefix)
                await asyncio.sleep(RETRY_INTERVAL)

    def _take_in(
        self, changes: KeyChanges, prefix: str, take: Callable[[KeyChanges], set[str]]
    ) -> bool:
        """Take in what has changed; says whether the readers have to be told."""
        with self._lock:
            before = dict(self._known.refused)
            changed = take(changes)
            for not_taken in self._changed.values():
                not_taken.update(changed)
            first = changes.every is not None and prefix not in self._listed
            if first:
                self._listed.add(prefix)
            known = prefix in self._listed
            refused = dict(self._known.refused)
        for key, why in refused.items():
            if before.get(key) != why:
                log.warning("%s is not served: %s", key, why)
        # nobody can do anything with a part of the first list
        return first or (known and (bool(changed) or refused != before))

    def take(self, reader: str, *, whole: bool) -> TakenServices | None:
        """What has changed since this reader's last call, or everything.

        None before all was listed once. `reader` is one of `READERS`.
        """
        with self._lock:
            if len(self._listed) < 2:
                return None
            names = self._known.services.keys() if whole else self._changed[reader]
            services = {name: self._known.get(name) for name in names}
            self._changed[reader] = set()
            return TakenServices(services, tuple(self._known.refused.values()))


def start_following(
    settings: EtcdSettings | None, feed: ServiceFeed, stack: contextlib.AsyncExitStack
) -> None:
    """Follow in a task of its own, on a connection of its own, which `stack` ends.

    Without settings nothing is followed, and no service is ever known.
    """
    if settings is None:
        return

    async def run(etcd: EtcdSettings) -> None:
        async with connect(etcd) as client:
            await feed.run(client)

    task_of(stack, run(settings), "follow services")
