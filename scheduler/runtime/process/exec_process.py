# SPDX-License-Identifier: Apache-2.0
"""A command that runs inside of a container, seen from the worker: its streams and its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import sys
import termios
from pathlib import Path
from typing import Any

CHUNK = 64 * 1024
QUEUE = 64  # pieces of output that wait for a reader; the command then waits, too
PROGRAM = "import sys; sys.path.insert(0, sys.argv.pop(1)); import {0} as program; program.main()"


def python_program(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of ours in a Python of its own."""
    root = str(Path(__file__).parents[3])
    return [sys.executable, "-I", "-c", PROGRAM.format(module), root, *arguments]


class NamespaceExec:
    """Offers what `protocol.ExecProcess` says."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self._process, self._terminal = process, terminal
        self._output: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(QUEUE)
        self._reader = asyncio.create_task(self._read_all())

    @classmethod
    async def start(cls, order: dict[str, Any], *, stdin: bool) -> NamespaceExec:
        """Start it; `order` is what `enter` reads."""
        memory = os.memfd_create("exec")
        os.write(memory, json.dumps(order).encode())
        terminal, slave = os.openpty() if order["tty"] else (-1, -1)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *python_program("scheduler.runtime.process.enter", str(memory)),
                stdin=slave if order["tty"] else pipe if stdin else asyncio.subprocess.DEVNULL,
                stdout=slave if order["tty"] else pipe,
                stderr=slave if order["tty"] else pipe,
                pass_fds=(memory,),
                start_new_session=True,
            )
        finally:
            os.close(memory)
            if slave >= 0:
                os.close(slave)
        return cls(process, terminal)

    async def _read_all(self) -> None:
        try:
            if self._terminal >= 0:
                await self._read_terminal()
            else:
                streams = (("stdout", self._process.stdout), ("stderr", self._process.stderr))
                await asyncio.gather(*(self._copy(n, s) for n, s in streams if s is not None))
        finally:
            await self._output.put(None)

    async def _copy(self, name: str, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(CHUNK):
            await self._output.put((name, data))

    async def _read_terminal(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._terminal, ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                try:
                    data = os.read(self._terminal, CHUNK)
                except OSError:  # the last process of the terminal has gone
                    return
                if not data:
                    return
                await self._output.put(("stdout", data))
        finally:
            loop.remove_reader(self._terminal)
            os.close(self._terminal)
            self._terminal = -1

    async def read(self) -> tuple[str, bytes] | None:
        """Next output: stream and bytes; None at the end."""
        piece = await self._output.get()
        if piece is None:
            self._output.put_nowait(None)  # for whoever reads again
        return piece

    async def write(self, data: bytes) -> None:
        """Give it input; without bytes: the input ends."""
        if self._terminal >= 0:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(os.write, self._terminal, data or b"\x04")
        elif (stdin := self._process.stdin) is not None:
            with contextlib.suppress(OSError):
                if data:
                    stdin.write(data)
                    await stdin.drain()
                else:
                    stdin.close()

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal's new size."""
        if self._terminal >= 0:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def wait(self) -> int:
        """Exit code."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(2):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
