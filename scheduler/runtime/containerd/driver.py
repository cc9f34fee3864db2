# SPDX-License-Identifier: Apache-2.0
"""The driver `containerd`: pods as CRI's sandboxes.

CRI has no call that waits for an end (it came with containerd 1.7), so pods are listed every
quarter of a second while somebody waits. Everything is in containerd: a restarted worker finds
its pods by their label; a restarted containerd is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal as signals
from collections.abc import AsyncIterator, Collection, Coroutine
from pathlib import Path
from typing import Any

from scheduler.runtime.containerd import cri_pb2 as pb
from scheduler.runtime.containerd import messages
from scheduler.runtime.containerd.connection import (
    IMAGE,
    PULL_TIMEOUT,
    CriConnection,
    CriError,
)
from scheduler.runtime.containerd.details import cgroup_of
from scheduler.runtime.containerd.files import make_mounts
from scheduler.runtime.containerd.pods import CriPod, CriPods
from scheduler.runtime.containerd.rotation import rotate
from scheduler.runtime.errors import PodNotFoundError, RuntimeCallError
from scheduler.runtime.log_reader import read
from scheduler.runtime.process.cgroup import Cgroups, remove_everywhere
from scheduler.runtime.process.exec_process import NamespaceExec
from scheduler.runtime.process.interfaces import interface_stats
from scheduler.runtime.process.supervised import signal_number
from scheduler.runtime.protocol import (
    ContainerState,
    ContainerStats,
    ExecConfig,
    ExecProcess,
    Limits,
    LogLine,
    PodConfig,
    PodStats,
    PodStatus,
)

log = logging.getLogger(__name__)
INTERVAL = 0.25  # seconds between two lists
ROTATE_INTERVAL = 10.0  # seconds
CGROUP = "flatmesh-scheduler"


class ContainerdRuntime:
    """Offers what `protocol.Runtime` says."""

    name = "containerd"

    def __init__(self, node_id: str, state_dir: Path, run_dir: Path, socket: Path) -> None:
        self.node_id = node_id
        self.state_dir, self.run_dir = state_dir.absolute(), run_dir.absolute()
        self.cgroups = Cgroups.found()
        self._cri = CriConnection(socket)
        self._source = CriPods(self._cri, node_id)
        self._pods: dict[str, CriPod] = {}
        self._looked = asyncio.Condition()
        self._looking = asyncio.Lock()
        self._jobs: set[asyncio.Task[None]] = set()

    # -- the driver's own life ---------------------------------------------------------

    async def open(self) -> None:
        """Find what runs already; waits for containerd."""
        for directory in (self.state_dir / "logs", self.run_dir / "files"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cri.open()
        await self._look()
        self._spawn(self._poll())
        self._spawn(self._rotate_logs())

    async def close(self) -> None:
        """Let go; pods go on running."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._cri.close()
        if not self._pods:
            await asyncio.to_thread(remove_everywhere, f"{CGROUP}/{self.node_id}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def version(self) -> str:
        """Of containerd."""
        answer = await self._cri.call("Version", pb.Empty(), pb.VersionResponse)
        return f"{answer.runtime_name} {answer.runtime_version}"

    async def _look(self) -> None:
        async with self._looking:
            self._pods = await self._source.read()
        async with self._looked:
            self._looked.notify_all()

    async def _poll(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self._look()
                said = ""
            except RuntimeCallError as error:
                if str(error) != said:
                    log.warning("%s", error)
                said = str(error)

    def _pod(self, pod_id: str) -> CriPod:
        pod = self._pods.get(pod_id)
        if pod is None:
            raise PodNotFoundError(f"there is no pod {pod_id} on this node")
        return pod

    # -- a pod's life ------------------------------------------------------------------

    async def create(self, pod: PodConfig) -> PodStatus:
        """Make the pod and its network; nothing is left where it fails."""
        if pod.networks:
            raise RuntimeCallError("the runtime `containerd` has the one network of its own config")
        for container in pod.containers:
            await self._ensure_image(container.image)
        self._logs(pod.id).mkdir(mode=0o700, exist_ok=True)
        pids = max((c.limits.pids for c in pod.containers), default=0)
        if pids:  # CRI has no field for it
            self.cgroups.create(self._cgroup(pod.id), Limits(pids=pids))
        try:
            await self._cri.call(
                "RunPodSandbox",
                pb.RunPodSandboxRequest(config=self._sandbox(pod)),
                pb.PodSandboxRequest,  # the answer has the same one field
            )
            await self._look()
        except BaseException:
            await self.remove(pod.id)
            raise
        return self._pod(pod.id).status()

    async def start(self, pod: PodConfig) -> None:
        """Start the containers of a created pod."""
        found = self._pod(pod.id)
        address = found.addresses[0] if found.addresses else ""
        for container in pod.containers:
            mounts = await asyncio.to_thread(
                make_mounts, self._files(pod.id), container, pod, address
            )
            config = messages.container(container, pod, self.node_id, mounts)
            made = await self._cri.call(
                "CreateContainer",
                pb.CreateContainerRequest(
                    pod_sandbox_id=found.sandbox.id,
                    config=config,
                    sandbox_config=self._sandbox(pod),
                ),
                pb.ContainerRequest,
            )
            await self._cri.call(
                "StartContainer", pb.ContainerRequest(container_id=made.container_id), pb.Empty
            )
        await self._look()

    async def _ensure_image(self, image: str) -> None:
        spec = pb.ImageSpec(image=image)
        answer = await self._cri.call(
            "ImageStatus", pb.ImageRequest(image=spec), pb.ImageStatusResponse, service=IMAGE
        )
        if not answer.image.id:
            await self._cri.call(
                "PullImage",
                pb.ImageRequest(image=spec),
                pb.PullImageResponse,
                service=IMAGE,
                seconds=PULL_TIMEOUT,
            )

    def _sandbox(self, pod: PodConfig) -> pb.PodSandboxConfig:
        return messages.sandbox(
            pod, self.node_id, str(self._logs(pod.id)), f"/{self._cgroup(pod.id)}"
        )

    async def stop(self, pod_id: str, grace: float) -> None:
        """Send each container its stop signal, after `grace` seconds SIGKILL; don't wait."""
        await self._look()
        for container in self._running(self._pod(pod_id)):
            name = container.annotations.get(messages.STOP_SIGNAL, "SIGTERM")
            self._signal(container.id, signal_number(name))
            self._spawn(self._kill_later(container.id, grace))

    async def _kill_later(self, container_id: str, grace: float) -> None:
        await asyncio.sleep(grace)
        with contextlib.suppress(RuntimeCallError):
            await self._stop_container(container_id)

    async def _stop_container(self, container_id: str) -> None:
        request = pb.StopContainerRequest(container_id=container_id, timeout=0)
        await self._cri.call("StopContainer", request, pb.Empty)

    def _signal(self, container_id: str, number: int) -> None:
        details = self._source.details.get(container_id)
        if details is not None and details.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(details.pid, number)

    def _running(self, pod: CriPod) -> list[pb.Container]:
        return [
            pod.containers[name]
            for name, status in pod.statuses.items()
            if status.state is ContainerState.RUNNING
        ]

    async def kill(self, pod_id: str, signal: str) -> None:
        """Send a signal to each container."""
        number = signal_number(signal)
        await self._look()
        for container in self._running(self._pod(pod_id)):
            if number == signals.SIGKILL:
                await self._stop_container(container.id)
            else:
                self._signal(container.id, number)

    async def remove(self, pod_id: str, *, keep_logs: bool = False) -> None:
        """End and forget the pod, its network and its files; one that is gone is no error."""
        ours = {messages.NODE_LABEL: self.node_id, messages.POD_LABEL: pod_id}
        found = await self._cri.call(
            "ListPodSandbox",
            pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=ours)),
            pb.ListPodSandboxResponse,
        )
        for sandbox in found.items:
            request = pb.PodSandboxRequest(pod_sandbox_id=sandbox.id)
            for method in ("StopPodSandbox", "RemovePodSandbox"):
                try:
                    await self._cri.call(method, request, pb.Empty)
                except CriError as error:
                    if error.code != "NOT_FOUND":
                        raise
        await asyncio.to_thread(self._remove_files, pod_id, keep_logs)
        await self._look()

    def _remove_files(self, pod_id: str, keep_logs: bool) -> None:
        self.cgroups.remove(self._cgroup(pod_id))
        remove_everywhere(self._cgroup(pod_id))
        shutil.rmtree(self._files(pod_id), ignore_errors=True)
        if not keep_logs:
            shutil.rmtree(self._logs(pod_id), ignore_errors=True)

    def _logs(self, pod_id: str) -> Path:
        return self.state_dir / "logs" / pod_id

    def _files(self, pod_id: str) -> Path:
        return self.run_dir / "files" / pod_id

    def _cgroup(self, pod_id: str) -> str:
        return f"{CGROUP}/{self.node_id}/{pod_id}"

    # -- what is known -----------------------------------------------------------------

    async def list(self) -> list[PodStatus]:
        """All pods of this node."""
        return [pod.status() for pod in self._pods.values()]

    async def status(self, pod_id: str) -> PodStatus:
        """One pod; raises PodNotFoundError."""
        return self._pod(pod_id).status()

    async def wait(self, pod_id: str, known: PodStatus) -> PodStatus:
        """Return when the status differs from `known`; raises PodNotFoundError once removed."""
        async with self._looked:
            await self._looked.wait_for(
                lambda: pod_id not in self._pods or self._pods[pod_id].status() != known
            )
        return self._pod(pod_id).status()

    async def exec(self, pod_id: str, container: str, config: ExecConfig) -> ExecProcess:
        """Run a command inside of a running container: in its namespaces, not by CRI.

        CRI's own exec is a second server with a protocol (SPDY) that no library here speaks.
        """
        pod = self._pod(pod_id)
        status = pod.statuses.get(container)
        if status is None or status.state is not ContainerState.RUNNING or not status.pid:
            raise RuntimeCallError(f"container {container!r} of pod {pod_id} is not running")
        known = self._source.details[pod.containers[container].id]
        order = {
            "pid": status.pid,
            "cgroup": cgroup_of(status.pid),
            "argv": config.command,
            "env": [*known.env, *config.env],
            "user": config.user or known.user,
            "workdir": config.workdir or known.workdir,
            "capabilities": known.capabilities,
            "tty": config.tty,
        }
        return await NamespaceExec.start(order, stdin=config.stdin)

    def logs(
        self, pod_id: str, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[LogLine]:
        """Kept output, the last `tail` lines of it; with `follow` until the container ends."""

        def ended() -> bool:
            pod = self._pods.get(pod_id)
            if pod is None:
                return True
            status = pod.statuses.get(container)
            return status is not None and status.state is ContainerState.EXITED

        path = self._logs(pod_id) / f"{container}.log"
        return read(path, follow=follow, tail=tail, ended=ended)

    async def stats(self, pod_id: str) -> PodStats:
        """What the pod uses."""
        return await asyncio.to_thread(self._stats, pod_id, self._pod(pod_id))

    def _stats(self, pod_id: str, pod: CriPod) -> PodStats:
        found: list[ContainerStats] = []
        pid = 0
        for name, status in pod.statuses.items():
            if status.pid:
                pid = status.pid
                found.append(self.cgroups.stats(cgroup_of(pid), name))
        own_network = bool(pod.addresses)
        return PodStats(pod_id, tuple(found), interface_stats(pid) if own_network else ())

    async def collect_garbage(self, known: Collection[str]) -> None:
        """Remove what neither a pod nor these ids need; containerd itself calls CNI's DEL."""
        await self._look()
        await asyncio.to_thread(self._collect_files, set(self._pods), {*known, *self._pods})

    def _collect_files(self, pods: set[str], known: set[str]) -> None:
        for parent, kept in ((self.state_dir / "logs", known), (self.run_dir / "files", pods)):
            for directory in parent.iterdir() if parent.is_dir() else ():
                if directory.name not in kept:
                    shutil.rmtree(directory, ignore_errors=True)

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_INTERVAL)
            for pod_id, pod in list(self._pods.items()):
                for container in self._running(pod):
                    with contextlib.suppress(RuntimeCallError):
                        await rotate(
                            self._cri,
                            container,
                            self._logs(pod_id) / f"{container.metadata.name}.log",
                        )
