# SPDX-License-Identifier: Apache-2.0
"""What the leader derives from the view as it changes: what to plan anew, and what nodes have left.

It listens to the view; everything here can be made anew from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic

from scheduler.errors import SpecError
from scheduler.manager.rebalance import wants_rebalance
from scheduler.manager.seen import Seen
from scheduler.manager.slots import DOWN, GONE, LEAVE, READY
from scheduler.model.task import Task, TaskState
from scheduler.placement.demand import Demand, demand_of
from scheduler.placement.filters import CONSTRAINTS, refused_for_what_it_is
from scheduler.placement.node_state import NodeState
from scheduler.placement.node_table import NodeTable
from scheduler.store.view import ClusterView

GRACE = 2.0  # seconds; a worker that starts again is back by then
MOST_SILENT = 30.0  # seconds; of five nodes or more most are silent: is it etcd or the fabric?
FAILURE_MEMORY = 600.0  # seconds; so long a node on which a template failed is the last choice

Failure = tuple[int, float]
"""How often, and when the last time."""


@dataclass(slots=True)
class Tracker:
    """Derived state; `dirty` is emptied by the leader."""

    view: ClusterView
    table: NodeTable = field(default_factory=NodeTable)
    seen: Seen = field(default_factory=Seen)
    places: dict[str, dict[str, dict[str, Task]]] = field(default_factory=dict)
    """Tasks by service, place and id."""
    dirty: dict[str, set[str] | None] = field(default_factory=dict)
    """Places by service; None: all of it."""
    room_changed: bool = True
    """Whether pending tasks may find a node now."""
    silent: dict[str, float] = field(default_factory=dict)
    """Since when nodes are silent."""
    failures: dict[tuple[str, int], dict[str, Failure]] = field(default_factory=dict)
    published_services: set[str] = field(default_factory=set)
    """Services whose keys in the network are to be compared anew."""
    published_tasks: set[tuple[str, str]] = field(default_factory=set)
    """The same of tasks: service and id."""
    touched: set[str] = field(default_factory=set)
    """Nodes that changed since `spread_changes_of_nodes`."""
    _down: set[str] = field(default_factory=set)
    _known: dict[str, Task] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _accounted: dict[str, tuple[str, Demand]] = field(default_factory=dict)
    _demands: dict[str, dict[int, Demand | None]] = field(default_factory=dict)

    # -- what the view tells ---------------------------------------------------------

    def changed(self, kind: str, rest: str) -> None:
        """A key was applied to the view."""
        match kind:
            case "tasks" | "status" | "pending":
                self._task_changed(rest.rpartition("/")[2])
            case "services":
                self._demands.pop(rest, None)
                self.dirty[rest] = None
                self.published_services.add(rest)
            case "specs":
                of, _, number = rest.partition("/")
                self._demands.pop(number if of == "container" else of, None)
                self.room_changed = True
            case "nodes" | "node-status":
                self._node_changed(rest)
            case "offers" | "grants":
                self.room_changed = True

    def _task_changed(self, task_id: str) -> None:
        task = self.view.tasks.get(task_id)
        old = self._known.get(task_id)
        status = self.view.statuses.get(task_id)
        if task is not old:
            if old is not None:
                self._unlist(old)
            if task is not None:
                self._known[task_id] = task
                places = self.places.setdefault(task.service, {})
                places.setdefault(task.place, {})[task_id] = task
        self.seen.look(task, task_id, status, monotonic())
        either = task or old
        if either is None:
            return
        self.mark(either.service, either.place)
        self.published_tasks.add((either.service, task_id))
        self._account(task_id, task)
        if task is None:
            self._failed.discard(task_id)
        elif (
            status is not None
            and status.state in (TaskState.FAILED, TaskState.REJECTED)
            and task.desired is TaskState.RUNNING
            and task_id not in self._failed
        ):
            self._failed.add(task_id)
            nodes = self.failures.setdefault((task.service, task.spec_version), {})
            nodes[task.node] = (nodes.get(task.node, (0, 0.0))[0] + 1, monotonic())

    def _unlist(self, old: Task) -> None:
        del self._known[old.id]
        places = self.places[old.service]
        tasks = places[old.place]
        del tasks[old.id]
        if not tasks:
            del places[old.place]
            if not places:
                del self.places[old.service]

    def mark(self, service: str, place: str | None) -> None:
        """Plan a place anew; None: all places."""
        known = self.dirty.setdefault(service, set())
        if place is None:
            self.dirty[service] = None
        elif known is not None:
            known.add(place)

    @property
    def grace(self) -> float:
        """For how long a node may be silent before its tasks are replaced.

        Where all are silent there is no place to go: nothing is stopped.
        """
        silent, nodes = len(self.silent), len(self.view.nodes)
        if silent >= nodes:
            return inf
        return MOST_SILENT if nodes >= 5 and silent * 2 > nodes else GRACE

    # -- nodes -----------------------------------------------------------------------

    def _node_changed(self, node_id: str) -> None:
        record, report = self.view.nodes.get(node_id), self.view.reports.get(node_id)
        if record is None:
            self.table.remove(node_id)
            self.silent.pop(node_id, None)
            for task_id in [one for one, (at, _) in self._accounted.items() if at == node_id]:
                del self._accounted[task_id]
        else:
            if report is not None:
                self.silent.pop(node_id, None)
                self._down.discard(node_id)
            else:
                self.silent.setdefault(node_id, monotonic())
            self.table.put(self._state_of(node_id))
            for task in self.view.tasks_on(node_id).values():
                self._account(task.id, task)
        self.touched.add(node_id)

    def spread_changes_of_nodes(self, *, rebalance: bool) -> None:
        """Plan anew what depends on nodes that changed, or are silent for so long: down."""
        now, grace = monotonic(), self.grace
        for node_id, since in self.silent.items():
            if now >= since + grace and node_id not in self._down:
                self._down.add(node_id)
                self.touched.add(node_id)
        if not self.touched:
            return
        for node_id in self.touched:
            for task in self.view.tasks_on(node_id).values():
                self.mark(task.service, task.place)
                self.published_tasks.add((task.service, task.id))
        for service in self.view.services.values():
            if service.replicas is None:
                for node_id in self.touched:
                    self.mark(service.id, node_id)
            elif wants_rebalance(service, default=rebalance):
                self.mark(service.id, None)
        self.touched.clear()
        self.room_changed = True

    def _state_of(self, node_id: str) -> NodeState:
        record, report = self.view.nodes[node_id], self.view.reports.get(node_id)
        known = self.table.nodes.get(node_id)
        spec = record.spec
        if report is None:
            state = known or NodeState(node_id)
            return replace(
                state,
                ready=False,
                availability=spec.availability,
                role=spec.role,
                labels=spec.labels,
            )
        about = report.description
        return NodeState(
            node_id,
            hostname=about.hostname or spec.name,
            role=spec.role,
            availability=spec.availability,
            ready=True,
            address=report.addr,
            os=about.platform.os or "linux",
            architecture=about.platform.architecture,
            labels={**report.labels, **spec.labels},
            engine_labels=about.engine.labels,
            plugins=frozenset((one.type, one.name) for one in about.engine.plugins),
            cpus=about.resources.nano_cpus,
            memory=about.resources.memory_bytes,
        )

    def node_health(self, task: Task) -> str:
        """How a task's node is, for the task."""
        if task.node not in self.view.nodes:
            return GONE
        since = self.silent.get(task.node)
        if since is not None and monotonic() >= since + self.grace:
            return DOWN
        node = self.table.nodes[task.node]
        if node.availability == "drain":
            return LEAVE
        demand = self.demand(task)
        if demand is not None and demand.filter.constraints and node.ready:
            reason = refused_for_what_it_is(node, demand.filter)
            if reason == CONSTRAINTS:
                return LEAVE
        return READY

    # -- what tasks take of nodes ------------------------------------------------------

    def demand(self, task: Task) -> Demand | None:
        """What a task needs of a node; None: its spec is not known, or can't be read."""
        known = self._demands.setdefault(task.service or task.id, {})
        if task.spec_version not in known:
            known[task.spec_version] = self._read_demand(task)
        return known[task.spec_version]

    def _read_demand(self, task: Task) -> Demand | None:
        spec = self.view.spec_of(task)
        if spec is None:
            return None
        service = self.view.services.get(task.service)
        try:
            return demand_of(task.service or task.id, spec, service.spec if service else None)
        except SpecError:
            return None

    def avoiding_failures(self, service: str, version: int, demand: Demand) -> Demand:
        """The demand, with the nodes on which the template failed lately."""
        nodes = self.failures.get((service, version))
        if not nodes:
            return demand
        recent = monotonic() - FAILURE_MEMORY
        found = {node: times for node, (times, last) in nodes.items() if last >= recent}
        return replace(demand, failures=found) if found else demand

    def placed(self, task_id: str, node: NodeState, demand: Demand) -> None:
        """`node` was taken for a task by placement itself."""
        self._accounted[task_id] = (node.id, demand)

    def _account(self, task_id: str, task: Task | None) -> None:
        """Bring the table up to date with one task."""
        wanted = None
        if task is not None and task.node in self.table.nodes:
            status = self.view.statuses.get(task_id)
            if status is None or not status.state.ended:
                wanted = task.node
        before = self._accounted.get(task_id)
        if (before[0] if before else None) == wanted:
            return
        if before is not None:
            del self._accounted[task_id]
            node = self.table.nodes.get(before[0])
            if node is not None:
                self.table.give_back(node, before[1])
                self.room_changed = True
        if wanted is not None and task is not None:
            demand = self.demand(task) or Demand(task.service or task.id)
            self.table.take(self.table.nodes[wanted], demand)
            self._accounted[task_id] = (wanted, demand)

    def next_silence(self) -> float | None:
        """When the next node counts as down."""
        now, grace = monotonic(), self.grace
        due = [since + grace for since in self.silent.values() if now < since + grace < inf]
        return min(due, default=None)

    def places_of(self, service: str) -> dict[str, dict[str, Task]]:
        """A service's tasks by place and id."""
        return self.places.get(service, {})
