# SPDX-License-Identifier: Apache-2.0
"""A service and the template of its tasks, with Docker's field names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scheduler.model.base import Document
from scheduler.model.container import ContainerSpec, LogDriver, Nanoseconds, Port, Resources

SECOND = 1_000_000_000


class RestartPolicy(Document):
    """Whether a task that ended is started again."""

    condition: Literal["none", "on-failure", "any", ""] = "any"
    delay: Nanoseconds = 5 * SECOND
    max_attempts: Annotated[int, Field(ge=0)] = 0
    window: Nanoseconds = 0


class Spread(Document):
    """A label whose values get equally many tasks."""

    spread_descriptor: str


class Preference(Document):
    """A wish that placement follows where it can."""

    spread: Spread


class Platform(Document):
    """What a node's machine is."""

    architecture: str = ""
    os: str = ""


class Placement(Document):
    """On which nodes a task may run."""

    constraints: list[str] = []
    preferences: list[Preference] = []
    max_replicas: Annotated[int, Field(ge=0)] = 0
    platforms: list[Platform] = []


class NetworkAttachment(Document):
    """A network that tasks are attached to."""

    target: str
    aliases: list[str] = []


class TaskSpec(Document):
    """What a task runs, and where."""

    container_spec: ContainerSpec = ContainerSpec()
    sidecars: list[ContainerSpec] = []
    """Ours: more containers in the same network namespace: a pod."""
    resources: Resources = Resources()
    restart_policy: RestartPolicy = RestartPolicy()
    placement: Placement = Placement()
    networks: list[NetworkAttachment] = []
    log_driver: LogDriver | None = None
    force_update: int = 0
    runtime: Literal["container", ""] = "container"


class Replicated(Document):
    """A number of tasks."""

    replicas: Annotated[int, Field(ge=0)] = 1


class Global(Document):
    """A task on each node."""


class ReplicatedJob(Document):
    """A number of tasks that end."""

    max_concurrent: Annotated[int, Field(ge=0)] = 1
    total_completions: Annotated[int, Field(ge=0)] = 1


class GlobalJob(Document):
    """A task on each node, once."""


class Mode(Document):
    """How many tasks a service has; none given: one."""

    replicated: Replicated | None = None
    global_: Global | None = Field(default=None, alias="Global")
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None


class UpdateConfig(Document):
    """How tasks are replaced when the template changes."""

    parallelism: Annotated[int, Field(ge=0)] = 1
    delay: Nanoseconds = 0
    failure_action: Literal["pause", "continue", "rollback", ""] = "pause"
    monitor: Nanoseconds = 5 * SECOND
    max_failure_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    order: Literal["stop-first", "start-first", ""] = "stop-first"


class PortConfig(Document):
    """A port that a service serves."""

    name: str = ""
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    target_port: Port
    published_port: Annotated[int, Field(ge=0, le=65535)] = 0
    publish_mode: Literal["ingress", "host"] = "ingress"


class EndpointSpec(Document):
    """How a service is reached."""

    mode: Literal["vip", "dnsrr", ""] = "vip"
    ports: list[PortConfig] = []


class ServiceSpec(Document):
    """What the user wants."""

    name: str = ""
    labels: dict[str, str] = {}
    task_template: TaskSpec = TaskSpec()
    mode: Mode = Mode()
    update_config: UpdateConfig = UpdateConfig()
    rollback_config: UpdateConfig = UpdateConfig()
    networks: list[NetworkAttachment] = []
    endpoint_spec: EndpointSpec = EndpointSpec()


UpdateState = Literal[
    "",
    "updating",
    "paused",
    "completed",
    "rollback_started",
    "rollback_paused",
    "rollback_completed",
]


class UpdateStatus(Document):
    """How far the last update is."""

    state: UpdateState = ""
    started_at: str = ""
    completed_at: str = ""
    message: str = ""


class Service(Document):
    """A service as it is stored."""

    id: str
    spec: ServiceSpec
    spec_version: int = 1
    """Number of the task template: specs/<id>/<number>; grows when the template changes."""
    previous_spec: ServiceSpec | None = None
    previous_spec_version: int = 0
    update_status: UpdateStatus | None = None
    created_at: str = ""
    updated_at: str = ""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.spec.name

    @property
    def replicas(self) -> int | None:
        """How many tasks it shall have; None: one on each node."""
        mode = self.spec.mode
        if mode.global_ is not None or mode.global_job is not None:
            return None
        if mode.replicated_job is not None:
            return mode.replicated_job.total_completions
        return mode.replicated.replicas if mode.replicated is not None else 1

    @property
    def is_job(self) -> bool:
        """Whether its tasks are to end."""
        return self.spec.mode.replicated_job is not None or self.spec.mode.global_job is not None
