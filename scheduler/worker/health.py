# SPDX-License-Identifier: Apache-2.0
"""Health checks of a task: a command in it, an HTTP request or a TCP connection to it.

As Docker's: a check that fails during the start period does not count, `retries` failures in a
row make a task unhealthy, one success makes it healthy. `["HTTP", "8080/ready"]` and `["TCP",
"8080"]` are ours; they are asked from the node, at the task's address.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from scheduler.errors import SpecError
from scheduler.model.container import HealthConfig
from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import ExecConfig, Runtime

SECOND = 1_000_000_000
INTERVAL, TIMEOUT, START_INTERVAL, RETRIES = 30.0, 30.0, 5.0, 3  # Docker's defaults
MAX_OUTPUT = 4096  # bytes of a failed check's output that are told
Check = Callable[[], Awaitable[str]]
"""Empty: healthy; else why not."""


@dataclass(frozen=True, slots=True)
class HealthPlan:
    """When to check."""

    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float

    @classmethod
    def of(cls, config: HealthConfig) -> HealthPlan:
        """With Docker's defaults for what is 0."""
        return cls(
            config.interval / SECOND or INTERVAL,
            config.timeout / SECOND or TIMEOUT,
            config.retries or RETRIES,
            config.start_period / SECOND,
            config.start_interval / SECOND or START_INTERVAL,
        )


@dataclass(slots=True)
class HealthState:
    """What checks have shown until now."""

    plan: HealthPlan
    started: float
    health: str = "starting"
    failures: int = 0

    def result(self, problem: str, now: float) -> bool:
        """Take a check's result; whether the health changed."""
        before = self.health
        if not problem:
            self.health, self.failures = "healthy", 0
        elif self.health != "starting" or now >= self.started + self.plan.start_period:
            self.failures += 1
            if self.failures >= self.plan.retries:
                self.health = "unhealthy"
        return self.health != before

    def pause(self, now: float) -> float:
        """Seconds until the next check."""
        if self.health == "starting" and now < self.started + self.plan.start_period:
            return min(self.plan.start_interval, self.plan.interval)
        return self.plan.interval


def has_check(config: HealthConfig | None) -> bool:
    """Whether there is anything to check."""
    return config is not None and bool(config.test) and config.test[0] not in ("", "NONE")


def make_check(
    config: HealthConfig, runtime: Runtime, pod_id: str, container: str, address: str
) -> Check:
    """The check that a config asks for. Raises SpecError."""
    kind, *rest = config.test
    if kind == "CMD" and rest:
        return lambda: _command(runtime, pod_id, container, tuple(rest))
    if kind == "CMD-SHELL" and len(rest) == 1:
        return lambda: _command(runtime, pod_id, container, ("/bin/sh", "-c", rest[0]))
    if kind == "TCP" and len(rest) == 1:
        port = _port(rest[0])
        return lambda: _tcp(address, port)
    if kind == "HTTP" and len(rest) == 1:
        text, slash, path = rest[0].partition("/")
        port = _port(text or "80")
        return lambda: _http(address, port, slash + path or "/")
    raise SpecError(
        f'Healthcheck.Test {config.test}: known are ["NONE"], ["CMD", ...], '
        '["CMD-SHELL", "line"], ["TCP", "port"], ["HTTP", "port/path"]'
    )


def _port(text: str) -> int:
    digits = text.removeprefix(":")
    if not digits.isdigit() or not 0 < int(digits) < 65536:
        raise SpecError(f"Healthcheck.Test: {text!r} is no port")
    return int(digits)


async def _command(runtime: Runtime, pod_id: str, container: str, command: tuple[str, ...]) -> str:
    process = await runtime.exec(pod_id, container, ExecConfig(command))
    output = bytearray()
    try:
        while (piece := await process.read()) is not None:
            if len(output) < MAX_OUTPUT:
                output += piece[1]
        code = await process.wait()
    except asyncio.CancelledError:
        await process.kill()
        raise
    text = " ".join(output[:MAX_OUTPUT].decode(errors="replace").split())
    return "" if code == 0 else f"exit code {code}: {text}"


async def _tcp(address: str, port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    writer.close()
    return ""


async def _http(address: str, port: int, path: str) -> str:
    try:
        reader, writer = await asyncio.open_connection(address, port)
        try:
            host = f"[{address}]" if ":" in address else address
            head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            words = (await reader.readline()).split()
        finally:
            writer.close()
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"port {port}: no answer of HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"GET {path}: status {status}"


async def watch_health(
    check: Check, plan: HealthPlan, health: str, changed: Callable[[str, str], None]
) -> None:
    """Check until cancelled; `changed` is told health and reason, at the start too."""
    state = HealthState(plan, time.monotonic(), health)
    changed(state.health, "")
    if plan.start_period == 0 and plan.interval > 1:
        await asyncio.sleep(min(1.0, plan.interval))  # a first look soon, not after the interval
    while True:
        problem = await _once(check, plan)
        if state.result(problem, time.monotonic()):
            changed(state.health, problem)
        await asyncio.sleep(state.pause(time.monotonic()))


async def _once(check: Check, plan: HealthPlan) -> str:
    try:
        async with asyncio.timeout(plan.timeout):
            return await check()
    except TimeoutError:
        return f"no answer within {plan.timeout:g} s"
    except (RuntimeCallError, OSError) as error:
        return str(error)
