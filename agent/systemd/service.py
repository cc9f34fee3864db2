# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service of systemd: Type=notify, a watchdog, `systemctl reload`.

- READY=1 is sent when pods can be served for the first time, as `/readyz` and the file `ready`
  understand it. Until then each beat extends the start's time-out: a daemon that waits for etcd
  is not killed, one whose event loop hangs is.
- WATCHDOG=1 comes from the event loop, so it stays away while the loop hangs. A controller that
  hangs in its thread does not stop it: that is reported, and hinders no other.
- STATUS= is what `systemctl status` shows: why pods can't be served, or what else is not right.
- SIGHUP (`systemctl reload`, also without systemd): connect to etcd with the TLS files and the
  password as they are now, detect the underlay anew and compare everything with the kernel. Flags
  and variables are those of the start.
"""

from __future__ import annotations

import asyncio
import logging
import time

from agent.inputs import ReconcileInputs
from agent.loop import HostController
from agent.systemd.notify import NotifySocket
from agent.worker import Worker
from base.errors import FlatmeshError

BEAT_INTERVAL = 10.0
"""Seconds between two signs of life, unless the watchdog wants them more often."""
BEATS_PER_TIMEOUT = 3
"""Signs of life within the time that systemd waits for one: two may be late."""
START_EXTENSION = 60_000_000
"""Microseconds that a start may take after the last sign of life."""
STATUS_INTERVALS = (0.2, 2.0)
"""Seconds between two looks at the status: until it is ready, and from then on."""
RELOAD_TIMEOUT = 20.0
"""Seconds that a reload waits for etcd, and then for the controllers."""

log = logging.getLogger("agent")


class Service:
    """Tells systemd how the daemon is. Used from the event loop."""

    def __init__(self, manager: NotifySocket, host: HostController) -> None:
        self._manager = manager
        self._host = host
        self._ready = False
        """Whether READY=1 has been sent."""
        self._reloaded = False
        """Whether systemd waits for the READY=1 that ends a reload."""
        self._status = ""
        self._reload = asyncio.Event()
        self._worker = Worker("service status")

    def reload(self) -> None:
        """Ask for a reload; the handler of SIGHUP."""
        self._reload.set()

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reload_when_asked(), name="reload")
                if self._manager.address is not None:
                    tasks.create_task(self._beat(), name="signs of life")
                    tasks.create_task(self._follow_status(), name="service status")
        finally:
            self._manager.tell("STOPPING=1", "STATUS=stopping; packets flow on")
            self._worker.stop()

    async def _beat(self) -> None:
        watchdog = self._manager.watchdog
        interval = BEAT_INTERVAL if watchdog is None else watchdog / BEATS_PER_TIMEOUT
        while True:
            starting = () if self._ready else (f"EXTEND_TIMEOUT_USEC={START_EXTENSION}",)
            self._manager.tell("WATCHDOG=1", *starting)
            await asyncio.sleep(min(interval, BEAT_INTERVAL))

    async def _follow_status(self) -> None:
        while True:
            await self._tell_status()
            await asyncio.sleep(STATUS_INTERVALS[self._ready])

    async def _tell_status(self) -> None:
        problem, other = await self._worker.submit(lambda: _asked(self._host))
        if problem is not None:
            status = f"{'pods are not served' if self._ready else 'waiting'}: {problem}"
        else:
            status = f"{_summary(self._host.inputs)}; " + (other or "all is as it should be")
        lines = [] if status == self._status else [f"STATUS={' '.join(status.split())}"]
        becomes_ready = problem is None and not self._ready
        if becomes_ready or self._reloaded:
            lines.append("READY=1")
        if lines and self._manager.tell(*lines):  # else the next look tells it
            self._status = status
            self._ready |= becomes_ready
            self._reloaded = False

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            # with Type=notify-reload (systemd 253) systemd wants to know when it began
            now = time.monotonic_ns() // 1000
            self._manager.tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")
            self._status = ""
            problem = await self._look_again()
            if problem is None:
                log.info("reloaded: TLS files and password of etcd, underlay, kernel")
            else:
                log.warning("reloaded, but %s", problem)
            self._reloaded = self._ready
            if self._manager.address is not None:
                await self._tell_status()

    async def _look_again(self) -> str | None:
        """Read and compare everything; returns what went wrong."""
        problem = None
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                self._host.source.connect_anew()
                await self._host.source.check()
        except TimeoutError:
            problem = f"etcd has not answered for {RELOAD_TIMEOUT:.0f} s"
        except FlatmeshError as error:
            problem = str(error)
        self._host.compare_everything("reload")
        if not self._ready:
            return problem
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT):
                for runner in self._host.runners:
                    await runner.caught_up()
        except TimeoutError:
            problem = problem or f"not all is compared yet after {RELOAD_TIMEOUT:.0f} s"
        return problem


def _summary(inputs: ReconcileInputs | None) -> str:
    if inputs is None:
        return "no lease"
    host = inputs.host
    subnets = [str(s) for s in (host.own.subnet, host.own.ipv6_subnet) if s is not None]
    peers = sum(map(host.is_peer, inputs.leases.values()))
    return f"{host.config.backend_type}, lease {' '.join(subnets)}, {peers} peers"


def _asked(host: HostController) -> tuple[str | None, str | None]:
    return host.problem(), host.readiness()
