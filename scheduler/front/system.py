# SPDX-License-Identifier: Apache-2.0
"""What clients ask first: _ping, version, info, swarm."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from aiohttp import web

from scheduler.errors import NotFoundError, SpecError
from scheduler.front.answers import Route, answer
from scheduler.front.cluster import Cluster
from scheduler.front.nodes import node_names
from scheduler.front.server import OLDEST, VERSION
from scheduler.front.task_documents import state_of
from scheduler.model.task import TaskState

CLUSTER_ID = "flatmesh"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class System:
    """Handlers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def routes(self) -> Iterator[Route]:
        """What is served."""
        yield "GET", "/_ping", self.ping
        yield "GET", "/version", self.version
        yield "GET", "/info", self.info
        yield "GET", "/swarm", self.swarm
        for name in ("init", "join", "leave", "update", "unlock"):
            yield "POST", f"/swarm/{name}", self.refuse_swarm
        yield "GET", "/swarm/unlockkey", self.refuse_swarm
        yield "GET", "/distribution/{image:.+}/json", self.distribution

    async def ping(self, _request: web.Request) -> web.Response:
        """GET and HEAD /_ping; the version is in the headers."""
        return web.Response(
            text="OK", headers={"Cache-Control": "no-cache", "Docker-Experimental": "false"}
        )

    async def version(self, _request: web.Request) -> web.Response:
        """GET /version."""
        machine = os.uname()
        return answer(
            {
                "Platform": {"Name": "flatmesh-scheduler"},
                "Components": [
                    {"Name": "Engine", "Version": _own_version(), "Details": {}},
                ],
                "Version": _own_version(),
                "ApiVersion": VERSION,
                "MinAPIVersion": OLDEST,
                "Os": "linux",
                "Arch": ARCHITECTURES.get(machine.machine, machine.machine),
                "KernelVersion": machine.release,
                "GoVersion": f"Python {platform.python_version()}",
            }
        )

    async def info(self, _request: web.Request) -> web.Response:
        """GET /info: of the whole cluster; the node is this manager's."""
        view, me = self._cluster.view, self._cluster.node_id
        states = [state_of(task, view) for task in view.tasks.values()]
        running = states.count(TaskState.RUNNING)
        reports = list(view.reports.values())
        resources = [one.description.resources for one in reports]
        own = view.reports.get(me)
        name = {node: name for name, node in node_names(view).items()}.get(me, "")
        machine = os.uname()
        warnings = [] if self._cluster.trouble is None else [f"etcd: {self._cluster.trouble}"]
        return answer(
            {
                "ID": CLUSTER_ID,
                "Name": name or machine.nodename,
                "Containers": len(states),
                "ContainersRunning": running,
                "ContainersPaused": 0,
                "ContainersStopped": sum(state.ended for state in states),
                "Images": 0,
                "Driver": own.runtime if own is not None else "",
                "Plugins": {"Volume": [], "Network": ["flatmesh"], "Log": ["json-file"]},
                "NCPU": sum(one.nano_cpus for one in resources) // 10**9,
                "MemTotal": sum(one.memory_bytes for one in resources),
                "OperatingSystem": f"{len(reports)} nodes",
                "OSType": "linux",
                "Architecture": machine.machine,
                "KernelVersion": machine.release,
                "ServerVersion": _own_version(),
                "LoggingDriver": "json-file",
                "Labels": [],
                "Warnings": warnings,
                "Swarm": self._swarm(own.addr if own is not None else ""),
            }
        )

    def _swarm(self, address: str) -> dict[str, Any]:
        view = self._cluster.view
        managers = [
            {"NodeID": node, "Addr": address} for node, address in sorted(view.managers.items())
        ]
        return {
            "NodeID": self._cluster.node_id,
            "NodeAddr": address,
            "LocalNodeState": "active",
            "ControlAvailable": True,
            "Error": self._cluster.trouble or "",
            "RemoteManagers": managers,
            "Nodes": len(view.nodes),
            "Managers": len(view.managers),
            "Cluster": _cluster_document(),
        }

    async def swarm(self, _request: web.Request) -> web.Response:
        """GET /swarm; joining is by etcd, so the tokens say how."""
        tokens = {
            "Worker": "NONE:run-flatmesh-scheduler--worker-there",
            "Manager": "NONE:run-flatmesh-scheduler--manager--worker-there",
        }
        return answer({**_cluster_document(), "JoinTokens": tokens})

    async def refuse_swarm(self, request: web.Request) -> web.Response:
        """What Docker does with raft and tokens is done by etcd here."""
        raise SpecError(
            f"swarm {request.path.rpartition('/')[2]} is not supported: a node joins by "
            "`flatmesh-scheduler run --worker` (and --manager) with etcd's URL, and leaves when "
            "that is stopped and `docker node rm` was done"
        )

    async def distribution(self, request: web.Request) -> web.Response:
        """No registry is asked: the client then keeps the image's name as it is."""
        raise NotFoundError(f"{request.match_info['image']}: nodes look images up themselves")


def _cluster_document() -> dict[str, Any]:
    return {
        "ID": CLUSTER_ID,
        "Version": {"Index": 1},
        "CreatedAt": "0001-01-01T00:00:00Z",
        "UpdatedAt": "0001-01-01T00:00:00Z",
        "Spec": {
            "Name": "default",
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {},
            "Dispatcher": {"HeartbeatPeriod": 5 * 10**9},
            "CAConfig": {},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        },
        "RootRotationInProgress": False,
    }


def _own_version() -> str:
    try:
        return version("flatmesh")
    except PackageNotFoundError:
        return f"unknown ({sys.executable})"
