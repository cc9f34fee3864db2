# SPDX-License-Identifier: Apache-2.0
"""The cluster as the API sees it: a view of etcd, and writes that the view then shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from etcd.client import Etcd, EtcdUnavailableError
from scheduler.errors import NotFoundError, SchedulerError
from scheduler.store.documents import Documents
from scheduler.store.follow import follow
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

SHOWN_WITHIN = 5.0  # seconds until the watch has told of an own write


@dataclass(slots=True)
class Cluster:
    """What each handler is given."""

    etcd: Etcd
    keys: Keys
    node_id: str
    view: ClusterView
    complete: bool = False
    """Whether everything was read once."""
    trouble: str | None = None
    """Why etcd does not answer."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def documents(self) -> Documents:
        """Writes of objects."""
        return Documents(self.etcd, self.keys)

    async def follow(self) -> None:
        """Keep the view up to date until cancelled."""
        async for batch in follow(self.etcd, self.keys.everything, trouble=self._told):
            for _ in self.view.take_steps(batch):
                await asyncio.sleep(0)
            self.complete = True
            async with self._changed:
                self._changed.notify_all()

    def _told(self, trouble: str | None) -> None:
        self.trouble = trouble

    def require_complete(self) -> None:
        """Raise EtcdUnavailableError until everything was read once."""
        if not self.complete:
            raise EtcdUnavailableError(self.trouble or "the state of the cluster is being read")

    async def shows(self, condition: Callable[[], object]) -> None:
        """Wait until the view shows an own write; where etcd is slow, not for ever."""
        try:
            async with asyncio.timeout(SHOWN_WITHIN), self._changed:
                await self._changed.wait_for(lambda: bool(condition()))
        except TimeoutError:
            return

    async def shows_newer(self, key: str, version: int) -> None:
        """Wait until the view has a newer version of a key than this one, or none."""
        await self.shows(lambda: self.view.version(key) not in range(1, version + 1))


def find(table: Mapping[str, Any], given: str, what: str, names: Mapping[str, str]) -> str:
    """The id of the object that a client names: by id, name, or the beginning of an id.

    Raises NotFoundError, SchedulerError: it is not the only one.
    """
    if given in table:
        return given
    if given in names:
        return names[given]
    found = [object_id for object_id in table if given and object_id.startswith(given)]
    if len(found) > 1:
        raise SchedulerError(f"{what} {given} is ambiguous: {len(found)} ids begin with it")
    if not found:
        raise NotFoundError(f"no such {what}: {given}")
    return found[0]


def names_of(view: ClusterView, kind: str) -> dict[str, str]:
    """Names to ids, of one kind."""
    return {name: object_id for (of, name), object_id in view.names.items() if of == kind}
