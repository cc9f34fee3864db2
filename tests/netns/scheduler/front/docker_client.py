# SPDX-License-Identifier: Apache-2.0
"""A manager's process that serves Docker's API, and the real docker client."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.etcd_server import EtcdServer
from tests.netns.scheduler.running_managers import KEYS

DOCKER = Path("/usr/bin/docker")
ROOT = Path(__file__).parents[4]
START_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class DockerClient:
    """`docker -H unix://...`."""

    socket: Path
    host: tuple[str, ...] = ()
    """Other options of where it connects to than the socket."""

    async def __call__(self, *arguments: str, fails: bool = False) -> str:
        """Run it; what it printed, of one that fails what it complains about."""
        process = await asyncio.create_subprocess_exec(
            *(str(DOCKER), *(self.host or ("-H", f"unix://{self.socket}")), *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.socket.parent)},
        )
        async with asyncio.timeout(COMMAND_TIMEOUT):
            out, problem = await process.communicate()
        text = out.decode() + problem.decode()
        assert bool(process.returncode) == fails, f"docker {' '.join(arguments)}: {text}"
        return problem.decode().strip() if fails else out.decode().strip()


@contextlib.asynccontextmanager
async def manager_process(
    etcd: EtcdServer, directory: Path, name: str = "m1", flags: Sequence[str] = ()
) -> AsyncIterator[DockerClient]:
    """`flatmesh-scheduler run --manager`, until it answers."""
    socket, log = directory / f"{name}.sock", directory / f"{name}.log"
    arguments = ["-m", "scheduler", "run", "--manager", "--node-id", name]
    arguments += ["--prefix", KEYS.prefix, "--etcd-endpoints", etcd.client_url]
    arguments += ["--state-dir", str(directory / name), "--socket", str(socket)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments, *flags), cwd=ROOT, stderr=log.open("ab")
    )
    client = DockerClient(socket)
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while not socket.exists():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield client
    finally:
        process.terminate()
        await process.wait()
