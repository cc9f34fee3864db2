# SPDX-License-Identifier: Apache-2.0
"""The leader's loop: what changed -> plans (pure) -> placement (pure) -> fenced writes.

Level-triggered: an event only says which places of which service to plan anew. Own writes are
applied to the view at once, so the next plan sees them. At most `MAX_NEW` tasks are made in one
round, so that the first tasks of a large service start before the last ones are placed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scheduler.manager.changes import Change, Create, Forget, Plan, Rewrite, Stop
from scheduler.manager.grants import Grants
from scheduler.manager.network.documents import drain_seconds
from scheduler.manager.network.publisher import Publisher
from scheduler.manager.plan_service import Nodes, plan_removed, plan_service
from scheduler.manager.slots import Context
from scheduler.manager.tracker import Tracker
from scheduler.manager.writer import Write, Writer
from scheduler.model.service import Service, ServiceSpec
from scheduler.model.task import Task, TaskState
from scheduler.placement.demand import Demand
from scheduler.placement.filters import CONSTRAINTS, refused_for_its_tasks, refused_for_what_it_is
from scheduler.placement.place import place
from scheduler.store import codec
from scheduler.store.documents import new_id, timestamp
from scheduler.store.keys import Keys
from scheduler.store.view import ClusterView

COALESCE = 0.002  # seconds to let a burst of events become one round
MAX_NEW = 1000  # tasks of a round
MAX_PLANNING = 0.1  # seconds of a round; the leader's lease is renewed by the same event loop
RETRY = 0.25  # seconds between two searches for nodes with room
LOOK_INTERVAL = 5.0  # seconds; everything that waits for a time is looked at so often at least

NoRoom = dict[Demand, str]
"""Reasons for demands that found no node in this round: those of other services need not look."""

log = logging.getLogger("scheduler.manager")


@dataclass(slots=True)
class Leader:
    """What one leader knows and does, from its election to its end."""

    writer: Writer
    tracker: Tracker
    keys: Keys
    publisher: Publisher
    network_writer: Writer
    grants: Grants
    rebalance: bool = False
    history: int = 5
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the view is being changed in steps."""
    created: int = 0
    """Tasks made by this leader."""
    _timers: dict[str, float] = field(default_factory=dict)
    """When a service is to be planned anew although nothing happened."""
    _next_retry: float = 0.0
    _backlog: dict[str, list[Create]] = field(default_factory=dict)
    """Tasks that a plan wants, and that did not fit into the round."""

    @property
    def view(self) -> ClusterView:
        """The cluster as it is known."""
        return self.tracker.view

    async def run(self) -> None:
        """Reconcile for ever. Raises NotLeadingError, EtcdError."""
        while True:
            await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._sleep()):
                    await self.woken.wait()
            self.woken.clear()
            await asyncio.sleep(COALESCE)

    def _sleep(self) -> float:
        if self.tracker.dirty or self._backlog:
            return 0.0
        times = [time.monotonic() + LOOK_INTERVAL, *self._timers.values()]
        if self.tracker.room_changed and self.view.tasks_on(""):
            times.append(self._next_retry)
        silence = self.tracker.next_silence()
        if silence is not None:
            times.append(silence)
        return max(min(times) - time.monotonic(), 0.0)

    async def _round(self) -> None:
        async with self.quiet:
            writes = self._decide(time.monotonic())
        if writes:
            await self.writer.commit(writes)
        published = self.publisher.writes()
        if published:
            await self.network_writer.commit(published)

    def _decide(self, now: float) -> list[Write]:
        for service_id in [one for one, due in self._timers.items() if due <= now]:
            del self._timers[service_id]
            self.tracker.mark(service_id, None)
        self.tracker.spread_changes_of_nodes(rebalance=self.rebalance)
        writes, new = self._plan_dirty(now)
        room_changed = self.tracker.room_changed
        return writes + self._place(new, now) + self.grants.writes(room_changed=room_changed)

    # -- planning ----------------------------------------------------------------------

    def _plan_dirty(self, now: float) -> tuple[list[Write], list[Task]]:
        writes: list[Write] = []
        new: list[Task] = []
        dirty = self.tracker.dirty
        while self._backlog and len(new) < MAX_NEW:
            service_id, changes = self._backlog.popitem()
            if dirty.get(service_id, ()) is not None and service_id in self.view.services:
                self._create(service_id, changes, new)  # else all of it is planned anew
        while dirty and len(new) < MAX_NEW and time.monotonic() < now + MAX_PLANNING:
            service_id, places = dirty.popitem()
            plan = self._plan(service_id, places, now)
            if plan.wake is not None:
                due = self._timers.get(service_id, plan.wake)
                self._timers[service_id] = min(due, plan.wake)
            creates = []
            for change in plan.changes:
                if isinstance(change, Create):
                    creates.append(change)
                else:
                    writes += self._write(change)
            self._create(service_id, creates, new)
        return writes, new

    def _create(self, service_id: str, changes: list[Create], new: list[Task]) -> None:
        """Make tasks as far as the round has room; the rest waits for the next one."""
        room = max(MAX_NEW - len(new), 0)
        new += [self._new_task(service_id, change) for change in changes[:room]]
        if changes[room:]:
            self._backlog[service_id] = changes[room:]

    def _plan(self, service_id: str, places: set[str] | None, now: float) -> Plan:
        known = self.tracker.places_of(service_id)
        there = {place: tasks.values() for place, tasks in known.items()}
        service = self.view.services.get(service_id)
        if not service_id:
            return Plan(list(self._container_tasks(known)))
        gone = Service(id=service_id, spec=ServiceSpec())
        context = Context(
            service or gone,
            self.view.statuses,
            self.tracker.node_health,
            self.tracker.seen,
            now,
            drain_seconds(service) if service is not None else 0.0,
            self.history,
        )
        if service is None:
            return plan_removed(there, context)
        return plan_service(
            there,
            context,
            self._nodes_for(service),
            timestamp(),
            only=places,
            growing=service_id in self._backlog,
            rebalance=self.rebalance,
        )

    def _container_tasks(self, places: dict[str, dict[str, Task]]) -> Iterable[Change]:
        """Tasks without a service: nothing is started again; what is to be removed goes."""
        for tasks in places.values():
            for task in tasks.values():
                status = self.view.statuses.get(task.id)
                ended = status is not None and status.state.ended
                gone = bool(task.node) and task.node not in self.view.nodes
                if gone or (task.desired is TaskState.REMOVE and (ended or not task.node)):
                    yield Forget(task)

    def _nodes_for(self, service: Service) -> Nodes:
        table = self.tracker.table
        sample = Task("", service.id, 0, service.spec_version)
        demand = self.tracker.demand(sample) or Demand(service.id)

        def keeps(node_id: str) -> bool:
            node = table.nodes.get(node_id)
            if node is None or node.availability == "drain":
                return False
            return not node.ready or (refused_for_what_it_is(node, demand.filter) != CONSTRAINTS)

        def takes(node_id: str) -> bool:
            node = table.nodes.get(node_id)
            return (
                node is not None
                and refused_for_what_it_is(node, demand.filter) is None
                and refused_for_its_tasks(node, demand) is None
            )

        return Nodes(keeps, takes, table.nodes)

    def _new_task(self, service_id: str, change: Create) -> Task:
        service = self.view.services[service_id]
        place_name = str(change.slot) if change.slot else change.node
        others = self.tracker.places_of(service_id).get(place_name, {}).values()
        newest = max((task.created for task in others), default=0.0)
        self.created += 1
        task = Task(
            new_id(),
            service_id,
            change.slot,
            service.spec_version,
            change.node,
            created=max(time.time(), newest + 0.001),  # "newest" holds though clocks jump
            attempt=change.attempt,
        )
        demand = self.tracker.demand(task)
        return replace(task, host_ports=demand.ports) if demand and demand.ports else task

    # -- writes ------------------------------------------------------------------------

    def _write(self, change: Change) -> list[Write]:
        match change:
            case Stop(task, reason, desired, at_once):
                return self._stop(task, reason, desired, at_once=at_once)
            case Forget(task):
                delete = [self._key(task), self.keys.status(task.node, task.id)]
                if not task.service:
                    delete += [self.keys.container_spec(task.id)]
                    delete += [self.keys.name("container", task.name)] if task.name else []
                return [Write(delete=tuple(delete))]
            case Rewrite(service):
                key = self.keys.service(service.id)
                version = self.view.version(key)
                changed = Write({key: codec.encode(service)}, unchanged={key: version})
                return [changed, *self._unused_specs(service)]
        return []

    def _unused_specs(self, service: Service) -> list[Write]:
        """Templates that no task has any more go, once an update is completed."""
        status = service.update_status
        if status is None or not status.state.endswith("completed"):
            return []
        used = {task.spec_version for task in self.view.tasks_of(service.id).values()}
        used |= {service.spec_version, service.previous_spec_version}
        return [
            Write(delete=(self.keys.spec(service.id, number),))
            for of, number in self.view.specs
            if of == service.id and number not in used and number < max(used)
        ]

    def _stop(self, task: Task, reason: str, desired: TaskState, *, at_once: bool) -> list[Write]:
        if not task.node:
            return [Write(delete=(self.keys.pending(task.id),))]
        status = self.view.statuses.get(task.id)
        service = self.view.services.get(task.service)
        drains = service is not None and drain_seconds(service) > 0
        if not at_once and drains and status is not None and status.serves:
            changed = replace(task, draining=True, reason=reason)
        else:
            changed = replace(task, desired=desired, draining=True, reason=reason)
        if changed == task:
            return []
        return [Write({self._key(task): codec.encode_task(changed)})]

    def _key(self, task: Task) -> str:
        return self.keys.task(task.node, task.id) if task.node else self.keys.pending(task.id)

    # -- placement ---------------------------------------------------------------------

    def _place(self, new: list[Task], now: float) -> list[Write]:
        """Choose nodes for new tasks and, where nodes may have room now, for those that wait."""
        waiting: list[Task] = []
        if self.tracker.room_changed and now >= self._next_retry:
            self.tracker.room_changed = False
            self._next_retry = now + RETRY
            waiting = [
                task
                for task in self.view.tasks_on("").values()
                if task.desired is TaskState.RUNNING
            ]
        groups: dict[tuple[str, int], list[Task]] = defaultdict(list)
        writes = []
        for task in (*waiting, *new):
            if task.node:  # of a global service
                writes.append(self._assigned(task, task.node, was_pending=False))
            else:
                key = (task.service, task.spec_version) if task.service else (task.id, 0)
                groups[key].append(task)
        no_room: NoRoom = {}
        for tasks in groups.values():
            writes += self._place_group(tasks, no_room)
        return writes

    def _place_group(self, tasks: list[Task], no_room: NoRoom) -> list[Write]:
        first = tasks[0]
        demand = self.tracker.demand(first)
        if demand is None:
            return self._unplaced(tasks, "its spec is missing, or can't be read")
        wanted = self.tracker.avoiding_failures(first.service, first.spec_version, demand)
        kind = replace(demand, service="") if not demand.max_replicas else demand
        if kind in no_room:
            return self._unplaced(tasks, no_room[kind])
        placed = place(self.tracker.table, wanted, len(tasks))
        if placed.reason:
            no_room[kind] = placed.reason
        writes = []
        for task, node in zip(tasks, placed.nodes, strict=False):
            self.tracker.placed(task.id, node, demand)
            writes.append(self._assigned(task, node.id, was_pending=bool(task.version)))
        return writes + self._unplaced(tasks[len(placed.nodes) :], placed.reason)

    def _assigned(self, task: Task, node: str, *, was_pending: bool) -> Write:
        value = codec.encode_task(replace(task, node=node, reason=""))
        pending = (self.keys.pending(task.id),) if was_pending else ()
        return Write({self.keys.task(node, task.id): value}, pending)

    def _unplaced(self, tasks: Iterable[Task], reason: str) -> list[Write]:
        return [
            Write({self.keys.pending(task.id): codec.encode_task(replace(task, reason=reason))})
            for task in tasks
            if not task.version or task.reason != reason
        ]
