# SPDX-License-Identifier: Apache-2.0
"""Read container logs in CRI's format, across rotated files, and follow them as they grow."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from scheduler.runtime.protocol import LogLine

INTERVAL = 0.1  # seconds between looks at a followed file
CHUNK = 256 * 1024


def parse(line: bytes) -> LogLine | None:
    """One line of the file, without its newline; None for what is none of CRI's."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    end = b"" if parts[2].startswith(b"P") else b"\n"
    return LogLine(parts[0].decode(errors="replace"), parts[1].decode(), parts[3] + end)


def rotated(path: Path) -> list[Path]:
    """The files of a log, the oldest first."""
    older = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix[1:].isdigit()]
    older.sort(key=lambda p: -int(p.suffix[1:]))
    return [*older, path]


def last(lines: Iterable[LogLine], count: int | None) -> list[LogLine]:
    """The last `count` whole lines, their parts together; None: all."""
    found = list(lines)
    if count is None:
        return found
    begin = len(found)
    whole = 0
    while begin > 0 and whole <= count:
        begin -= 1
        if found[begin].data.endswith(b"\n") or begin == len(found) - 1:
            whole += 1
            if whole > count:
                begin += 1
                break
    return found[begin:]


async def read(
    path: Path, *, follow: bool, tail: int | None, ended: Callable[[], bool]
) -> AsyncIterator[LogLine]:
    """What is kept, then, with `follow`, what comes until `ended()` and all is read."""
    if follow:
        async for line in _follow(path, tail, ended):
            yield line
        return
    for line in last(await asyncio.to_thread(_kept, path), tail):
        yield line


def _kept(path: Path) -> list[LogLine]:
    return [line for file in rotated(path) if file.exists() for line in _one(file)]


async def _follow(
    path: Path, tail: int | None, ended: Callable[[], bool]
) -> AsyncIterator[LogLine]:
    kept: list[LogLine] = []
    descriptor, rest, first = -1, b"", True
    try:
        for file in rotated(path)[:-1]:
            kept += await asyncio.to_thread(_one, file)
        while True:
            over = ended()
            if descriptor < 0 and os.path.exists(path):  # noqa: ASYNC240, PTH110
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            fresh = b""
            while descriptor >= 0 and (data := os.read(descriptor, CHUNK)):
                fresh += data
            *raw, rest = (rest + fresh).split(b"\n")
            lines = [line for item in raw if (line := parse(item)) is not None]
            if first:
                lines, first = last([*kept, *lines], tail), False
            for line in lines:
                yield line
            if fresh:
                continue
            if descriptor >= 0 and _replaced(descriptor, path):
                os.close(descriptor)
                descriptor, rest = -1, b""
                continue
            if over:
                return
            await asyncio.sleep(INTERVAL)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _one(file: Path) -> list[LogLine]:
    lines = map(parse, file.read_bytes().split(b"\n"))
    return [line for line in lines if line is not None]


def _replaced(descriptor: int, path: Path) -> bool:
    """Whether the log was rotated since it was opened."""
    try:
        return os.fstat(descriptor).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return False
