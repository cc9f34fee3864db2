# SPDX-License-Identifier: Apache-2.0
"""Work that goes on beside a block of code and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


def task_of(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """Run `work` as a task that `stack` cancels at its end. Called in the event loop."""

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    task = asyncio.create_task(work, name=name)
    stack.push_async_callback(stop)


@contextlib.asynccontextmanager
async def background_task(
    work: Coroutine[Any, Any, None], name: str, *, ignoring: tuple[type[Exception], ...] = ()
) -> AsyncIterator[None]:
    """Run `work` as a task inside the block, and cancel it at the end.

    What it raised is raised at the end of the block, but for the errors in `ignoring`.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, *ignoring):
            await task
