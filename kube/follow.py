# SPDX-License-Identifier: Apache-2.0
"""All objects of a kind, always whole, however the watch broke.

One list, then a watch from the list's version on. A watch that ends is resumed behind the newest
version seen, which bookmarks keep young; where the server no longer has it (410 Gone), all is
listed again, and what is not in the list is gone. Events are turned into small values at once: the
JSON of thousands of objects is never held.

Trouble with the server is logged once, and tried again for ever; what is known stays good.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from etcd.retry_pause import RetryPause
from kube.client import Json, KubeClient
from kube.errors import BrokenObjectError, GoneError, KubeError

Value = TypeVar("Value")
log = logging.getLogger("kube.follow")


@dataclass(frozen=True, slots=True)
class ObjectChanges(Generic[Value]):
    """What has changed: by the object's name (`namespace/name` where it has a namespace)."""

    objects: dict[str, Value | None]
    """None: gone."""
    listed: bool = False
    """Whether this is a whole list; what is not named in it is as it was."""


@dataclass(slots=True)
class ObjectView(Generic[Value]):
    """Follows one list. `async for changes in view.changes()`."""

    client: KubeClient
    path: str
    parse: Callable[[Json], Value]
    """Makes a value of an object. Raises BrokenObjectError: it is left out, and that is logged."""
    parameters: dict[str, str] = field(default_factory=dict)
    known: dict[str, Value] = field(default_factory=dict)
    listed: int = 0
    """How often all was listed."""
    trouble: str | None = None
    """Why the server could not be asked the last time."""
    _version: str = ""
    _refused: dict[str, str] = field(default_factory=dict)

    async def changes(self) -> AsyncIterator[ObjectChanges[Value]]:
        """Yield what changes; the first one is the whole list. Never ends."""
        pause = RetryPause()
        while True:
            try:
                if not self._version:
                    yield await self._list()
                    pause.reset()
                async with contextlib.aclosing(self._watch()) as batches:
                    async for batch in batches:
                        pause.reset()
                        if batch.objects:
                            yield batch
                continue  # the server has ended the watch, as it was asked to
            except GoneError as error:
                log.info("listing %s again: %s", self.path, error)
                self._version = ""
            except KubeError as error:
                if str(error) != self.trouble:
                    log.error("%s (trying again)", error)  # noqa: TRY400 - told in one line
                self.trouble = str(error)
            await pause.wait()

    async def _list(self) -> ObjectChanges[Value]:
        found: dict[str, Value] = {}
        newest = ""
        async for items, version in self.client.pages(self.path, **self.parameters):
            newest = version
            for item in items:
                self._take(item, found)
        self._answers()
        gone = self.known.keys() - found.keys()
        changed: dict[str, Value | None] = dict.fromkeys(gone)
        changed |= {name: v for name, v in found.items() if self.known.get(name) != v}
        self.known, self._version = found, newest
        self.listed += 1
        return ObjectChanges(changed, listed=True)

    async def _watch(self) -> AsyncGenerator[ObjectChanges[Value]]:
        events = self.client.watch(self.path, self._version, **self.parameters)
        async with contextlib.aclosing(events):
            async for event in events:
                self._answers()
                changed: dict[str, Value | None] = {}
                if event.kind in ("ADDED", "MODIFIED"):
                    before = self.known.get(name_of(event.object))
                    name = self._take(event.object, self.known)
                    if self.known.get(name) != before:
                        changed[name] = self.known.get(name)
                elif event.kind == "DELETED":
                    name = name_of(event.object)
                    self._refused.pop(name, None)
                    if self.known.pop(name, None) is not None:
                        changed[name] = None
                self._version = _version(event.object) or self._version
                yield ObjectChanges(changed)

    def _take(self, item: Json, into: dict[str, Value]) -> str:
        """Take in one object; it is not in `into` afterwards where it can't be used."""
        name = name_of(item)
        try:
            into[name] = self.parse(item)
        except BrokenObjectError as error:
            if self._refused.get(name) != str(error):
                log.warning("%s %s is left out: %s", self.path, name, error)
            self._refused[name] = str(error)
            into.pop(name, None)
        else:
            self._refused.pop(name, None)
        return name

    def _answers(self) -> None:
        if self.trouble is not None:
            log.info("the API server answers again")
            self.trouble = None


def metadata_of(item: Json) -> Json:
    """An object's metadata; empty where it has none."""
    about = item.get("metadata")
    return about if isinstance(about, dict) else {}


def name_of(item: Json) -> str:
    """`namespace/name`, or the name alone."""
    about = metadata_of(item)
    namespace, name = str(about.get("namespace") or ""), str(about.get("name") or "")
    return f"{namespace}/{name}" if namespace else name


def _version(item: Json) -> str:
    return str(metadata_of(item).get("resourceVersion") or "")
