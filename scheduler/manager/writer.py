# SPDX-License-Identifier: Apache-2.0
"""The leader's writes: in transactions that compare the leader key, so they are done or refused.

A transaction whose answer got lost is tried again as it is: it writes the same values to the same
keys, so a second time does no harm, and no second task is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from etcd.client import Etcd, EtcdUnavailableError, Transaction
from etcd.retry_pause import RetryPause
from scheduler.manager.election import NotLeadingError

MAX_KEYS = 100  # of a transaction; etcd's own limit is 128
AT_ONCE = 8  # transactions in flight

Wrote = Callable[[Iterable[tuple[str, bytes]], Iterable[str], int], None]


@dataclass(frozen=True, slots=True)
class Write:
    """Keys that are written in one step."""

    put: Mapping[str, bytes] = field(default_factory=dict)
    delete: tuple[str, ...] = ()
    unchanged: Mapping[str, int] = field(default_factory=dict)
    """mod_revision of keys that others write, too."""

    @property
    def size(self) -> int:
        """How many keys it has."""
        return len(self.put) + len(self.delete) + len(self.unchanged)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes that are done only while the leader key has this revision."""

    etcd: Etcd
    leader_key: str
    revision: int
    wrote: Wrote
    """Told what was written, at once."""

    async def commit(self, writes: Iterable[Write]) -> None:
        """Do them all; those that others were faster with are left out.

        Raises NotLeadingError, EtcdError but not EtcdUnavailableError: that is tried again.
        """
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(group: list[Write]) -> None:
            async with limit:
                await self._commit(group)

        tasks = [asyncio.create_task(one(group)) for group in _groups(writes)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _commit(self, group: list[Write]) -> None:
        put = {key: value for write in group for key, value in write.put.items()}
        delete = [key for write in group for key in write.delete]
        compared = {key: at for write in group for key, at in write.unchanged.items()}
        transaction = Transaction(
            unchanged={self.leader_key: self.revision, **compared}, put=put, delete=delete
        )
        pause = RetryPause()
        while True:
            try:
                done = await self.etcd.commit(transaction)
                if done is None:
                    await self._require_leading()
                break
            except EtcdUnavailableError:
                await pause.wait()
        if done is not None:
            self.wrote(put.items(), delete, done)

    async def _require_leading(self) -> None:
        found, _ = await self.etcd.get(self.leader_key)
        if found is None or found.mod_revision != self.revision:
            raise NotLeadingError("another manager leads")


def _groups(writes: Iterable[Write]) -> Iterable[list[Write]]:
    """Together up to a limit; a write that compares keys of others is alone: it may be refused."""
    group: list[Write] = []
    size = 0
    for write in writes:
        if write.unchanged:
            yield [write]
            continue
        if group and size + write.size > MAX_KEYS:
            yield group
            group, size = [], 0
        group.append(write)
        size += write.size
    if group:
        yield group
