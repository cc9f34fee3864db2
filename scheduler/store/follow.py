# SPDX-License-Identifier: Apache-2.0
"""All keys below a prefix, and then each change, however the connection breaks.

    async for batch in follow(etcd, "/flatmesh-scheduler/tasks/n1/"):
        view.take(batch)

Theory of operation: a list in pages as of one revision, then a watch from the next one. A watch
that ended is resumed behind its last event, but only where etcd still has the history that we
know: the key that was written last is asked for again. If it is another (etcd was restored from a
backup, or started empty), or the history is compacted away, everything is listed again and comes
as one batch that says `complete`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from etcd.client import CompactedError, Etcd, EtcdAuthError, EtcdError, KeyValue
from etcd.comparisons import Page
from etcd.retry_pause import RetryPause

PAGE = 2000  # keys

log = logging.getLogger("scheduler.store")


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that came together."""

    events: tuple[tuple[str, KeyValue | None], ...]
    """Key, and what it is now; None: deleted."""
    revision: int
    complete: bool = False
    """Whether these are all keys there are: whatever else was known is gone."""


async def list_all(etcd: Etcd, prefix: str, page: int = PAGE) -> tuple[list[KeyValue], int]:
    """All keys below a prefix, read in pages as of one revision. Raises EtcdError."""
    found: list[KeyValue] = []
    revision, after = 0, ""
    while True:
        some, now = await etcd.list(prefix, page=Page(page, after, revision))
        found += some
        revision = revision or now
        if len(some) < page:
            return found, revision
        after = some[-1].key


@dataclass(slots=True)
class _Position:
    """How far the history is known."""

    revision: int = 0  # 0: nothing
    witness: str = ""
    written: int = 0  # the witness' mod_revision

    def take(self, batch: Batch) -> None:
        if batch.complete:
            self.witness, self.written = "", 0
        for key, kv in batch.events:
            if kv is None:
                if key == self.witness:
                    self.witness, self.written = "", 0
            elif kv.mod_revision > self.written:
                self.witness, self.written = key, kv.mod_revision
        self.revision = batch.revision

    async def require_known_history(self, etcd: Etcd) -> None:
        if self.witness:
            found, _ = await etcd.get(self.witness)
            if found is not None and found.mod_revision < self.written:
                raise CompactedError(f"{self.witness} is older than it was: etcd was restored")
            if found is None or found.mod_revision != self.written:
                raise CompactedError(f"{self.witness} changed while the watch was down")
        else:
            raise CompactedError("no key tells whether etcd's history is the same")


async def follow(
    etcd: Etcd, prefix: str, *, trouble: Callable[[str | None], None] = lambda _: None
) -> AsyncGenerator[Batch]:
    """Yield everything below a prefix, then all changes, for ever.

    `trouble` is told in one line why etcd doesn't answer, and None when it does again.
    """
    pause, position, said = RetryPause(), _Position(), ""
    while True:
        try:
            if not position.revision:
                found, revision = await list_all(etcd, prefix)
                batch = Batch(tuple((kv.key, kv) for kv in found), revision, complete=True)
                position.take(batch)
                yield batch
            async with contextlib.aclosing(etcd.watch(prefix, position.revision + 1)) as watch:
                connected = False
                async for events in watch:
                    if not connected:
                        connected = True
                        if said:
                            await position.require_known_history(etcd)
                            log.info("etcd answers again")
                            said = ""
                        trouble(None)
                        pause.reset()
                    if events.events:
                        batch = Batch(events.events, events.revision)
                        position.take(batch)
                        yield batch
        except CompactedError as error:
            log.info("reading everything below %s again: %s", prefix, error)
            position = _Position()
        except EtcdError as error:
            if str(error) != said:
                log.error("%s (trying again)", error)  # noqa: TRY400 - a known cause, in one line
            said = str(error)
            trouble(said)
            if isinstance(error, EtcdAuthError):
                pause.refused()
        if said:
            await pause.wait()
        else:
            await asyncio.sleep(0)
