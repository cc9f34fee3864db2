# SPDX-License-Identifier: Apache-2.0
"""Takes part in checks: follows their keys, one check at a time, until its keys are gone.

The daemon does so for as long as it runs; `flatmesh check` does it itself for a host whose daemon
does not answer, as pods can be made there all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

from agent.check.keys import (
    MAX_HOSTS,
    MAX_SECONDS,
    CheckKey,
    End,
    Request,
    Targets,
    checks_prefix,
    key_of,
    parse_check_key,
    read,
    usable,
    write,
)
from agent.check.own_end import OwnEnd, own_key
from agent.settings import Settings
from agent.worker import Worker
from base.background_task import background_task
from base.errors import FlatmeshError, one_line
from cni.host import PluginHost
from etcd.client import Etcd, EtcdAuthError, EtcdError, KeyValue
from etcd.connect import EtcdSettings, connect

RETRY_INTERVAL, AUTH_RETRY_INTERVAL = 5.0, 60.0
"""Seconds until the keys are followed again after etcd was away, or refused us: a login is dear."""
CLOSE_TIMEOUT = 5.0
"""Seconds that the end of the daemon waits for the pod of a check to be removed."""

log = logging.getLogger("agent.check")


class CheckOverError(FlatmeshError):
    """The check's keys are gone."""


@dataclass(slots=True)
class _Running:
    """The check that this host takes part in."""

    check: str
    task: asyncio.Task[None] | None = None
    keys: asyncio.Queue[tuple[str, bytes | None]] = field(default_factory=asyncio.Queue)
    """What its keys are now: name and value; None: gone."""


@dataclass(slots=True)
class CheckService:
    """This host's part in checks. Used in one event loop."""

    etcd: Etcd
    prefix: str
    host: PluginHost
    name: str
    by_daemon: bool
    _running: _Running | None = None

    async def follow(self, ready: Callable[[], None] = lambda: None) -> None:
        """Take part until cancelled. Raises EtcdError when the watch ends."""
        below = checks_prefix(self.prefix)
        _, revision = await self.etcd.list(below, keys_only=True)
        ready()
        try:
            async with contextlib.aclosing(self.etcd.watch(below, revision + 1)) as watch:
                async for batch in watch:
                    for key, kv in batch.events:
                        parsed = parse_check_key(self.prefix, key)
                        if parsed is not None:
                            self._take(parsed, kv)
        finally:
            await self._stop()

    def _take(self, key: CheckKey, kv: KeyValue | None) -> None:
        running = self._running
        busy = running is not None and running.task is not None and not running.task.done()
        if running is not None and busy and running.check == key.check:
            if not key.host:
                running.keys.put_nowait((key.what, None if kv is None else kv.value))
        elif not busy and key.what == "request" and kv is not None and kv.lease:
            request = read(Request, kv.value)
            with contextlib.suppress(OSError, FlatmeshError, ValueError):
                own = own_key(self.host.subnet_file)
                if own in request.hosts[:MAX_HOSTS]:
                    self._running = running = _Running(key.check)
                    token = bytes.fromhex(request.token)[:8].ljust(8, b"\0")
                    work = self._take_part(running, own, token, kv.lease)
                    running.task = asyncio.create_task(work, name="check")

    async def _take_part(self, running: _Running, own: str, token: bytes, lease: int) -> None:
        worker = Worker("check")
        end = OwnEnd(self.host, self.name, running.check, token, by_daemon=self.by_daemon)

        async def put(what: str, value: object) -> None:
            key = key_of(self.prefix, running.check, what, own)
            await self.etcd.put(key, write(value), lease=lease)

        try:
            async with asyncio.timeout(MAX_SECONDS):
                try:
                    opened = await worker.submit(end.open)
                except (FlatmeshError, OSError) as error:
                    await put("pod", End(own, self.name, problem=one_line(error)))
                    return
                await put("pod", opened)
                ends = usable(read(Targets, await self._next(running, "targets")).ends)
                number = next((n for n, one in enumerate(ends) if one.key == own), None)
                if number is None:
                    return
                await put("sent", await worker.submit(partial(end.probe, ends, number)))
                await self._next(running, "collect")
                await put("arrived", end.arrivals())
                await self._next(running, "")
        except (TimeoutError, CheckOverError):
            pass
        except (FlatmeshError, OSError) as error:
            log.warning("check %s: %s", running.check[:40], error)
        finally:
            await asyncio.shield(self._close(worker, end))

    async def _close(self, worker: Worker, end: OwnEnd) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await worker.submit(end.close)
        except (FlatmeshError, OSError) as error:
            log.warning("the pod of a check is left to the sweep: %s", error)
        finally:
            worker.stop()

    async def _next(self, running: _Running, what: str) -> bytes:
        """Wait for a key. Raises CheckOverError when the request is gone."""
        while True:
            name, value = await running.keys.get()
            if value is None and name == "request":
                raise CheckOverError("over")
            if name == what and value is not None:
                return value

    async def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None and running.task is not None:
            running.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running.task


@contextlib.asynccontextmanager
async def taking_part(settings: Settings) -> AsyncIterator[None]:
    """The daemon's part, inside the block; nothing where leases are not in etcd."""
    if settings.etcd is None:
        yield
        return
    host = PluginHost(settings.run_dir, settings.state_dir, settings.subnet_file)
    name = settings.host_name or socket.gethostname()
    async with background_task(_follow(settings.etcd, host, name), "checks"):
        yield


async def _follow(settings: EtcdSettings, host: PluginHost, name: str) -> None:
    async with connect(settings) as etcd:
        while True:
            try:
                await CheckService(etcd, settings.prefix, host, name, by_daemon=True).follow()
            except EtcdError as error:  # told by who follows the leases
                log.debug("%s", error)
                refused = isinstance(error, EtcdAuthError)
                await asyncio.sleep(AUTH_RETRY_INTERVAL if refused else RETRY_INTERVAL)
