"""One host of the cluster: the loop that keeps it as the leases say.

The loop is level-triggered. Whatever wakes it (a changed lease, netlink noise, the resync
timer, a changed cluster config) it does the same `turn`: look at what is wanted, make it so.
It never reacts *to* an event, so a missed, doubled or reordered one does no harm.

A turn, top to bottom; each step is skipped while what it needs is missing, and everything
already running stays as it is:

    cluster config      read with the lease snapshot; a broken one is reported, the last good kept
    underlay            which device and addresses peers reach us by
    backend             made anew when the config changed
    lease               held, published with current attributes, or acquired
    desired state       from all leases; first dump and diff, then differences only
    files               subnet.env for the CNI plugins, `ready` for whoever waits

Etcd may go away at any time: the kernel keeps forwarding, pods come and go, and the lease
view catches up when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.backends import make_backend
from agent.departed import Departed
from agent.desired import DesiredState, Situation, masquerades
from agent.lease_keeper import LeaseKeeper
from agent.lease_memory import LeaseMemory
from agent.metrics import Metrics
from agent.settings import Settings
from agent.underlay import find_underlay
from backend.protocol import Backend, DataPlane
from etcd.client import EtcdError
from hostnet.apply import Outcome, reconcile
from hostnet.events import Monitor
from hostnet.kernel import Kernel
from hostnet.state import HostState
from hostnet.underlay import Underlay
from hostnet.underlay_detect import UnderlayError
from ipam.lease import Lease, PeerUnusableError
from ipam.lease_view import LeaseView, Snapshot
from ipam.network import ConfigError, NetworkConfig
from ipam.registry import LeaseLostError, NoFreeSubnetError, Registry
from ipam.subnet_env import SubnetEnv, SubnetEnvError

log = logging.getLogger("agent")
SETTLE = 0.02  # seconds to let a burst of netlink events or leases come together
MAX_REASONS = 3  # named in the log
MANY = 20  # changes of a data plane beyond which the log gives their number only
PLUG_PATIENCE = 5.0  # seconds that an ADD waits for a switch to take the pod
RETRY = 2.0  # seconds until a step that failed is tried again


@dataclass(slots=True)
class Node:
    """The daemon's state: nothing in it that etcd, the kernel and the disk don't tell again."""

    settings: Settings
    registry: Registry
    kernel: Kernel
    monitor: Monitor
    metrics: Metrics = field(default_factory=Metrics)
    snapshot: Snapshot | None = None
    config: NetworkConfig | None = None
    underlay: Underlay | None = None
    backend: Backend | None = None
    data_plane: DataPlane | None = None
    desired: DesiredState | None = None
    departed: Departed = field(default_factory=Departed)
    keeper: LeaseKeeper = field(init=False)
    last_turn: float = field(default_factory=time.monotonic)
    _changed: set[str] = field(default_factory=set)
    """Lease keys that changed since they were last programmed."""
    _look: bool = True
    """Whether the kernel must be dumped: at start, on netlink events, on resync, after errors."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _reasons: list[str] = field(default_factory=lambda: ["start"])
    """Why the kernel is looked at, for the log."""
    _said: dict[str, str] = field(default_factory=dict)
    _waiting: list[threading.Event] = field(default_factory=list)
    """Set when the turn that follows has ended."""
    _retry: asyncio.TimerHandle | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    def __post_init__(self) -> None:
        """Wire the lease keeper to the loop."""
        memory = LeaseMemory(self.settings.state_dir / "lease.json")
        self.keeper = LeaseKeeper(self.registry, self.settings.lease_ttl, memory, self._wake.set)
        self.metrics.follow_data_plane(lambda: self.data_plane)

    # -- for the CNI server and the health endpoint ------------------------------------

    def problem(self) -> str | None:
        """Why pods can't be served, as one line; None when they can."""
        if self.desired is None:
            return self._said.get("turn") or self.keeper.problem or "starting"
        if self.data_plane is not None and (problem := self.data_plane.problem()):
            return problem
        return None

    # -- the loop ----------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled."""
        view = LeaseView(self.registry)
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_leases(view))
                tasks.create_task(self._follow_kernel())
                tasks.create_task(self._resync())
                tasks.create_task(self._turn_for_ever())
        finally:
            await self.keeper.close()
            if self.data_plane is not None:
                self.data_plane.close()
            (self.settings.run_dir / "ready").unlink(missing_ok=True)

    async def _follow_leases(self, view: LeaseView) -> None:
        async for snapshot in view:
            self.snapshot = snapshot
            self._changed |= snapshot.changed | snapshot.released
            self.departed.note(snapshot.expired, snapshot.released, time.monotonic())
            self._wake.set()

    async def _follow_kernel(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.monitor.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                if reasons := self.monitor.drain():
                    self.look_again(*reasons)
        finally:
            loop.remove_reader(self.monitor.fileno())

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self.settings.resync)
            self.look_again("resync")

    def look_again(self, *reasons: str) -> None:
        """Dump and diff in the next turn."""
        self._look = True
        self._reasons += reasons[: MAX_REASONS - len(self._reasons)]
        self._wake.set()

    def pods_changed(self) -> None:
        """A pod came or went: told by the CNI server, from any of its threads."""
        plane = self.data_plane
        if plane is None or not plane.depends_on_pods or self._loop is None:
            return
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._look_for_pods, done)
        if plane.attaches_pods:
            done.wait(PLUG_PATIENCE)  # a pod that starts before it is plugged in finds no network

    def _look_for_pods(self, done: threading.Event) -> None:
        self._waiting.append(done)
        self._wake.set()

    def _data_plane_changed(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.look_again, "data plane")

    async def _turn_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            if self._look:
                await asyncio.sleep(SETTLE)
            self._wake.clear()
            self.last_turn = time.monotonic()
            waiting, self._waiting = self._waiting, []
            try:
                await self.turn()
            except (
                ConfigError,
                EtcdError,
                LeaseLostError,
                NoFreeSubnetError,
                PeerUnusableError,
                UnderlayError,
                OSError,
            ) as problem:
                self._say("turn", str(problem), log.error)
                self._try_again()
            else:
                self._said.pop("turn", None)
            finally:
                for done in waiting:
                    done.set()

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY, self.look_again)

    # -- one turn ----------------------------------------------------------------------

    async def turn(self) -> None:
        """Make the host as the leases say. Raises what keeps it from that."""
        situation = await self.situation()
        if situation is None or self.snapshot is None:
            return
        kept = set(self.departed.kept)
        leases = self.departed.serve(self.snapshot.leases, time.monotonic())
        changed = self._changed | (kept ^ set(self.departed.kept))
        self._changed = set()
        started = time.perf_counter()
        delta: tuple[HostState, HostState] | None = None
        if self.desired is None or self.desired.situation != situation or self._look:
            self.desired = DesiredState(situation)
            self.desired.update(leases, leases)
        else:
            delta = self.desired.update(leases, changed)
        self._report_unusable(self.desired.unusable)
        try:
            self._program(self.desired, delta, started)
        except BaseException:
            self._changed |= changed
            self._look = True
            raise
        self._publish_files(situation)

    async def situation(self) -> Situation | None:
        """Everything but the peers; None while the cluster has no config we can use."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        self._take_config(snapshot)
        if self.config is None:
            return None
        if self._look or self.underlay is None:
            before, self.underlay = self.underlay, self._find_underlay(self.config)
            if before is not None and before.addresses != self.underlay.addresses:
                self.registry.etcd.renew_connection()
        if self.backend is None:
            self.backend = make_backend(self.config, self.settings.state_dir, self.settings.run_dir)
        backend, underlay = self.backend, self.underlay
        own = await self.keeper.ensure(
            snapshot.leases,
            self.config,
            underlay,
            lambda previous: backend.attributes(underlay, previous),
            self._last_lease(),
        )
        return Situation(
            backend, self.config, own, underlay, masquerades(self.settings, self.config)
        )

    def _take_config(self, snapshot: Snapshot) -> None:
        if snapshot.config is None:
            kept = "; the last good one stays in force" if self.config is not None else ""
            self._say("config", f"{snapshot.config_error}{kept}", log.error)
            return
        self._said.pop("config", None)
        if snapshot.config == self.config:
            return
        if self.config is not None:
            log.info("the cluster config has changed")
        self.config = snapshot.config
        self._change_backend()

    def _change_backend(self) -> None:
        old_plane, old_backend = self.data_plane, self.backend
        self.backend = self.data_plane = None
        self._look = True
        if old_plane is None or old_backend is None or self.config is None:
            return
        same = old_backend.name == self.config.backend_type
        if same and old_plane.keeps_state_outside:
            old_plane.close()
        else:
            old_plane.cleanup()

    def _find_underlay(self, config: NetworkConfig) -> Underlay:
        return find_underlay(self.settings, config, self.kernel)

    def _program(
        self,
        desired: DesiredState,
        delta: tuple[HostState, HostState] | None,
        started: float,
    ) -> None:
        situation = desired.situation
        if self.data_plane is None:
            self.data_plane = situation.backend.data_plane()
            if self.data_plane is not None:
                self.data_plane.watch(self._data_plane_changed)
        peers = list(desired.peers.values())
        if self.data_plane is not None:
            if delta is None:
                self.data_plane.mark_dirty()
            self.data_plane.prepare(situation.own, situation.underlay)
        if delta is None:
            outcome = reconcile(desired.whole(), self.kernel)
        else:
            outcome = reconcile(delta[1], self.kernel, delta_of=delta[0])
        lines = []
        if self.data_plane is not None:
            lines = self.data_plane.reconcile(situation.own, peers, situation.underlay)
        for line in lines if len(lines) <= MANY else [f"{len(lines)} changes, first {lines[0]}"]:
            log.info("%s", line)
        kind = "whole" if delta is None else "delta"
        self.metrics.reconciles.labels(kind).observe(time.perf_counter() - started)
        self.metrics.peers.set(len(peers))
        self.metrics.unusable.set(len(desired.unusable))
        self._report(outcome, len(lines), started)
        if reasons := self.monitor.settle(outcome.plans):
            self.look_again(*reasons)

    def _report(self, outcome: Outcome, elsewhere: int, started: float) -> None:
        """`elsewhere` is how many changes the data plane made."""
        if made := outcome.changes + elsewhere:
            took = (time.perf_counter() - started) * 1e3
            log.info("made %d changes in %.1f ms (%s)", made, took, self._why())
            for line in outcome.lines() if log.isEnabledFor(logging.DEBUG) else ():
                log.debug("%s", line)
        self._reasons.clear()
        self.metrics.changes.inc(outcome.changes + elsewhere)
        self.metrics.errors.inc(len(outcome.failures))
        for failure in outcome.failures:
            self._say(f"kernel {failure.line}", str(failure), log.error)
        self._look = bool(outcome.failures)
        if outcome.failures:
            self._try_again()

    def _why(self) -> str:
        return ", ".join(self._reasons) or "leases changed"

    def _report_unusable(self, unusable: dict[str, str]) -> None:
        for key, reason in unusable.items():
            self._say(f"peer {key}", reason, log.warning)

    def _say(self, topic: str, text: str, how: Callable[[str, str], None]) -> None:
        """Log once until it changes: a cause that lasts must not fill the disk."""
        if self._said.get(topic) != text:
            self._said[topic] = text
            how("%s", text)

    # -- files -------------------------------------------------------------------------

    def _last_lease(self) -> Lease | None:
        """The subnets of the last run, from subnet.env; None when it says nothing usable."""
        with contextlib.suppress(OSError, SubnetEnvError):
            env = SubnetEnv.read(self.settings.subnet_file)
            v4 = env.subnet.network if env.subnet else None
            v6 = env.ipv6_subnet.network if env.ipv6_subnet else None
            return Lease(v4, v6)
        return None

    def _publish_files(self, situation: Situation) -> None:
        env = SubnetEnv.of(
            situation.config,
            situation.own,
            mtu=situation.backend.mtu(situation.underlay),
            ip_masq=situation.ip_masq,
        )
        path = self.settings.subnet_file
        current = None
        with contextlib.suppress(OSError, SubnetEnvError):
            current = SubnetEnv.read(path)
        if current != env:
            env.write(path)
            log.info("wrote %s", path)
        ready = self.settings.run_dir / "ready"
        if not ready.exists():
            ready.write_text(f"{os.getpid()}\n")
            log.info("ready: pods can be served")
