# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the spawner: started when it is first needed, and again if it ends."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process.exec_process import python_program

TIMEOUT = 30.0  # seconds for a supervisor to be there, on a busy machine


class Spawner:
    """Starts supervisors, several at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._starting = asyncio.Lock()

    async def open(self) -> None:
        """Start it, where it does not run."""
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *python_program("scheduler.runtime.process.spawner"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                raise RuntimeCallError(f"the spawner of pods: {error}") from None
            self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 # it was started with a pipe
        while line := await process.stdout.readline():
            directory, _, problem = line.decode(errors="replace").rstrip("\n").partition("\t")
            waiting = self._waiting.pop(directory, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(problem)
        await process.wait()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result("the spawner of pods ended")
        self._waiting.clear()

    async def spawn(self, directory: Path) -> None:
        """Start the supervisor of the pod in this directory; raises RuntimeCallError."""
        await self.open()
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[str(directory)] = answer
        assert self._process is not None  # noqa: S101 # open() has started it
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(f"{directory}\n".encode())
            await self._process.stdin.drain()
            problem = await asyncio.wait_for(answer, TIMEOUT)
        except (OSError, TimeoutError):
            problem = "no answer of the spawner"
        finally:
            self._waiting.pop(str(directory), None)
        if problem:
            raise RuntimeCallError(f"a pod's namespaces can't be made: {problem}")

    async def close(self) -> None:
        """End it; supervisors go on."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
