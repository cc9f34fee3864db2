# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio

import pytest

from scheduler.errors import SpecError
from scheduler.model.container import HealthConfig
from scheduler.runtime.protocol import Runtime
from scheduler.worker.health import HealthPlan, HealthState, has_check, make_check

NO_RUNTIME: Runtime = None  # type: ignore[assignment] # these checks run no command


def config(*test: str, **more: int) -> HealthConfig:
    return HealthConfig.model_validate({"Test": list(test), **more})


def test_without_a_test_nothing_is_checked() -> None:
    assert not has_check(None)
    assert not has_check(config())
    assert not has_check(config("NONE"))
    assert has_check(config("CMD", "true"))


@pytest.mark.parametrize(
    "test", [("CMD",), ("CMD-SHELL", "a", "b"), ("TCP", "x"), ("HTTP",), ("UDP", "1"), ("TCP", "0")]
)
def test_an_unknown_test_is_refused(test: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="Healthcheck"):
        make_check(config(*test), NO_RUNTIME, "p", "main", "127.0.0.1")


def test_a_server_is_asked() -> None:
    async def story() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            status = b"200 OK" if line.startswith(b"GET /ready ") else b"503 Busy"
            writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def found(*test: str) -> str:
            return await make_check(config(*test), NO_RUNTIME, "p", "main", "127.0.0.1")()

        assert await found("HTTP", f"{port}/ready") == ""
        assert await found("HTTP", f":{port}") == "GET /: status 503"
        assert await found("TCP", str(port)) == ""
        server.close()
        await server.wait_closed()
        assert f"port {port}" in await found("TCP", str(port))
        assert f"port {port}" in await found("HTTP", f"{port}/ready")

    asyncio.run(story())


def test_docker_defaults_stand_for_zero() -> None:
    assert HealthPlan.of(config("CMD", "true")) == HealthPlan(30.0, 30.0, 3, 0.0, 5.0)


def test_failures_count_in_a_row_and_not_during_the_start_period() -> None:
    state = HealthState(HealthPlan(10.0, 1.0, 2, 5.0, 1.0), started=100.0)
    assert not state.result("no", 101.0)
    assert not state.result("no", 102.0)
    assert (state.health, state.pause(102.0)) == ("starting", 1.0)
    assert state.result("", 103.0)
    assert (state.health, state.pause(103.0)) == ("healthy", 10.0)
    assert not state.result("no", 113.0)
    assert not state.result("", 123.0)
    assert not state.result("no", 133.0)
    assert state.result("no", 143.0)
    assert state.health == "unhealthy"
    assert state.result("", 153.0)
    assert state.health == "healthy"
