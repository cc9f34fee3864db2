# SPDX-License-Identifier: Apache-2.0
"""All pods of this node as containerd has them: two lists, and a status per container."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.runtime.containerd import cri_pb2 as pb
from scheduler.runtime.containerd.connection import CriConnection, CriError
from scheduler.runtime.containerd.details import ContainerDetails, details
from scheduler.runtime.containerd.messages import NODE_LABEL, POD_LABEL, USER_LABEL
from scheduler.runtime.protocol import ContainerState, ContainerStatus, PodStatus

EXITED, UNKNOWN = 2, 3
STATES = {0: ContainerState.CREATED, 1: ContainerState.RUNNING}
NANOSECOND = 1e-9


@dataclass(slots=True)
class CriPod:
    """One sandbox with its containers."""

    sandbox: pb.PodSandbox
    containers: dict[str, pb.Container] = field(default_factory=dict)
    """By name."""
    addresses: tuple[str, ...] = ()
    statuses: dict[str, ContainerStatus] = field(default_factory=dict)

    def status(self) -> PodStatus:
        """As the protocol says it."""
        annotations = self.sandbox.annotations
        network = "containerd"
        return PodStatus(
            self.sandbox.labels[POD_LABEL],
            self.sandbox.metadata.name,
            tuple(self.statuses.values()),
            self.addresses,
            self.sandbox.created_at * NANOSECOND,
            tuple((network, address) for address in self.addresses),
            {
                k.removeprefix(USER_LABEL): v
                for k, v in annotations.items()
                if k.startswith(USER_LABEL)
            },
        )


class CriPods:
    """Reads containerd; what can't change any more is remembered."""

    def __init__(self, cri: CriConnection, node: str) -> None:
        self._cri, self._node = cri, node
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._ended: dict[str, ContainerStatus] = {}
        self.details: dict[str, ContainerDetails] = {}
        """By container id, of those that run."""

    async def read(self) -> dict[str, CriPod]:
        """All pods by id. Raises RuntimeCallError."""
        ours = {NODE_LABEL: self._node}
        sandboxes = await self._cri.call(
            "ListPodSandbox",
            pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=ours)),
            pb.ListPodSandboxResponse,
        )
        containers = await self._cri.call(
            "ListContainers",
            pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=ours)),
            pb.ListContainersResponse,
        )
        found = {s.id: CriPod(s) for s in sandboxes.items}
        for container in sorted(containers.containers, key=lambda c: c.metadata.attempt):
            pod = found.get(container.pod_sandbox_id)
            if pod is not None:
                name = container.metadata.name
                pod.containers[name] = container
                status = await self._status(container)
                if status is not None:
                    pod.statuses[name] = status
        for pod in found.values():
            pod.addresses = await self._of_network(pod.sandbox.id)
        self._forget({s.id for s in sandboxes.items}, {c.id for c in containers.containers})
        return {pod.sandbox.labels[POD_LABEL]: pod for pod in found.values()}

    async def _status(self, container: pb.Container) -> ContainerStatus | None:
        if (known := self._ended.get(container.id)) is not None:
            return known
        verbose = container.id not in self.details
        request = pb.ContainerStatusRequest(container_id=container.id, verbose=verbose)
        try:
            answer = await self._cri.call("ContainerStatus", request, pb.ContainerStatusResponse)
        except CriError as error:
            if error.code == "NOT_FOUND":
                return None  # removed since it was listed
            raise
        found = answer.status
        state = STATES.get(found.state, ContainerState.EXITED)
        if state is ContainerState.RUNNING and verbose:
            self.details[container.id] = details(answer.info.get("info", ""))
        running = state is ContainerState.RUNNING
        known_details = self.details.get(container.id)
        status = ContainerStatus(
            container.metadata.name,
            state,
            known_details.pid if running and known_details is not None else 0,
            found.started_at * NANOSECOND,
            found.finished_at * NANOSECOND,
            found.exit_code if found.state != UNKNOWN else 137,
            found.reason == "OOMKilled",
            _problem(found),
        )
        if state is ContainerState.EXITED:
            self._ended[container.id] = status
        return status

    async def _of_network(self, sandbox: str) -> tuple[str, ...]:
        if sandbox not in self._addresses:
            answer = await self._cri.call(
                "PodSandboxStatus",
                pb.PodSandboxRequest(pod_sandbox_id=sandbox),
                pb.PodSandboxStatusResponse,
            )
            network = answer.status.network
            addresses = [network.ip, *(a.ip for a in network.additional_ips)]
            self._addresses[sandbox] = tuple(a for a in addresses if a)
        return self._addresses[sandbox]

    def _forget(self, sandboxes: set[str], containers: set[str]) -> None:
        self._addresses = {k: v for k, v in self._addresses.items() if k in sandboxes}
        self._ended = {k: v for k, v in self._ended.items() if k in containers}
        self.details = {k: v for k, v in self.details.items() if k in containers}


def _problem(found: pb.ContainerStatus) -> str:
    if found.state == UNKNOWN:
        return "containerd lost the container"
    if found.reason in ("", "Completed", "Error", "OOMKilled"):
        return ""
    return " ".join(f"{found.reason}: {found.message}".split())
