"""All leases and the cluster config, always whole, however the watch broke.

One list and one watch of the whole prefix. Events only tell which keys to look at anew; what
comes out is the complete set, so nobody downstream can miss a removal or a changed MAC.
When the watch can't be resumed (compacted, restored, started empty) the view lists again and
works out by itself which keys changed meanwhile.

Broken and foreign keys are logged once for each value they have, and skipped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from ipam import lease as codec
from ipam.etcd import CompactedError, EtcdError, KeyValue
from ipam.lease import Lease, LeaseError
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.registry import Registry, no_config

COALESCE = 0.002  # seconds to let a burst of events become one snapshot
RETRY = 1.0  # seconds between two listings that fail

log = logging.getLogger("ipam.lease_view")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything below the prefix at one revision."""

    config: NetworkConfig | None
    config_error: str | None
    """Why there is no config: it is missing, or broken; one line."""
    leases: Mapping[str, Lease]
    """By key; not to be changed by whoever reads it."""
    revision: int
    changed: frozenset[str]
    """Keys of leases that came, went or changed since the snapshot before."""


@dataclass(slots=True)
class LeaseView:
    """An endless iterator over snapshots: `async for snapshot in LeaseView(registry)`."""

    registry: Registry
    leases: dict[str, Lease] = field(default_factory=dict)
    config: NetworkConfig | None = None
    config_error: str | None = None
    revision: int = 0
    _refused: dict[str, bytes] = field(default_factory=dict)
    _said: str = ""

    async def __aiter__(self) -> AsyncIterator[Snapshot]:
        while True:
            try:
                yield await self._list()
                async for snapshot in self._follow():
                    yield snapshot
            except CompactedError as error:
                log.info("listing all leases again: %s", error)
            except EtcdError as error:
                if str(error) != self._said:
                    log.error("%s", error)  # noqa: TRY400 - a known cause, told in one line
                self._said = str(error)
                await asyncio.sleep(RETRY)

    async def _list(self) -> Snapshot:
        found, revision = await self.registry.etcd.list(f"{self.registry.prefix}/")
        if self._said:
            log.info("etcd answers again")
            self._said = ""
        before, config_seen = dict(self.leases), False
        self.leases = {}
        for kv in found:
            config_seen |= kv.key == self.registry.config_key
            self._take(kv.key, kv, before)
        if not config_seen:
            self._take(self.registry.config_key, None, before)
        changed = {
            key
            for key in before.keys() | self.leases.keys()
            if before.get(key) != self.leases.get(key)
        }
        self.revision = revision
        return self._snapshot(changed)

    async def _follow(self) -> AsyncIterator[Snapshot]:
        watch = self.registry.etcd.watch(f"{self.registry.prefix}/", self.revision + 1)
        queue: asyncio.Queue[object] = asyncio.Queue()

        async def pump() -> None:
            try:
                async for batch in watch:
                    queue.put_nowait(batch)
            except EtcdError as error:
                queue.put_nowait(error)

        task = asyncio.create_task(pump(), name="watch leases")
        try:
            while True:
                batches = [await queue.get()]
                await asyncio.sleep(COALESCE)
                while not queue.empty():
                    batches.append(queue.get_nowait())
                changed: set[str] = set()
                for batch in batches:
                    if isinstance(batch, EtcdError):
                        raise batch
                    for key, kv in batch.events:  # type: ignore[attr-defined]
                        changed |= self._take(key, kv, self.leases)
                    self.revision = batch.revision  # type: ignore[attr-defined]
                yield self._snapshot(changed)
        finally:
            task.cancel()

    def _snapshot(self, changed: set[str]) -> Snapshot:
        return Snapshot(
            self.config, self.config_error, self.leases, self.revision, frozenset(changed)
        )

    def _take(self, key: str, kv: KeyValue | None, known: Mapping[str, Lease]) -> set[str]:
        """Take in one key as it is now (None: gone); returns which lease keys it changes."""
        if key == self.registry.config_key:
            self._take_config(kv)
            return set()
        if not key.startswith(self.registry.subnets):
            return set()
        name = key.removeprefix(self.registry.subnets)
        if kv is None:
            self._refused.pop(key, None)
            return {name} if self.leases.pop(name, None) is not None else set()
        old = known.get(name)
        if old is not None and old.revision == kv.mod_revision:
            self.leases[name] = old
            return set()
        try:
            lease = codec.parse(name, kv.value, revision=kv.mod_revision, etcd_lease=kv.lease)
        except LeaseError as error:
            if self._refused.get(key) != kv.value:
                log.warning("skipping %s: %s", key, error)
                self._refused[key] = kv.value
            return {name} if self.leases.pop(name, None) is not None else set()
        self.leases[name] = lease
        return {name} if lease != old else set()

    def _take_config(self, kv: KeyValue | None) -> None:
        if kv is None:
            self.config, self.config_error = None, no_config(self.registry.config_key)
            return
        try:
            self.config, self.config_error = parse_config(kv.value), None
        except ConfigError as error:
            self.config, self.config_error = None, str(error)
