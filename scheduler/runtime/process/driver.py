# SPDX-License-Identifier: Apache-2.0
"""The driver `process`: pods as supervisors, containers as namespaces; no daemon.

Where things are: `RUN/pods/ID/` (a tmpfs, usually) the supervisor's socket, what it was told
without secrets, and the status; `STATE/scratch/ID/` what containers write; `STATE/logs/ID/` their
output; `STATE/cni/` the attachments.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

from scheduler.runtime.cni.network import Networks
from scheduler.runtime.errors import NetworkError, PodNotFoundError, RuntimeCallError
from scheduler.runtime.log_reader import read
from scheduler.runtime.process import capabilities, etc_files
from scheduler.runtime.process.cgroup import Cgroups
from scheduler.runtime.process.exec_process import NamespaceExec
from scheduler.runtime.process.interfaces import interface_stats
from scheduler.runtime.process.messages import container_to_json
from scheduler.runtime.process.pods import SupervisedPod
from scheduler.runtime.process.spawn import Spawner
from scheduler.runtime.process.supervisor import POD
from scheduler.runtime.protocol import (
    HOST_IMAGE,
    ContainerConfig,
    ContainerState,
    ContainerStats,
    ExecConfig,
    ExecProcess,
    LogLine,
    PodConfig,
    PodStats,
    PodStatus,
)

log = logging.getLogger(__name__)
STARTED = "started.json"
START_TIMEOUT = 60.0  # seconds until the supervisor has started all containers
END_TIMEOUT = 10.0  # seconds until a supervisor has ended after SIGKILL to its containers
CGROUP = "flatmesh-scheduler"


class ProcessRuntime:
    """Offers what `protocol.Runtime` says."""

    name = "process"

    def __init__(self, node_id: str, state_dir: Path, run_dir: Path, networks: Networks) -> None:
        self.state_dir, self.run_dir = state_dir.absolute(), run_dir.absolute()
        self.networks = networks
        self.cgroup = f"{CGROUP}/{node_id}"
        self.cgroups = Cgroups.found()
        self._pods: dict[str, SupervisedPod] = {}
        self._spawner = Spawner()

    # -- the driver's own life ---------------------------------------------------------

    async def open(self) -> None:
        """Find, and take over, what runs already."""
        for directory in (self.run_dir / "pods", self.state_dir / "logs"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if problem := self.cgroups.missing():
            log.warning("%s: containers run without these limits", problem)
        await self._spawner.open()
        for directory in (self.run_dir / "pods").iterdir():
            try:
                pod = SupervisedPod.load(directory)
            except (OSError, ValueError) as error:
                log.warning("%s is no pod's directory, removed: %s", directory, error)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            self._know_addresses(pod)
            if not await pod.connect(self._supervisor_lost):
                self.cgroups.kill(pod.meta["cgroup"])
            self._pods[pod.meta["id"]] = pod

    async def close(self) -> None:
        """Let go; pods go on running."""
        for pod in self._pods.values():
            await pod.close()
        await self._spawner.close()
        if not self._pods:
            await asyncio.to_thread(self.cgroups.remove, self.cgroup)

    async def version(self) -> str:
        """Of the kernel: it is the runtime."""
        return f"Linux {os.uname().release}"

    def _supervisor_lost(self, pod: SupervisedPod) -> None:
        self.cgroups.kill(pod.meta["cgroup"])  # what left its first process's pid namespace

    def _know_addresses(self, pod: SupervisedPod) -> None:
        found = self.networks.cache.list(pod.meta["id"])
        pod.addresses = tuple((a.network, address) for a in found for address in a.addresses())

    def _pod(self, pod_id: str) -> SupervisedPod:
        pod = self._pods.get(pod_id)
        if pod is None:
            raise PodNotFoundError(f"there is no pod {pod_id} on this node")
        return pod

    # -- a pod's life ------------------------------------------------------------------

    async def create(self, pod: PodConfig) -> PodStatus:
        """Make the pod and its network; nothing is left where it fails."""
        if pod.id in self._pods:
            return self._pods[pod.id].status()
        directory = self.run_dir / "pods" / pod.id
        meta = {
            "id": pod.id,
            "name": pod.name,
            "hostname": pod.hostname or pod.id[:12],
            "host_network": pod.host_network,
            "labels": dict(pod.labels),
            "created_at": time.time(),
            "cgroup": f"{self.cgroup}/{pod.id}",
            "logs": str(self._logs(pod.id)),
            "scratch": str(self._scratch(pod.id)),
        }
        made = SupervisedPod(directory, meta)
        self._pods[pod.id] = made
        try:
            directory.mkdir(mode=0o700)
            (directory / POD).write_text(json.dumps(meta))
            await self._spawner.spawn(directory)
            await made.connect(self._supervisor_lost, first=True)
            if not pod.host_network:
                await self.networks.attach(pod, f"/proc/{made.supervisor}/ns/net")
                self._know_addresses(made)
        except BaseException as error:
            await self.remove(pod.id)
            if isinstance(error, OSError):
                raise RuntimeCallError(f"pod {pod.id}: {error}") from None
            raise
        return made.status()

    async def start(self, pod: PodConfig) -> None:
        """Start the containers of a created pod."""
        found = self._pod(pod.id)
        address = found.addresses[0][1].partition("/")[0] if found.addresses else ""
        containers = [container_to_json(self._with_image(c)) for c in pod.containers]
        self._remember(found, pod)
        await found.send(
            op="start",
            containers=containers,
            etc=etc_files.contents(pod, str(found.meta["hostname"]), address),
            hidden=[str(self.state_dir), str(self.run_dir)],
        )
        names = {c.name for c in pod.containers}
        if not await found.until(lambda: names <= set(found.containers), START_TIMEOUT):
            raise RuntimeCallError(f"pod {pod.id}: its supervisor did not start it in time")

    def _with_image(self, config: ContainerConfig) -> ContainerConfig:
        """With the directory that an image's name means."""
        name = config.image.removesuffix(":latest")
        if name == HOST_IMAGE or name.startswith("/"):
            return replace(config, image=name)
        if ".." in name.split("/") or not name:
            raise RuntimeCallError(f"image {config.image!r} is no name of an image")
        return replace(config, image=str(self.state_dir / "images" / name))

    def _remember(self, found: SupervisedPod, pod: PodConfig) -> None:
        """Keep what a later `exec` needs."""
        data = {
            c.name: {
                "env": c.env,
                "user": c.user,
                "workdir": c.workdir,
                "capabilities": capabilities.mask(c.cap_add, c.cap_drop),
                "memory": c.limits.memory,
            }
            for c in pod.containers
        }
        descriptor = os.open(found.directory / STARTED, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(data, out)

    async def stop(self, pod_id: str, grace: float) -> None:
        """Send each container its stop signal, after `grace` seconds SIGKILL; don't wait."""
        pod = self._pod(pod_id)
        if pod.alive:
            await pod.send(op="stop", grace=grace)

    async def kill(self, pod_id: str, signal: str) -> None:
        """Send a signal to each container."""
        pod = self._pod(pod_id)
        if pod.alive:
            await pod.send(op="signal", signal=signal)

    async def remove(self, pod_id: str, *, keep_logs: bool = False) -> None:
        """End and forget the pod, its network and its files; one that is gone is no error."""
        pod = self._pods.get(pod_id)
        if pod is not None:
            with contextlib.suppress(RuntimeCallError):
                await pod.send(op="signal", signal="SIGKILL")
        try:  # while the namespace is there, as the plugins expect
            await self.networks.detach(pod_id)
        except NetworkError as error:
            log.warning("pod %s: %s; it is tried again", pod_id, error)
        if pod is not None:
            await pod.end_supervisor(END_TIMEOUT)
            await pod.close()
            await asyncio.to_thread(self._remove_files, pod, keep_logs)
            self._pods.pop(pod_id, None)
            pod.removed = True
            async with pod.changed:
                pod.changed.notify_all()
        elif not keep_logs:
            await asyncio.to_thread(shutil.rmtree, self._logs(pod_id), ignore_errors=True)

    def _remove_files(self, pod: SupervisedPod, keep_logs: bool) -> None:
        if not self.cgroups.remove(pod.meta["cgroup"]):
            log.warning("pod %s: a cgroup can't be removed yet; it is tried again", pod.meta["id"])
        for directory in (self._scratch(pod.meta["id"]), pod.directory):
            shutil.rmtree(directory, ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self._logs(pod.meta["id"]), ignore_errors=True)

    def _logs(self, pod_id: str) -> Path:
        return self.state_dir / "logs" / pod_id

    def _scratch(self, pod_id: str) -> Path:
        return self.state_dir / "scratch" / pod_id

    # -- what is known -----------------------------------------------------------------

    async def list(self) -> list[PodStatus]:
        """All pods of this node."""
        return [pod.status() for pod in self._pods.values()]

    async def status(self, pod_id: str) -> PodStatus:
        """One pod; raises PodNotFoundError."""
        return self._pod(pod_id).status()

    async def wait(self, pod_id: str, known: PodStatus) -> PodStatus:
        """Return when the status differs from `known`; raises PodNotFoundError once removed."""
        pod = self._pod(pod_id)
        async with pod.changed:
            await pod.changed.wait_for(lambda: pod.removed or pod.status() != known)
        if pod.removed:
            raise PodNotFoundError(f"pod {pod_id} was removed")
        return pod.status()

    async def exec(self, pod_id: str, container: str, config: ExecConfig) -> ExecProcess:
        """Run a command inside of a running container."""
        pod = self._pod(pod_id)
        status = pod.containers.get(container)
        if status is None or status["state"] != ContainerState.RUNNING:
            raise RuntimeCallError(f"container {container!r} of pod {pod_id} is not running")
        started = json.loads((pod.directory / STARTED).read_text())[container]
        order = {
            "pid": status["pid"],
            "cgroup": f"{pod.meta['cgroup']}/{container}",
            "argv": config.command,
            "env": [*started["env"], *config.env],
            "user": config.user or started["user"],
            "workdir": config.workdir or started["workdir"],
            "capabilities": started["capabilities"],
            "tty": config.tty,
        }
        return await NamespaceExec.start(order, stdin=config.stdin)

    def logs(
        self, pod_id: str, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """Kept output, the last `tail` lines of it; with `follow` until the container ends."""

        def ended() -> bool:
            pod = self._pods.get(pod_id)
            status = pod.containers.get(container) if pod is not None else None
            if status is None:
                return pod is None or not pod.alive
            return bool(status["state"] == ContainerState.EXITED)

        path = self._logs(pod_id) / f"{container}.log"
        return read(path, follow=follow, tail=tail, ended=ended)

    async def stats(self, pod_id: str) -> PodStats:
        """What the pod uses."""
        pod = self._pod(pod_id)
        return await asyncio.to_thread(self._stats, pod)

    def _stats(self, pod: SupervisedPod) -> PodStats:
        containers: list[ContainerStats] = []
        for name, status in pod.containers.items():
            if status["state"] == ContainerState.RUNNING:
                containers.append(self.cgroups.stats(f"{pod.meta['cgroup']}/{name}", name))
        interfaces = () if pod.meta["host_network"] else interface_stats(pod.supervisor)
        return PodStats(pod.meta["id"], tuple(containers), interfaces)

    async def collect_garbage(self, known: Collection[str]) -> None:
        """Remove what neither a pod nor these ids need: networks, cgroups, files, logs."""
        await self.networks.collect_garbage(set(self._pods))
        await asyncio.to_thread(self._collect_files, set(self._pods), {*known, *self._pods})

    def _collect_files(self, pods: set[str], known: set[str]) -> None:
        for parent, kept in ((self.state_dir / "logs", known), (self.state_dir / "scratch", pods)):
            for directory in parent.iterdir() if parent.is_dir() else ():
                if directory.name not in kept:
                    shutil.rmtree(directory, ignore_errors=True)
        names = {
            path.name
            for directory in self.cgroups.directories(self.cgroup).values()
            if directory.is_dir()
            for path in directory.iterdir()
            if path.is_dir()
        }
        for name in names - pods:
            self.cgroups.remove(f"{self.cgroup}/{name}")
