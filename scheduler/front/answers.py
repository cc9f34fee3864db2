# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests and answers, and errors as Docker writes them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from etcd.errors import EtcdError
from scheduler.errors import (
    ConflictError,
    NotFoundError,
    OutOfDateError,
    SchedulerError,
    SpecError,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]
"""Method, path below the version, and who answers."""


def status_of(error: Exception) -> int:
    """The HTTP status that tells of an error."""
    match error:
        case NotFoundError():
            return 404
        case ConflictError():
            return 409
        case SpecError() | OutOfDateError():
            return 400
        case SchedulerError():
            return 409
        case EtcdError():
            return 503
        case TimeoutError():
            return 504
        case _:
            return 500


def refusal(status: int, message: str) -> web.Response:
    """An error as Docker's clients read it: with a charset they would show the JSON."""
    body = json.dumps({"message": message}).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def answer(document: object, status: int = 200) -> web.Response:
    """JSON."""
    return web.json_response(document, status=status)


async def body_of(request: web.Request) -> Any:
    """The JSON object that was sent. Raises SpecError."""
    try:
        given = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError) as error:
        raise SpecError(f"the request's body is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise SpecError("the request's body is not a JSON object")
    return given


def refuse_unknown(request: web.Request, *known: str) -> None:
    """Raise SpecError for a query parameter that says something and is not known."""
    for name, value in request.query.items():
        if name not in known and value not in ("", "0", "false"):
            raise SpecError(f"parameter {name}={value} is not supported: leave it out")


def flag(request: web.Request, name: str) -> bool:
    """A parameter that is 1 or true."""
    return request.query.get(name, "").lower() in ("1", "true")


def number(request: web.Request, name: str) -> int:
    """A parameter that is a number. Raises SpecError."""
    given = request.query.get(name, "")
    if not given.isdecimal():
        raise SpecError(f"parameter {name}: {given!r} is no number")
    return int(given)


def when(seconds: float) -> str:
    """A time as Docker writes it; 0: Go's zero time."""
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
