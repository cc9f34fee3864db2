# SPDX-License-Identifier: Apache-2.0
"""All leases and the cluster config, always whole, however the watch broke.

Theory of operation: one list and one watch of the whole prefix. Events only tell which keys to
look at anew; what comes out is the complete set, so nobody downstream can miss a removal or a
changed MAC. Only what changed is decoded. Services and their endpoints, of which there may be
100,000, are not listed, and the view's revision doesn't move with them: a watch that is resumed
from there asks for everything since the newest key that the view knows.

A watch that ended is resumed behind the last event seen, but only where etcd's history still
is the one we know: the newest key of the view is asked for again, and if it isn't as we know
it (etcd was started empty or from a backup, and may have a higher revision than ours by now),
everything is listed again. So it is after a compaction. What changed meanwhile is found by
comparing, and `history` tells a cluster that lost its leases from one whose hosts left.

Broken and foreign keys are logged once for each value they have, and skipped. Trouble with
etcd, of whatever kind, is logged once; the view goes on trying, and the last snapshot stays
good.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from base.background_task import background_task
from etcd.client import CompactedError, EtcdAuthError, EtcdError, KeyValue, WatchBatch
from etcd.retry_pause import RetryPause
from ipam.host_records import HostRecord, hosts_prefix, parse_record
from ipam.lease import Lease, LeaseError
from ipam.lease_question import question_key
from ipam.lease_source import Snapshot
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.registry import Registry, no_config

NOT_OURS = ("endpoints/", "service-claims/", "services/")
"""Keys below the prefix that say nothing of leases; `services.keys` has them."""
COALESCE = 0.002  # seconds to let a burst of events become one snapshot

log = logging.getLogger("ipam.lease_view")


@dataclass(slots=True)
class LeaseView:
    """An endless iterator over snapshots: `async for snapshot in LeaseView(registry)`.

    The first one comes when etcd has answered. Bursts become one snapshot, and so does what
    happens while the reader is busy.
    """

    registry: Registry
    leases: dict[str, Lease] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    """What hosts say of themselves, by `Lease.key`; a change of it alone makes no snapshot."""
    changed: dict[str, float] = field(default_factory=dict)
    """When a lease that is there was seen to change, in seconds since 1970, by `Lease.key`."""
    config: NetworkConfig | None = None
    config_error: str | None = None
    revision: int = 0
    history: int = 0
    """Grows when etcd was started empty or from a backup; see `Snapshot`."""
    asked: Callable[[str], None] = lambda _: None
    """Called with the key of a lease that another host asks about."""
    listed: int = 0
    """How often everything was listed."""
    _known: dict[str, int] = field(default_factory=dict)
    """mod_revision of every key below the prefix, broken ones included."""
    _newest: str = ""
    """The key with the highest of them: the witness of etcd's history."""
    _resumable: bool = False
    _refused: dict[str, bytes] = field(default_factory=dict)
    _said: str = ""

    @property
    def trouble(self) -> str | None:
        """Why etcd could not be asked the last time, as one line; None when it answers."""
        return self._said or None

    async def __aiter__(self) -> AsyncIterator[Snapshot]:
        pause = RetryPause()
        while True:
            try:
                if not self._resumable:
                    yield await self._list()
                async with contextlib.aclosing(self._follow()) as snapshots:
                    async for snapshot in snapshots:
                        pause.reset()
                        yield snapshot
            except CompactedError as error:
                log.info("listing all leases again: %s", error)
                self._resumable = False
            except EtcdError as error:
                if str(error) != self._said:
                    log.error("%s (trying again)", error)  # noqa: TRY400 - a known cause, told in one line
                self._said = str(error)
                if isinstance(error, EtcdAuthError):
                    pause.refused()
            await pause.wait()

    async def _list(self) -> Snapshot:
        found, revision = await self._list_keys()
        self._answers()
        if self.listed and not self._goes_on(found, revision):
            log.warning("etcd was started empty or from a backup: it is at revision %d", revision)
            self.history += 1
        before, self.leases, self.hosts = self.leases, {}, {}
        released = set[str]()
        self._known = {kv.key: kv.mod_revision for kv in found}
        self._newest = max(self._known, key=self._known.__getitem__, default="")
        config = None
        for kv in found:
            if kv.key == self.registry.config_key:
                config = kv
            elif kv.key.startswith(self.registry.released):
                released.add(kv.key.removeprefix(self.registry.released))
            else:
                self._take(kv.key, kv)
        self._take_config(config)
        self._refused = {kv.key: kv.value for kv in found if kv.key in self._refused}
        changed = {
            key
            for key in before.keys() | self.leases.keys()
            if before.get(key) != self.leases.get(key)
        }
        self._record_time(changed if self.listed else ())
        self.revision = revision
        self.listed += 1
        self._resumable = True
        return self._snapshot(changed, before, released)

    async def _list_keys(self, *, keys_only: bool = False) -> tuple[list[KeyValue], int]:
        prefix = f"{self.registry.prefix}/"
        left_out = [prefix + one for one in NOT_OURS]
        return await self.registry.etcd.list_around(prefix, left_out, keys_only=keys_only)

    def _goes_on(self, found: Sequence[KeyValue], revision: int) -> bool:
        """Whether the listed keys and the keys we know belong to one history of etcd.

        We know every key up to our revision. A listed key of such a revision that differs from
        what we know was written in another history: etcd was started empty or from a backup.
        """
        return revision >= self.revision and all(
            kv.mod_revision > self.revision or self._known.get(kv.key) == kv.mod_revision
            for kv in found
        )

    async def _follow(self) -> AsyncGenerator[Snapshot]:
        queue: asyncio.Queue[WatchBatch | EtcdError] = asyncio.Queue()
        async with background_task(self._pump(queue), "watch leases"):
            while True:
                batches = [await queue.get()]
                await asyncio.sleep(COALESCE)
                while not queue.empty():
                    batches.append(queue.get_nowait())
                config, changed, failure = self.config, set[str](), None
                before, released = dict(self.leases), set[str]()
                error = self.config_error
                for batch in batches:
                    if isinstance(batch, EtcdError):
                        failure = batch
                        break
                    changed |= self._take_batch(batch)
                    released |= self._released(batch)
                self._record_time(changed)
                if changed or released or (config, error) != (self.config, self.config_error):
                    yield self._snapshot(changed, before, released)
                if failure is not None:
                    raise failure

    async def _pump(self, queue: asyncio.Queue[WatchBatch | EtcdError]) -> None:
        """Fill the queue, so that the stream never waits for a busy reader."""
        etcd, prefix = self.registry.etcd, f"{self.registry.prefix}/"
        try:
            async with contextlib.aclosing(etcd.watch(prefix, self.revision + 1)) as watch:
                connected = False
                async for batch in watch:
                    if not connected:
                        connected = True
                        # also behind a list: the connection may be one made later
                        await self._require_known_history()
                        self._answers()
                    ours = _only(batch, tuple(prefix + one for one in NOT_OURS))
                    if ours is not None:
                        queue.put_nowait(ours)
        except EtcdError as error:
            queue.put_nowait(error)

    async def _require_known_history(self) -> None:
        """Raise CompactedError unless the newest key is as we know it."""
        if self._newest:
            there, _ = await self.registry.etcd.get(self._newest)
            known = there is not None and there.mod_revision == self._known[self._newest]
        else:  # nothing was there: then nothing as old as our view may be there now
            known = self._goes_on(*await self._list_keys(keys_only=True))
        if not known:
            raise CompactedError(f"{self._newest or 'etcd'} changed while the watch was down")

    def _answers(self) -> None:
        if self._said:
            log.info("etcd answers again")
            self._said = ""

    def _released(self, batch: WatchBatch) -> set[str]:
        mark = self.registry.released
        return {
            key.removeprefix(mark)
            for key, kv in batch.events
            if kv is not None and key.startswith(mark)
        }

    def _snapshot(
        self, changed: set[str], before: Mapping[str, Lease], released: set[str]
    ) -> Snapshot:
        expired = {
            key: before[key]
            for key in changed - released
            if key in before and key not in self.leases and not before[key].reserved
        }
        return Snapshot(
            self.config,
            self.config_error,
            dict(self.leases),
            frozenset(changed),
            expired,
            frozenset(released),
            self.revision,
            self.history,
            config_missing=self.config_error == no_config(self.registry.config_key),
        )

    def _take_batch(self, batch: WatchBatch) -> set[str]:
        changed = set()
        questions = question_key(self.registry.prefix, "")
        for key, kv in batch.events:
            if key == self.registry.config_key:
                self._take_config(kv)
            elif key.startswith(questions):
                if kv is not None:
                    self.asked(key.removeprefix(questions))
            else:
                changed |= self._take(key, kv)
            if kv is not None:
                self._known[key], self._newest = kv.mod_revision, key
            else:
                self._known.pop(key, None)
                if key == self._newest:
                    self._newest = max(self._known, key=self._known.__getitem__, default="")
        self.revision = max(self.revision, batch.revision)
        return changed

    def _take(self, key: str, kv: KeyValue | None) -> set[str]:
        """Take in one key as it is now (None: gone); returns which lease keys it changes."""
        if not key.startswith(self.registry.subnets):
            self._take_host(key, kv)
            return set()
        name = key.removeprefix(self.registry.subnets)
        if kv is None:
            self._refused.pop(key, None)
            return {name} if self.leases.pop(name, None) is not None else set()
        try:
            lease = self.registry.decode(kv)
        except LeaseError as error:
            if self._refused.get(key) != kv.value:
                log.warning("skipping %s: %s", key, error)
                self._refused[key] = kv.value
            return {name} if self.leases.pop(name, None) is not None else set()
        self._refused.pop(key, None)
        old, self.leases[name] = self.leases.get(name), lease
        return {name} if lease != old else set()

    def _take_host(self, key: str, kv: KeyValue | None) -> None:
        below = hosts_prefix(self.registry.prefix)
        if key.startswith(below):
            record = parse_record(kv.value) if kv is not None else None
            if record is not None:
                self.hosts[key.removeprefix(below)] = record
            else:
                self.hosts.pop(key.removeprefix(below), None)

    def _record_time(self, changed: Collection[str]) -> None:
        now = time.time()
        for key in changed:
            if key in self.leases:
                self.changed[key] = now
            else:
                self.changed.pop(key, None)

    def _take_config(self, kv: KeyValue | None) -> None:
        if kv is None:
            self.config, self.config_error = None, no_config(self.registry.config_key)
            return
        try:
            self.config, self.config_error = parse_config(kv.value), None
        except ConfigError as error:
            self.config, self.config_error = None, f"{self.registry.config_key}: {error}"


def _only(batch: WatchBatch, left_out: tuple[str, ...]) -> WatchBatch | None:
    """The events of other keys than those below the prefixes `left_out`; None without any."""
    events = tuple(one for one in batch.events if not one[0].startswith(left_out))
    if len(events) == len(batch.events):
        return batch
    if not events:
        return None
    if events[-1] is batch.events[-1]:
        return replace(batch, events=events)
    revision = max((kv.mod_revision for _, kv in events if kv is not None), default=0)
    return WatchBatch(revision, events)
