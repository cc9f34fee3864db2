# SPDX-License-Identifier: Apache-2.0
"""One host of the cluster: the loop that keeps it as the leases say.

The loop holds the inputs, and marks controllers dirty; these are applied in threads of their own
(`agent.runner`). Whatever wakes it (a changed lease, a change by another program, the resync
timer, a changed cluster config), it brings the inputs up to date, top to bottom; each step is
skipped while what it needs is missing, and everything already running stays as it is:

    cluster config      the newest that can be used here (`agent.cluster_config.choice`)
    backend             made anew with it
    underlay            which device and addresses peers reach us by
    lease               held, published with current attributes, or acquired: a task of its own
    controllers         marked dirty, each by the changes that it depends on

Etcd may go away at any time: packets are forwarded, pods come and go. Another program that is
stopped stops only the controller that asks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from agent.cluster_config.choice import ConfigChoice
from agent.controller import Change, Controller
from agent.data_plane_owner import DataPlaneOwner
from agent.inputs import HostInputs, ReconcileInputs, masquerades
from agent.kernel_applier import KernelEvents
from agent.leases.lease_grace import LeaseGrace
from agent.leases.occupied import in_use
from agent.leases.previous_lease import previous_lease
from agent.leases.refused_leases import RefusedLeases
from agent.metrics import Metrics
from agent.problems import Problems
from agent.runner import Runner
from agent.services.ingress_support import published_attributes
from agent.settings import Settings
from agent.underlay import find_underlay
from agent.worker import Worker
from backend.protocol import Backend
from base.errors import FlatmeshError
from hostnet.kernel import Kernel
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes
from ipam.lease_claims import IN_USE, ClaimRules, InUse, LeaseClaims, relevant
from ipam.lease_source import LeaseRequest, LeaseSource, Snapshot
from ipam.network import NetworkConfig

log = logging.getLogger("agent")
RETRY_INTERVAL = 2.0
"""Seconds until a step that failed is tried again."""
BUSY_INTERVAL = 0.005  # seconds between two tries to read kernel events that an apply reads, too
CLOCK_INTERVAL = 5.0
"""Seconds between two cheap looks at what nobody tells the changes of."""
HEARTBEAT_INTERVAL = 1.0  # seconds between two signs of life of the event loop, for /healthz


class HostController:
    """The daemon's state: nothing in it that the lease source, the kernel and the disk lack."""

    def __init__(
        self,
        settings: Settings,
        source: LeaseSource,
        controllers: Sequence[Controller[Any]],
        events: Sequence[tuple[KernelEvents, Change]],
        data_plane: DataPlaneOwner,
        reader: Kernel,
        etcd_addresses: Callable[[], Collection[IPv4Address | IPv6Address]] = frozenset,
    ) -> None:
        """Called in the event loop.

        `events` are followed, with the change that each tells of; `reader` reads the underlay,
        in the loop; `etcd_addresses` returns those that are known, at once.
        """
        self.settings = settings
        self.source = source
        self.metrics = Metrics()
        self.last_beat = time.monotonic()
        """When the loop last came round, in monotonic seconds."""
        self.inputs: ReconcileInputs | None = None
        self._events = events
        self._data_plane = data_plane
        data_plane.on_change = self._data_plane_changed
        self._reader = reader
        self._detect = partial(find_underlay, settings, kernel=reader, source=source)
        self._etcd_addresses = etcd_addresses
        self.snapshot: Snapshot | None = None
        """The newest from the source; refused leases are in it, too."""
        self._choice = ConfigChoice(settings, etcd_addresses)
        self._config_changed = asyncio.Event()
        self._underlay: Underlay | None = None
        self._find_underlay = True
        """Whether the underlay may have changed: then it is detected again."""
        self._grace = LeaseGrace()
        self._claims = LeaseClaims()
        self._occupied: tuple[InUse, ...] = ()
        """What this host and etcd use themselves in the cluster's networks."""
        self.refused = RefusedLeases()
        self._problems = Problems(log)
        self._hold_lease = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        workers: dict[str, Worker] = {}
        for controller in controllers:
            workers.setdefault(controller.worker, Worker(controller.worker))
        self._workers = workers
        self._attributes_worker = Worker("lease attributes")
        self.runners = [
            Runner(c, workers[c.worker], self.metrics, lambda: self.inputs, self._applied)
            for c in controllers
        ]
        for runner in self.runners:
            runner.before = self._named(runner.controller.after)
            runner.preferred_before = self._named(runner.controller.preferably_after)
        self._for_pods = [r for r in self.runners if r.controller.required_for_pods]
        more = (self._choice.samples, self.refused.samples)
        self.metrics.follow(self.runners, lambda: [s for samples in more for s in samples()])

    def _named(self, names: Collection[str]) -> list[Runner]:
        return [runner for runner in self.runners if runner.name in names]

    # -- for the CNI server and the health endpoint, from any thread -------------------------

    def problem(self) -> str | None:
        """Why pods can't be served, as one line; None when they can."""
        if not self._served:
            return (
                self._problems.first(("config", "inputs", "lease"))
                or self.source.problem()
                or next((s for r in self._for_pods if (s := r.status())), None)
                or "starting"
            )
        return next((s for r in self._for_pods if (s := r.working())), None)

    def readiness(self) -> str | None:
        """Why not all is as it should be: `problem`, no lease or underlay, a controller fails."""
        broken = self.problem() or self._problems.text("inputs") or self.source.problem()
        return broken or next((s for r in self.runners if (s := r.status())), None)

    def more_lines(self) -> list[str]:
        """What is not as it should be, but keeps no pod from being served."""
        lease = self._problems.text("lease")
        return [*self._choice.lines(), *([lease] if lease else []), *self.refused.lines()]

    @property
    def _served(self) -> bool:
        """Whether all that pods need has been applied once."""
        return all(runner.applied_for is not None for runner in self._for_pods)

    def pods_changed(self) -> threading.Event | None:
        """A pod came or went: told by the CNI server, from any of its threads.

        Returns what is set when the data plane has attached it, where it attaches pods.
        """
        plane = self._data_plane.plane
        if plane is None or not plane.depends_on_pods or self._loop.is_closed():
            return None
        done = threading.Event() if plane.attaches_pods else None
        self._loop.call_soon_threadsafe(self._pods_changed, done)
        return done

    def _pods_changed(self, done: threading.Event | None) -> None:
        for runner in self.runners:
            if done is not None and runner.controller.depends_on & Change.PODS:
                runner.wait_for_next(done)
            runner.mark(Change.PODS, reasons=["pods"])

    def _data_plane_changed(self) -> None:
        """Another program changed what the data plane made. From any thread."""
        if not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.changed, Change.DATA_PLANE, ["data plane"])

    # -- the loop ------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled; ends within seconds, whatever hangs."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_leases(), name="follow leases")
                tasks.create_task(self._follow_config(), name="follow config")
                tasks.create_task(self._keep_lease(), name="keep lease")
                tasks.create_task(self._resync(), name="resync")
                tasks.create_task(self._beat(), name="heartbeat")
                tasks.create_task(self._tick(), name="clock")
                for events, change in self._events:
                    tasks.create_task(self._follow_kernel(events, change), name="follow kernel")
                for runner in self.runners:
                    tasks.create_task(runner.run(), name=runner.controller.name)
        finally:
            for runner in self.runners:
                runner.release_waiting()
            await asyncio.gather(self.source.close(), *(r.close() for r in reversed(self.runners)))
            for worker in (*self._workers.values(), self._attributes_worker, self._choice.worker):
                worker.stop()

    async def _follow_leases(self) -> None:
        async for snapshot in self.source.snapshots():
            last, self.snapshot = self.snapshot, snapshot
            if last is None or not last.has_config_of(snapshot):
                self._config_changed.set()
            self._grace.update(snapshot.expired, snapshot.released, time.monotonic())
            self._take_leases(snapshot.changed | snapshot.released)
            if self._concerns_us(snapshot):
                self._bring_up_to_date()

    def _concerns_us(self, snapshot: Snapshot) -> bool:
        """Whether more than other hosts' leases changed, as far as we know."""
        if self.inputs is None or self._find_underlay:
            return True
        changed = snapshot.changed | snapshot.released
        ours = self.inputs.host.own.key
        return not changed or ours in changed or self.source.problem() is not None

    async def _follow_kernel(self, events: KernelEvents, change: Change) -> None:
        readable = asyncio.Event()
        descriptor = events.fileno()

        def stop_waiting() -> None:
            self._loop.remove_reader(descriptor)  # else it is called until all is drained
            readable.set()

        try:
            while True:
                readable.clear()
                self._loop.add_reader(descriptor, stop_waiting)
                await readable.wait()
                reasons = events.drain()
                if reasons is None:  # an apply runs, and reads them at its end
                    await asyncio.sleep(BUSY_INTERVAL)
                elif reasons:
                    self._find_underlay = True
                    self.changed(change, reasons)
                    self._bring_up_to_date()
        finally:
            self._loop.remove_reader(descriptor)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.settings.resync)
            self.compare_everything("resync")

    def compare_everything(self, why: str) -> None:
        """Detect the underlay anew, and have all that should be there compared. In the loop."""
        self._find_underlay = True
        self._take_leases(frozenset())
        for runner in self.runners:
            runner.mark_whole(why)
        self._bring_up_to_date()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_INTERVAL)
            self.changed(Change.CLOCK, ["clock"])
            if any(refusal.reason == IN_USE for refusal in self._claims.refused.values()):
                self._find_underlay = True  # what was in the way may be gone
                self._bring_up_to_date()

    async def _beat(self) -> None:
        while True:
            self.last_beat = time.monotonic()
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def changed(self, change: Change, reasons: list[str]) -> None:
        """Mark the controllers that depend on a change. In the event loop."""
        for runner in self.runners:
            runner.mark(change, reasons=reasons)

    def _applied(self, runner: Runner) -> None:
        for other in self.runners:
            if runner in other.before:
                other.wake()

    # -- the inputs ----------------------------------------------------------------------

    def _take_leases(self, changed: frozenset[str]) -> None:
        """Take in the leases to serve; those in their grace period are among them."""
        if self.snapshot is None:
            return
        kept = set(self._grace.kept)
        leases = self._grace.serve(self.snapshot.leases, time.monotonic())
        keys = changed | (kept ^ set(self._grace.kept))
        if self.inputs is not None:
            served, differs = self._judged(leases, keys, self.inputs.host.config)
            self.inputs = replace(self.inputs, leases=served)
            keys |= differs
            for runner in self.runners if keys else ():
                runner.mark(Change.LEASES, keys=keys)

    def _judged(
        self,
        leases: Mapping[str, Lease],
        changed: Collection[str],
        config: NetworkConfig,
        own: Lease | None = None,
    ) -> tuple[Mapping[str, Lease], frozenset[str]]:
        """The leases to serve, and the keys of those that are served now or no longer are."""
        own = own or (self.inputs.host.own if self.inputs is not None else None)
        rules = ClaimRules(config, own, self._occupied)
        served, differs = self._claims.take(leases, changed, rules)
        self.refused.report(self._claims.refused)
        return served, differs

    def _bring_up_to_date(self) -> None:
        """The underlay, then the lease. Tries again later when it fails."""
        config = self._choice.config
        if config is None:
            return
        try:
            if self._find_underlay or self._underlay is None:
                before = self._underlay
                self._underlay = self._detect(config, before=before)
                self._find_underlay = False
                self._read_occupied(config)
                if before is not None and before.addresses != self._underlay.addresses:
                    self.source.connect_anew()
        except (FlatmeshError, OSError) as problem:
            self._problems.report("inputs", str(problem))
            self._try_again()
        else:
            self._problems.clear("inputs")
        self._hold_lease.set()

    def _read_occupied(self, config: NetworkConfig) -> None:
        """Judge the leases again when this host's own networks have changed."""
        found = relevant(config, in_use(self._reader, self._etcd_addresses()))
        if found != self._occupied:
            self._occupied = found
            self._take_leases(frozenset())

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._find_underlay = True
        self._retry = self._loop.call_later(RETRY_INTERVAL, self._bring_up_to_date)

    async def _follow_config(self) -> None:
        """Take the newest cluster config; one that can't be used now is tried again."""
        while True:
            await self._config_changed.wait()
            self._config_changed.clear()
            assert self.snapshot is not None  # noqa: S101 - it came before the event
            if (problem := await self._choice.follow(self.snapshot, self._detect)) is None:
                self._problems.clear("config")
            else:
                self._problems.report("config", problem)
                self._loop.call_later(self._choice.retry_interval, self._config_changed.set)
            self._find_underlay = True
            self._bring_up_to_date()

    async def _keep_lease(self) -> None:
        while True:
            await self._hold_lease.wait()
            self._hold_lease.clear()
            config, backend, underlay = self._choice.config, self._choice.backend, self._underlay
            if config is None or backend is None or underlay is None:
                continue
            request = LeaseRequest(
                config,
                underlay.public_ip,
                underlay.public_ipv6,
                partial(self._attributes, backend, underlay),
                previous_lease(self.settings.subnet_file) if self.inputs is None else None,
            )
            try:
                own = await self.source.hold(request)
            except (FlatmeshError, OSError) as problem:
                self._problems.report("lease", str(problem))
                self._loop.call_later(RETRY_INTERVAL, self._hold_lease.set)
                continue
            self._problems.clear("lease")
            self._take_own(backend, config, own, underlay)

    def _attributes(
        self, backend: Backend, underlay: Underlay, previous: LeaseAttributes | None
    ) -> Awaitable[LeaseAttributes]:
        """What our lease should say. In a thread: WireGuard's key goes to its process before."""
        wanted = partial(published_attributes, backend, underlay, previous)
        return self._attributes_worker.submit(wanted)

    def _take_own(
        self, backend: Backend, config: NetworkConfig, own: Lease, underlay: Underlay
    ) -> None:
        host = HostInputs(backend, config, own, underlay, masquerades(self.settings, config))
        if self.snapshot is None or (self.inputs is not None and self.inputs.host == host):
            return
        leases = self._grace.serve(self.snapshot.leases, time.monotonic())
        served, _ = self._judged(leases, (), config, own)
        self.inputs = ReconcileInputs(host, served)
        for runner in self.runners:
            runner.mark_whole()
