# SPDX-License-Identifier: Apache-2.0
"""What a place of a service is to have, an update's next step, which slots stay: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.manager.changes import Create, Forget, Plan, Rewrite, Stop
from scheduler.manager.plan_service import Nodes, plan_service
from scheduler.manager.rebalance import plan_rebalance
from scheduler.manager.scale import wanted_slots
from scheduler.manager.seen import Seen
from scheduler.manager.slots import DOWN, GONE, LEAVE, READY, Context, plan_place
from scheduler.manager.update import plan_update
from scheduler.model.base import parse
from scheduler.model.service import Service, ServiceSpec, UpdateStatus
from scheduler.model.task import Task, TaskState, TaskStatus

NO_NODES = Nodes(lambda _: True, lambda _: True, ())
SECOND = 10**9


@dataclass
class Story:
    """Tasks of one service, at a time that the test sets."""

    spec: dict[str, Any] = field(default_factory=dict)
    now: float = 1000.0
    version: int = 1
    health: dict[str, str] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    statuses: dict[str, TaskStatus] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    update: UpdateStatus | None = None
    drain: float = 0.0

    def add(self, name: str, state: str = "running", slot: int = 1, **more: Any) -> Task:
        task = Task(
            name, "s", slot, more.pop("version", 1), more.pop("node", f"node-{name}"), **more
        )
        self.tasks[name] = task
        if state:
            self.statuses[name] = TaskStatus(TaskState[state.upper()])
        self.seen.look(task, name, self.statuses.get(name), self.now)
        return task

    @property
    def context(self) -> Context:
        spec = parse(ServiceSpec, {"Name": "web", **self.spec})
        service = Service(
            id="s",
            spec=spec,
            spec_version=self.version,
            previous_spec=spec,
            previous_spec_version=1,
            update_status=self.update,
        )
        return Context(
            service,
            self.statuses,
            lambda task: self.health.get(task.node, READY),
            self.seen,
            self.now,
            self.drain,
        )

    @property
    def places(self) -> dict[str, list[Task]]:
        found: dict[str, list[Task]] = {}
        for task in self.tasks.values():
            found.setdefault(task.place, []).append(task)
        return found

    def place(self, **more: Any) -> Plan:
        return plan_place(self.tasks.values(), self.context, slot=1, **more)


def template(**restart: Any) -> dict[str, Any]:
    return {"TaskTemplate": {"RestartPolicy": restart}}


def test_an_empty_place_gets_a_task_and_a_running_one_is_left_alone() -> None:
    story = Story()
    assert story.place().changes == [Create(1)]
    story.add("a")
    assert story.place() == Plan()
    story.add("b", "", created=1.0)
    assert story.place() == Plan(), "the new one does not serve yet"
    story.add("b", created=1.0)
    assert story.place().changes == [Stop(story.tasks["a"], "replaced")]


def test_restarts_wait_longer_after_each_failure() -> None:
    story = Story(template(Condition="any", Delay=2 * SECOND))
    story.add("a", "failed")
    assert story.place() == Plan([], story.now + 2)
    story.now += 2
    assert story.place().changes == [Create(1, attempt=1)]
    story.add("b", "failed", created=1.0, attempt=3)
    assert story.place() == Plan([], story.now + 16)


def test_a_task_that_ran_for_long_begins_to_count_anew() -> None:
    story = Story(template(Delay=0))
    task = story.add("a", "running", attempt=7)
    story.now += 100
    story.statuses["a"] = TaskStatus(TaskState.FAILED)
    story.seen.look(task, "a", story.statuses["a"], story.now)
    assert story.place().changes == [Create(1, attempt=1)]


def test_restart_conditions() -> None:
    for condition, state, again in (
        ("none", "failed", False),
        ("on-failure", "complete", False),
        ("on-failure", "failed", True),
        ("any", "complete", True),
    ):
        story = Story(template(Condition=condition, Delay=0))
        story.add("a", state)
        assert bool(story.place().changes) == again, (condition, state)
    story = Story(template(Delay=0, MaxAttempts=2))
    story.add("a", "failed", attempt=2)
    assert story.place() == Plan()


def test_a_task_on_a_silent_node_is_replaced_at_once_and_one_on_a_drained_node_later() -> None:
    story = Story(health={"n": DOWN})
    lost = story.add("a", node="n")
    assert story.place().changes == [Stop(lost, "its node is down", at_once=True), Create(1)]
    story.health["n"] = LEAVE
    assert story.place().changes == [Create(1)]
    story.add("b", "", created=1.0)
    assert story.place() == Plan()
    story.add("b", created=1.0)
    assert story.place().changes == [Stop(lost, "replaced")]
    story.health["n"] = GONE
    assert Forget(lost) in story.place().changes


def test_a_drained_node_is_left_although_there_is_no_other() -> None:
    story = Story(health={"n": LEAVE})
    left = story.add("a", node="n")
    story.add("b", "", node="", created=1.0)
    assert story.place() == Plan([], story.now + 5)
    story.now += 5
    assert story.place().changes == [Stop(left, "its node is drained")]


def test_draining_comes_before_the_stop() -> None:
    story = Story(drain=10.0)
    task = story.add("a", draining=True, reason="why")
    assert story.place(wanted=False).wake == story.now + 10
    story.now += 10
    assert Stop(task, "why", at_once=True) in story.place(wanted=False).changes


def test_history_is_short() -> None:
    story = Story()
    story.add("now", created=100.0)
    for number in range(8):
        story.add(f"old-{number}", "failed", created=float(number))
    gone = {change.task.id for change in story.place().changes if isinstance(change, Forget)}
    assert gone == {"old-0", "old-1", "old-2"}


def updating(order: str, parallelism: int = 1, **more: Any) -> Story:
    config = {"Order": order, "Parallelism": parallelism, "Monitor": 0, **more}
    return Story(
        {"UpdateConfig": config, "Mode": {"Replicated": {"Replicas": 4}}},
        version=2,
        update=UpdateStatus(state="updating"),
    )


def step(story: Story) -> Plan:
    return plan_update(story.places, story.context, "now")


def test_an_update_replaces_as_many_at_once_as_it_may() -> None:
    for order in ("stop-first", "start-first"):
        story = updating(order, 2, Delay=10 * SECOND)
        old = [story.add(f"t{slot}", slot=slot) for slot in (1, 2, 3, 4)]
        expected = (
            [Create(1), Create(2)]
            if order == "start-first"
            else [Stop(old[0], "updated"), Stop(old[1], "updated")]
        )
        assert step(story).changes == expected
        for slot in (1, 2):
            del story.tasks[f"t{slot}"]
            story.add(f"new{slot}", slot=slot, version=2)
        assert step(story) == Plan([], story.now + 10), "the delay"
        story.now += 10
        assert len(step(story).changes) == 2
        for slot in (3, 4):
            del story.tasks[f"t{slot}"]
            story.add(f"new{slot}", slot=slot, version=2)
        story.now += 10
        (done,) = step(story).changes
        assert isinstance(done, Rewrite)
        assert done.service.update_status is not None
        assert done.service.update_status.state == "completed"


def test_a_failing_update_pauses_goes_on_or_is_rolled_back() -> None:
    for action, ratio, state in (
        ("pause", 0, "paused"),
        ("rollback", 0, "rollback_started"),
        ("continue", 0, None),
        ("rollback", 0.5, None),
    ):
        story = updating("stop-first", FailureAction=action, MaxFailureRatio=ratio)
        for slot in (2, 3, 4):
            story.add(f"t{slot}", slot=slot)
        story.add("new1", "failed", version=2)
        found = [one for one in step(story).changes if isinstance(one, Rewrite)]
        if state is None:
            assert not found
            continue
        status = found[0].service.update_status
        assert status is not None
        assert status.state == state
        assert found[0].service.spec_version == (1 if state == "rollback_started" else 2)


def test_rebalancing_moves_one_task_where_that_helps() -> None:
    story = Story({"Mode": {"Replicated": {"Replicas": 4}}})
    for slot in (1, 2, 3):
        story.add(f"t{slot}", slot=slot, node="n1")
    story.add("t4", slot=4, node="n2")
    places, context = story.places, story.context
    (move,) = plan_rebalance(places, context, ["n1", "n2", "n3"]).changes
    assert isinstance(move, Create)
    assert move.slot in (1, 2, 3)
    assert not plan_rebalance(places, context, ["n1"]).changes
    story.add("moving", "", slot=move.slot, node="n3", created=1.0)
    assert not plan_rebalance(story.places, story.context, ["n1", "n2", "n3"]).changes


@given(st.integers(0, 8), st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=12))
def test_slots_are_as_many_as_replicas_and_running_ones_stay(
    replicas: int, tasks: list[tuple[int, bool]]
) -> None:
    story = Story({"Mode": {"Replicated": {"Replicas": replicas}}})
    for number, (slot, serves) in enumerate(tasks):
        story.add(f"t{number}", "running" if serves else "", slot=slot, created=float(number))
    wanted = wanted_slots(story.places, story.context, replicas)
    assert len(wanted) == replicas
    used = {int(place) for place in story.places}
    assert wanted <= used or used <= wanted
    newest = dict(tasks)
    serving = {slot for slot, serves in newest.items() if serves}
    assert len(serving & wanted) >= min(len(serving), replicas)


@given(
    st.integers(0, 6),
    st.lists(
        st.tuples(
            st.integers(1, 7),
            st.sampled_from(["", "running", "failed", "complete", "shutdown"]),
            st.sampled_from(["n1", "n2", "n3"]),
        ),
        max_size=10,
    ),
    st.dictionaries(st.sampled_from(["n1", "n2", "n3"]), st.sampled_from([DOWN, LEAVE, GONE])),
)
def test_planning_ends_at_one_running_task_in_each_slot(
    replicas: int, tasks: list[tuple[int, str, str]], health: dict[str, str]
) -> None:
    """Whatever is there: doing the plans again and again, with tasks that obey, comes to rest."""
    story = Story(
        {"Mode": {"Replicated": {"Replicas": replicas}}, **template(Delay=0)}, health=dict(health)
    )
    for number, (slot, state, node) in enumerate(tasks):
        story.add(f"t{number}", state, slot=slot, node=node, created=float(number))
    for step_number in range(30):
        for task in [one for one in story.tasks.values() if one.id not in story.statuses]:
            if story.health.get(task.node, READY) in (READY, LEAVE):  # it was assigned: it runs
                stopped = task.desired is not TaskState.RUNNING
                story.statuses[task.id] = TaskStatus(
                    TaskState.SHUTDOWN if stopped else TaskState.RUNNING
                )
        plan = plan_service(story.places, story.context, NO_NODES, "now")
        if not plan.changes:
            break
        for number, change in enumerate(plan.changes):
            match change:
                case Create(slot, _, attempt):
                    name = f"new-{step_number}-{number}"
                    created = 100.0 + step_number
                    story.add(name, slot=slot, node="ok", created=created, attempt=attempt)
                case Stop(task, _, desired):
                    state = "shutdown" if story.health.get(task.node) != DOWN else ""
                    story.statuses.pop(task.id, None)
                    story.add(
                        task.id,
                        state,
                        slot=task.slot,
                        node=task.node,
                        created=task.created,
                        desired=desired,
                    )
                case Forget(task):
                    story.tasks.pop(task.id, None)
        story.now += 400
    else:
        raise AssertionError("it never comes to rest")
    live = [
        task
        for task in story.tasks.values()
        if task.desired is TaskState.RUNNING
        and story.health.get(task.node, READY) == READY
        and not (task.id in story.statuses and story.statuses[task.id].state.ended)
    ]
    assert len(live) == len({task.slot for task in live}) == replicas
