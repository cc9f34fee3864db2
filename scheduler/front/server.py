# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: versions in paths, limits, and errors that say what is wrong.

Whoever may open the socket is root on every node, as with dockerd's: only its owner and group may.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from etcd.errors import EtcdError
from scheduler.errors import SchedulerError
from scheduler.front.answers import Handler, Route, refusal, status_of
from scheduler.front.cluster import Cluster

VERSION, OLDEST = "1.41", "1.24"
MAX_BODY = 4 << 20  # bytes
TIME_LIMIT = 30.0  # seconds for an answer that does not stream
STREAMS = re.compile(r".*/(logs|events|attach|start|wait|stats)")
VERSIONED = re.compile(r"/v(\d{1,3})\.(\d{1,3})(/.*)")

log = logging.getLogger("scheduler.front")


def application(cluster: Cluster, routes: Iterable[Route]) -> web.Application:
    """All routes, with and without a version before the path."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _answered(cluster, request, handler)
        if not response.prepared:
            response.headers["Api-Version"] = VERSION
            response.headers["Ostype"] = "linux"
            response.headers["Server"] = "flatmesh-scheduler"
        return response

    app = web.Application(middlewares=[guarded], client_max_size=MAX_BODY)
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
        app.router.add_route(method, r"/v{version:\d+\.\d+}" + path, handler)
    return app


async def _answered(cluster: Cluster, request: web.Request, handler: Handler) -> web.StreamResponse:
    version = VERSIONED.fullmatch(request.path)
    if version is not None and (problem := version_problem(int(version[1]), int(version[2]))):
        return refusal(400, problem)
    try:
        if not request.path.endswith("/_ping"):
            cluster.require_complete()
        if STREAMS.fullmatch(request.path):
            return await handler(request)
        async with asyncio.timeout(TIME_LIMIT):
            return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return refusal(413, f"the request's body is larger than {MAX_BODY} bytes")
    except web.HTTPException as error:
        path = version[3] if version is not None else request.path
        if error.status in (404, 405):
            return refusal(
                501,  # not 404: of that the client would make "no such object"
                f"{request.method} {path} is not supported by flatmesh-scheduler: "
                "docs/scheduler lists what is",
            )
        return refusal(error.status, error.reason)
    except TimeoutError:
        return refusal(504, f"no answer within {TIME_LIMIT:.0f} s: etcd is slow")
    except (SchedulerError, EtcdError) as error:
        return refusal(status_of(error), str(error))
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return refusal(500, f"{type(error).__name__} in flatmesh-scheduler: its log has more")


def version_problem(major: int, minor: int) -> str:
    """Why a version of the API is not served; empty: it is."""
    newest, oldest = (tuple(map(int, one.split("."))) for one in (VERSION, OLDEST))
    if (major, minor) > newest:
        return (
            f"client version {major}.{minor} is too new. Maximum supported API version is {VERSION}"
        )
    if (major, minor) < oldest:
        return (
            f"client version {major}.{minor} is too old. Minimum supported API version is "
            f"{OLDEST}, please upgrade your client to a newer version"
        )
    return ""


def unix_listener(path: Path) -> socket.socket:
    """Listen at a path; what a killed process left there is replaced. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise FileExistsError(f"--socket {path}: there is a file that is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise FileExistsError(f"--socket {path}: another process listens there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    fresh = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        fresh.unlink()
    listener.bind(str(fresh))
    fresh.chmod(0o660)
    listener.listen(128)
    fresh.rename(path)  # from now on it can be opened, and only by those who may
    return listener


def tls_context(certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """Mutual TLS: who has no certificate of the CA is refused. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
