# SPDX-License-Identifier: Apache-2.0
"""Follows policies for their controller, and has new pods wait for theirs.

`run` is a task of the event loop; `take` and `applied` are called by the controller's worker
thread; `protect` by the threads of CNI calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from agent.policy.sources import Factory
from agent.settings import Settings
from backend.isolation import Isolation
from base.background_task import task_of
from base.errors import FlatmeshError
from policy.model import IPAddress, PolicyChanges
from policy.source import PolicySource

PROTECT_TIMEOUT = 5.0
"""Seconds that an ADD waits for its pod's policies; the pod is closed until they are known."""
KEEP_NEW = 60.0
"""Seconds for which the addresses of an ADD count that has not ended."""
RETRY_INTERVAL = 2.0  # seconds until a source that could not be opened is tried again

log = logging.getLogger("agent.policy")


@dataclass(slots=True)
class NewPod:
    """A pod whose ADD waits."""

    pod: str
    addresses: tuple[IPAddress, ...]
    since: float
    """Monotonic seconds."""
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class PolicyFeed:
    """What is to be taken in, and who waits for it."""

    enabled: bool = False
    on_change: Callable[[str], None] = lambda _: None
    """Called in the event loop, with the reason."""
    node: str = ""
    isolation: Isolation | None = None
    """For pods on a switch; None: there are none, or it is not known yet."""
    on_isolation: Callable[[str], None] = lambda _: None
    """Called in the event loop when `isolation` is another."""
    _source: PolicySource | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _changes: list[PolicyChanges] = field(default_factory=list)
    _listed: bool = False
    _new: list[NewPod] = field(default_factory=list)
    _trouble: str | None = None

    # -- in the event loop ---------------------------------------------------------------

    async def run(self, settings: Settings, factory: Factory) -> None:
        """Follow until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                async with factory(settings) as source:
                    self._source, self.node = source, source.node
                    async for changes in source.changes():
                        with self._lock:
                            self._changes.append(changes)
                            self._listed = True
                        self.on_change("policies, pods or labels changed")
            except FlatmeshError as error:
                if str(error) != self._trouble:
                    log.error("%s (trying again)", error)  # noqa: TRY400 - told in one line
                self._trouble = str(error)
            except Exception:  # a fault of this part must not stop the daemon
                log.exception("following network policies")
            await asyncio.sleep(RETRY_INTERVAL)

    # -- for the controller ----------------------------------------------------------------

    def take(self) -> list[PolicyChanges] | None:
        """What has changed since the last call; None before everything was listed once."""
        with self._lock:
            if not self._listed:
                return None
            changes, self._changes = self._changes, []
            return changes

    def new_pods(self) -> dict[IPAddress, str]:
        """Addresses of pods whose ADD is not recorded to its end, by pod."""
        oldest = time.monotonic() - KEEP_NEW
        with self._lock:
            self._new = [one for one in self._new if one.since > oldest]
            return {address: one.pod for one in self._new for address in one.addresses}

    def applied(self, knows: Callable[[str], bool]) -> None:
        """The table is in the kernel: ADDs of pods that it knows go on."""
        with self._lock:
            waiting = [one for one in self._new if not one.done.is_set()]
        for one in waiting:
            if not one.pod or knows(one.pod):
                one.done.set()

    def problem(self) -> str | None:
        """Why policies are not known, or are not heard of, as one line."""
        source = self._source
        why = (source.problem() if source is not None else None) or self._trouble
        if not self._listed:
            return f"network policy: {why or 'not all policies, pods and namespaces are read yet'}"
        return f"network policy: {why}" if why and source is not None and source.problem() else None

    def isolate(self, isolation: Isolation | None) -> None:
        """Have the data plane enforce it."""
        if isolation != self.isolation:
            self.isolation = isolation
            self._call(self.on_isolation, "network policies")

    # -- for CNI calls ---------------------------------------------------------------------

    def protect(self, pod: str, addresses: Sequence[str]) -> None:
        """Wait until the kernel has the policies of a new pod.

        An address of the host's subnet that nothing is known of is closed; so what could not be
        found out in time is not open, and is mended when the source tells of the pod.
        """
        if not self.enabled or self._loop is None or self._loop.is_closed():
            return
        one = NewPod(
            pod,
            tuple(ip_address(text.partition("/")[0]) for text in addresses),
            time.monotonic(),
        )
        with self._lock:
            self._new = [o for o in self._new if not {*o.addresses} & {*one.addresses}] + [one]
        self.changed("a new pod")
        if not one.done.wait(PROTECT_TIMEOUT):
            log.warning(
                "pod %s: its network policies are not known after %.0f s; it is closed until then",
                *(pod or addresses, PROTECT_TIMEOUT),
            )

    def changed(self, why: str) -> None:
        """A pod came or went. From any thread."""
        if self.enabled:
            self._call(self.on_change, why)

    def _call(self, told: Callable[[str], None], why: str) -> None:
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(told, why)


def start_following(
    settings: Settings, feed: PolicyFeed, factory: Factory | None, stack: contextlib.AsyncExitStack
) -> None:
    """Follow in a task, which `stack` ends; without a factory no policy is ever known."""
    if factory is not None:
        task_of(stack, feed.run(settings, factory), "follow network policies")
