# SPDX-License-Identifier: Apache-2.0
"""All services and endpoints as they are in etcd now, however a watch broke.

Each of the two prefixes is listed and then watched behind the list; a watch that ended, for
whatever reason, is followed by a new list. What etcd was started from meanwhile (empty, a backup)
makes no difference so: the list is the truth.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass

from etcd.client import CompactedError, Etcd, EtcdAuthError, EtcdError, KeyValue
from etcd.retry_pause import RetryPause

log = logging.getLogger("services.follow")


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Keys below one prefix that have changed."""

    keys: Mapping[str, KeyValue | None]
    """As they are now; None: gone."""
    listed: bool = False
    """Whether these are all keys that there are."""


async def follow(etcd: Etcd, prefix: str) -> AsyncIterator[KeyChanges]:
    """Yield all keys, then each change; never ends. Trouble with etcd is logged, and tried on."""
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
    found, revision = await etcd.list(prefix)
    yield KeyChanges({kv.key: kv for kv in found}, listed=True)
    newest = max(found, key=lambda kv: kv.mod_revision, default=None)
    connected = False
    async with contextlib.aclosing(etcd.watch(prefix, revision + 1)) as watch:
        async for batch in watch:
            if not connected:
                connected = True
                await _require_same_history(etcd, newest)
            if batch.events:
                yield KeyChanges(dict(batch.events))


async def _require_same_history(etcd: Etcd, newest: KeyValue | None) -> None:
    """Raise CompactedError where the watch may be of another etcd than the list was."""
    if newest is None:
        return
    now, _ = await etcd.get(newest.key)
    if now is None or now.mod_revision < newest.mod_revision:
        raise CompactedError(f"{newest.key} changed while the watch was made")
