# SPDX-License-Identifier: Apache-2.0
"""Where the scheduler's state is in etcd, below its prefix.

services/<id>             a service                       front; the leader its UpdateStatus
names/<kind>/<name>       the id that has this name       front, a claim
nodes/<id>                labels, role, availability      managers, front, a new worker
node-status/<id>          what a node says of itself      its worker, with its etcd lease
specs/<service>/<n>       a task template, never changed  front
specs/container/<task>    the same of a container task    front
pending/<task>            a task without a node           the leader; front for container tasks
tasks/<node>/<task>       a task on a node                the leader
status/<node>/<task>      what was observed of it         the node's worker
configs/, secrets/, networks/<id>                         front
leader                    who leads                       a manager, with its etcd lease
workers/<node>            how managers reach a worker     its worker, with its etcd lease
managers/<id>             a manager's API address         each manager, with its etcd lease
offers/<framework>/<id>   resources that another wants    other frameworks (docs/scheduler)
grants/<framework>/<id>   which nodes it was given        the leader
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("service", "config", "secret", "network", "container")
"""Kinds of object whose names are claimed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys below one prefix (without a slash at its end)."""

    prefix: str

    @property
    def everything(self) -> str:
        """The prefix of all keys."""
        return f"{self.prefix}/"

    @property
    def leader(self) -> str:
        """Who leads."""
        return f"{self.prefix}/leader"

    def service(self, service: str) -> str:
        """A service."""
        return f"{self.prefix}/services/{service}"

    def name(self, kind: str, name: str) -> str:
        """The claim on a name."""
        return f"{self.prefix}/names/{kind}/{name}"

    def node(self, node: str) -> str:
        """What the managers know of a node."""
        return f"{self.prefix}/nodes/{node}"

    def node_status(self, node: str) -> str:
        """What a node says of itself."""
        return f"{self.prefix}/node-status/{node}"

    def spec(self, service: str, version: int) -> str:
        """A version of a service's task template."""
        return f"{self.prefix}/specs/{service}/{version}"

    def container_spec(self, task: str) -> str:
        """The spec of a task without a service."""
        return f"{self.prefix}/specs/container/{task}"

    def specs_of(self, service: str) -> str:
        """The prefix of a service's task templates."""
        return f"{self.prefix}/specs/{service}/"

    def pending(self, task: str) -> str:
        """A task without a node."""
        return f"{self.prefix}/pending/{task}"

    def task(self, node: str, task: str) -> str:
        """A task on a node."""
        return f"{self.prefix}/tasks/{node}/{task}"

    def tasks_of(self, node: str) -> str:
        """The prefix of a node's tasks."""
        return f"{self.prefix}/tasks/{node}/"

    def status(self, node: str, task: str) -> str:
        """What was observed of a task."""
        return f"{self.prefix}/status/{node}/{task}"

    def statuses_of(self, node: str) -> str:
        """The prefix of what a node observed."""
        return f"{self.prefix}/status/{node}/"

    def object(self, kind: str, object_id: str) -> str:
        """A config, secret or network: `kind` is `configs`, `secrets` or `networks`."""
        return f"{self.prefix}/{kind}/{object_id}"

    def worker(self, node: str) -> str:
        """How managers reach the worker of a node."""
        return f"{self.prefix}/workers/{node}"

    def offer(self, name: str) -> str:
        """A request of another framework: `name` is `<framework>/<id>`."""
        return f"{self.prefix}/offers/{name}"

    def grant(self, name: str) -> str:
        """The answer to it."""
        return f"{self.prefix}/grants/{name}"

    def manager(self, node: str) -> str:
        """A manager that runs."""
        return f"{self.prefix}/managers/{node}"

    def parts(self, key: str) -> list[str]:
        """A key's parts behind the prefix."""
        return key[len(self.prefix) + 1 :].split("/")
