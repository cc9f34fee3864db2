# SPDX-License-Identifier: Apache-2.0
"""A node, with Docker's field names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scheduler.model.base import Document
from scheduler.model.container import Reservations
from scheduler.model.service import Platform


class NodeSpec(Document):
    """What the user wants of a node."""

    name: str = ""
    labels: dict[str, str] = {}
    role: Literal["worker", "manager"] = "worker"
    availability: Literal["active", "pause", "drain"] = "active"


class NodeRecord(Document):
    """A node as managers store it (nodes/<id>)."""

    id: str
    spec: NodeSpec = NodeSpec()
    created_at: str = ""
    updated_at: str = ""


class Plugin(Document):
    """A plugin of a node's engine."""

    type: str
    name: str


class Engine(Document):
    """What runs containers on a node."""

    engine_version: str = ""
    labels: dict[str, str] = {}
    plugins: list[Plugin] = []


class NodeDescription(Document):
    """What a node says of its machine."""

    hostname: str = ""
    platform: Platform = Platform()
    resources: Reservations = Reservations()
    engine: Engine = Engine()


class NodeReport(Document):
    """What a worker writes with its etcd lease (node-status/<id>); the key's absence: silent."""

    id: str
    description: NodeDescription = NodeDescription()
    addr: str = ""
    """The node's address, as its network lease names the host."""
    runtime: str = ""
    started_at: str = ""
    acknowledged: int = 0
    """Ours: reserved for the order of changes."""
    labels: dict[str, str] = Field(default={})
    """Labels that the worker was started with; the spec's win."""
