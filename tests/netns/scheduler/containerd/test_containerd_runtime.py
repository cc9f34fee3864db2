# SPDX-License-Identifier: Apache-2.0
"""Pods of the driver `containerd`: a real containerd and runc, images, CNI by containerd."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import (
    ContainerConfig,
    ContainerState,
    ExecConfig,
    File,
    Limits,
    Mount,
    PodConfig,
    PodStatus,
    Runtime,
)
from tests.netns.scheduler.containerd.containerd_node import (
    DEADLINE,
    NODE,
    ContainerdNode,
    containerd_node,
)
from tests.spec.runtimes.conftest import IMAGE, image

__all__ = ["image"]  # a fixture
MISSING = [p for p in ("containerd", "runc", "ctr") if shutil.which(p) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.skipif(not Path("/usr/lib/cni/ptp").exists(), reason="needs CNI plugins"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def node(image: Path) -> Iterator[ContainerdNode]:
    directory = Path(tempfile.mkdtemp(prefix="fm-"))  # short: unix sockets live in it
    with containerd_node(directory, image) as made:
        yield made


def go(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def shell(text: str, **more: Any) -> ContainerConfig:
    fields = {"name": "main", "image": IMAGE, "command": ("/bin/sh", "-c", text), **more}
    return ContainerConfig(**fields)


async def run(runtime: Runtime, name: str, *containers: ContainerConfig, **more: Any) -> PodStatus:
    config = PodConfig(name, name, containers, **more)
    await runtime.create(config)
    await runtime.start(config)
    return await runtime.status(name)


async def until(runtime: Runtime, name: str, condition: Callable[[PodStatus], bool]) -> PodStatus:
    async with asyncio.timeout(DEADLINE):
        status = await runtime.status(name)
        while not condition(status):
            status = await runtime.wait(name, status)
        return status


def exited(status: PodStatus) -> bool:
    return all(c.state is ContainerState.EXITED for c in status.containers)


async def output(runtime: Runtime, name: str) -> str:
    return b"".join([line.data async for line in runtime.logs(name, "main")]).decode()


def test_a_container_gets_what_the_spec_says(node: ContainerdNode) -> None:
    script = """
        echo "$GREETING $(busybox id -u) $(busybox hostname) $PWD"
        busybox cat /run/secrets/key
        busybox grep other /etc/hosts
        busybox touch /cache/x && echo in memory
        exit 5
    """
    config = shell(
        script,
        env=("GREETING=hello",),
        user="65534",
        workdir="/bin",
        files=(File("/run/secrets/key", b"secret\n", uid=65534),),
        mounts=(Mount("tmpfs", "/cache"),),
        limits=Limits(memory=64 << 20, nano_cpus=10**9, pids=50),
    )

    async def story() -> None:
        async with node.running() as runtime:
            hosts = (("10.0.0.9", "other"),)
            status = await run(runtime, "p1", config, hostname="box", hosts=hosts)
            assert status.addresses[0].startswith("10.98.0.")
            status = await until(runtime, "p1", exited)
            text = await output(runtime, "p1")
            assert status.containers[0].exit_code == 5, text
            expected = ["hello 65534 box /bin", "secret", "10.0.0.9\tother", "in memory"]
            assert text.splitlines() == expected
            await runtime.remove("p1", keep_logs=True)
            assert await runtime.list() == []
            assert await output(runtime, "p1") == text
            await runtime.collect_garbage([])
            assert await output(runtime, "p1") == ""
        assert "containerd" in await _version(node)
        assert cgroups() == []

    go(story())


def cgroups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/flatmesh-scheduler/{NODE}"))


async def _version(node: ContainerdNode) -> str:
    async with node.running() as runtime:
        return await runtime.version()


def test_stop_exec_stats_and_a_second_container(node: ContainerdNode) -> None:
    polite = shell(
        "trap 'echo got it; exit 7' USR1; while :; do busybox sleep 0.1; done",
        stop_signal="SIGUSR1",
    )
    deaf = shell("trap '' TERM; while :; do busybox sleep 0.1; done", name="deaf")

    async def story() -> None:
        async with node.running() as runtime:
            await run(runtime, "p1", polite, deaf)
            process = await runtime.exec(
                "p1", "main", ExecConfig(("/bin/sh", "-c", "busybox cat; exit 3"), stdin=True)
            )
            await process.write(b"input")
            await process.write(b"")
            assert await process.read() == ("stdout", b"input")
            assert await process.wait() == 3
            stats = await runtime.stats("p1")
            assert {c.name for c in stats.containers} == {"main", "deaf"}
            assert [i.name for i in stats.interfaces] == ["eth0"]
            await runtime.stop("p1", 2.0)
            status = await until(runtime, "p1", exited)
            codes = {c.name: c.exit_code for c in status.containers}
            assert codes == {"main": 7, "deaf": 137}
            assert "got it" in await output(runtime, "p1")

    go(story())


def test_why_a_pod_does_not_start_is_told(node: ContainerdNode) -> None:
    async def story() -> None:
        async with node.running() as runtime:
            with pytest.raises(RuntimeCallError, match="no-such-image"):
                await run(runtime, "p1", shell("", image="localhost:1/no-such-image:1"))
            with pytest.raises(RuntimeCallError, match="nonesuch"):
                await run(runtime, "p2", shell("", command=("nonesuch",)))
            with pytest.raises(RuntimeCallError, match="size"):
                await run(runtime, "p3", shell("", mounts=(Mount("tmpfs", "/x", size=1),)))

    go(story())


def test_a_restarted_containerd_and_worker_find_everything(node: ContainerdNode) -> None:
    async def story() -> None:
        first = node.runtime()
        await first.open()
        stays = await run(first, "stays", shell("exec busybox sleep 100000"))
        await run(first, "ends", shell("busybox sleep 2; exit 6"))
        node.kill()
        begin = time.monotonic()
        await asyncio.sleep(3)
        await asyncio.to_thread(node.start)
        status = await until(first, "ends", exited)  # the same driver goes on
        assert status.containers[0].exit_code == 6
        assert time.monotonic() - begin < DEADLINE
        await first.close()
        async with node.running() as runtime:
            assert await runtime.status("stays") == stays
            assert (await runtime.status("ends")).containers[0].exit_code == 6
            await runtime.kill("stays", "SIGKILL")
            status = await until(runtime, "stays", exited)
            assert status.containers[0].exit_code == 137

    go(story())
