# SPDX-License-Identifier: Apache-2.0
"""All services and endpoints as they are in etcd now, however a watch broke.

Each of the two prefixes is listed and then watched behind the list; a watch that ended, for
whatever reason, is followed by a new list. What etcd was started from meanwhile (empty, a backup)
makes no difference so: the list is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from etcd.client import CompactedError, Etcd, EtcdAuthError, EtcdError, KeyValue
from etcd.comparisons import Page
from etcd.retry_pause import RetryPause

log = logging.getLogger("services.follow")
PAGE = 10_000
"""Keys of one answer."""


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Keys below one prefix that have changed."""

    keys: Mapping[str, KeyValue | None]
    """As they are now; None: gone."""
    every: Collection[str] | None = None
    """All keys that there are now, at the end of a list: others are gone. Else None."""

    @classmethod
    def complete(cls, found: Iterable[KeyValue]) -> Self:
        """A list in one piece."""
        keys = {kv.key: kv for kv in found}
        return cls(keys, keys.keys())


async def follow(etcd: Etcd, prefix: str) -> AsyncIterator[KeyChanges]:
    """Yield all keys, in parts, then each change; never ends.

    Trouble with etcd is logged, and tried on.
    """
    pause, told = RetryPause(), ""
    while True:
        try:
            async with contextlib.aclosing(_once(etcd, prefix)) as changes:
                async for one in changes:
                    pause.reset()
                    told = ""
                    yield one
        except CompactedError as error:
            log.info("listing %s again: %s", prefix, error)
        except EtcdError as error:
            if str(error) != told:
                log.warning("%s: %s; trying on", prefix, error)
                told = str(error)
            if isinstance(error, EtcdAuthError):
                pause.refused()
        await pause.wait()


async def _once(etcd: Etcd, prefix: str) -> AsyncGenerator[KeyChanges]:
    every: set[str] = set()
    newest: KeyValue | None = None
    revision = 0
    async with contextlib.aclosing(_pages(etcd, prefix)) as pages:
        async for found, read_at in pages:
            revision = read_at
            every.update(kv.key for kv in found)
            last = max(found, key=lambda kv: kv.mod_revision, default=None)
            if newest is None or (last is not None and last.mod_revision > newest.mod_revision):
                newest = last
            yield KeyChanges({kv.key: kv for kv in found})
    yield KeyChanges({}, every)
    connected = False
    async with contextlib.aclosing(etcd.watch(prefix, revision + 1)) as watch:
        async for batch in watch:
            if not connected:
                connected = True
                await _require_same_history(etcd, newest)
            if batch.events:
                yield KeyChanges(dict(batch.events))


async def _pages(etcd: Etcd, prefix: str) -> AsyncGenerator[tuple[list[KeyValue], int]]:
    """All keys in parts, and the revision that all are of.

    The next part is asked for before this one is given out: etcd reads it while this is parsed.
    """
    reading: asyncio.Task[tuple[list[KeyValue], int]] | None
    reading = asyncio.create_task(etcd.list(prefix, page=Page(PAGE)))
    revision = 0
    try:
        while reading is not None:
            found, now = await reading
            revision = revision or now
            if len(found) == PAGE:
                page = Page(PAGE, found[-1].key, revision)
                reading = asyncio.create_task(etcd.list(prefix, page=page))
            else:
                reading = None
            yield found, revision
    finally:
        if reading is not None:
            reading.cancel()


async def _require_same_history(etcd: Etcd, newest: KeyValue | None) -> None:
    """Raise CompactedError where the watch may be of another etcd than the list was."""
    if newest is None:
        return
    now, _ = await etcd.get(newest.key)
    if now is None or now.mod_revision < newest.mod_revision:
        raise CompactedError(f"{newest.key} changed while the watch was made")
