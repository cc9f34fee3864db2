# SPDX-License-Identifier: Apache-2.0
"""A node with the process runtime: real namespaces and cgroups, its network in a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from scheduler.runtime.cni.network import Networks
from scheduler.runtime.process.driver import ProcessRuntime
from scheduler.runtime.protocol import ContainerConfig, ContainerState, PodConfig, PodStatus

PLUGINS = Path("/usr/lib/cni")
DEADLINE = 60.0  # seconds, for anything that is waited for


def install_network(directory: Path, netns: str, *, portmap: bool = False) -> None:
    """A conflist, and plugins that run in a network namespace as on a host of its own."""
    (directory / "bin").mkdir(parents=True)
    (directory / "net.d").mkdir()
    for name in ("ptp", "host-local", "portmap"):
        program = directory / "bin" / name
        command = shlex.join(["nsenter", f"--net=/run/netns/{netns}", str(PLUGINS / name)])
        program.write_text(f"#!/bin/sh\nexec {command}\n")
        program.chmod(0o755)
    ipam = {
        "type": "host-local",
        "subnet": "10.99.0.0/24",
        "dataDir": str(directory / "ipam"),
    }
    plugins: list[dict[str, object]] = [{"type": "ptp", "ipam": ipam}]
    if portmap:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (directory / "net.d/10-pods.conflist").write_text(json.dumps(conflist))


def new_runtime(directory: Path, node: str, run_dir: Path | None = None) -> ProcessRuntime:
    networks = Networks(directory / "net.d", [directory / "bin"], directory / "state/cni")
    return ProcessRuntime(node, directory / "state", run_dir or directory / "run", networks)


@contextlib.asynccontextmanager
async def running(directory: Path, node: str = "fm-test-node") -> AsyncIterator[ProcessRuntime]:
    """A runtime; its pods are removed at the end."""
    runtime = new_runtime(directory, node)
    await runtime.open()
    try:
        yield runtime
    finally:
        for pod in await runtime.list():
            await runtime.remove(pod.id)
        await runtime.close()


def shell(text: str, **more: object) -> ContainerConfig:
    fields: dict[str, object] = {
        "name": "main",
        "image": "host",
        "command": ("/bin/sh", "-c", text),
    }
    return ContainerConfig(**{**fields, **more})  # type: ignore[arg-type]


def pod(name: str, *containers: ContainerConfig, **more: object) -> PodConfig:
    return PodConfig(name, name, containers, **more)  # type: ignore[arg-type]


async def run(runtime: ProcessRuntime, config: PodConfig) -> PodStatus:
    await runtime.create(config)
    await runtime.start(config)
    return await runtime.status(config.id)


async def until(
    runtime: ProcessRuntime, pod_id: str, condition: Callable[[PodStatus], bool]
) -> PodStatus:
    async with asyncio.timeout(DEADLINE):
        status = await runtime.status(pod_id)
        while not condition(status):
            status = await runtime.wait(pod_id, status)
        return status


def exited(status: PodStatus) -> bool:
    return all(c.state is ContainerState.EXITED for c in status.containers)


async def output(runtime: ProcessRuntime, pod_id: str, container: str = "main") -> str:
    found = [line.data async for line in runtime.logs(pod_id, container)]
    return b"".join(found).decode()
