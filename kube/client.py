# SPDX-License-Identifier: Apache-2.0
"""Requests to the API server: get, list by pages, watch, patch; no more than flatmesh makes.

Built on aiohttp; docs/decisions/0008-a-kubernetes-client.md says why not on a whole client library.

A list is read page by page (`limit`), so that only one page is in memory as JSON: 5,000 nodes are
50 MB. A watch asks for bookmarks, which tell the newest version also while nothing happens; a
connection that is silent for longer than bookmarks can be is given up. Source: kubernetes.io/docs,
"Kubernetes API Concepts".

Used by one event loop's tasks.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from kube.access import ApiAccess, tls_context
from kube.errors import (
    BrokenObjectError,
    GoneError,
    KubeError,
    KubeUnavailableError,
    NotFoundError,
)

PAGE = 500
"""Objects of one page of a list, as kubectl asks for."""
REQUEST_TIMEOUT = 30.0
"""Seconds for one request that is no watch."""
CONNECT_TIMEOUT = 10.0
WATCH_SECONDS = (300, 600)
"""How long one watch is asked for, at random: not all hosts come back at one moment."""
SILENCE = 150.0
"""Seconds without a byte after which a watch is given up: bookmarks come about once a minute."""
MAX_OBJECT = 16 << 20
"""Bytes of one event: etcd takes no object of more than 1.5 MB."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""So a server that is gone without a word is noticed within 35 s."""
MAX_TEXT = 300  # characters of the server's words in a message

Json = Mapping[str, Any]
log = logging.getLogger("kube")


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event: ADDED, MODIFIED, DELETED or BOOKMARK, and the object as it is now.

    The first one is CONNECTED, of ours, without an object: the server has taken the watch.
    """

    kind: str
    object: Json


class KubeClient:
    """One API server. Close it at the end."""

    def __init__(self, access: ApiAccess) -> None:
        """Called in the event loop; connects at the first request."""
        self.access = access
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[tuple[bytes, ...], ssl.SSLContext | None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # -- requests ------------------------------------------------------------------------

    async def get(self, path: str, **parameters: str) -> Json:
        """One object, or one page. Raises KubeError."""
        return await self._request("GET", path, parameters)

    async def pages(self, path: str, **parameters: str) -> AsyncIterator[tuple[list[Json], str]]:
        """The objects of a list, page by page, with the list's resourceVersion.

        Raises KubeError; GoneError where the list took so long that its rest is gone.
        """
        more = ""
        while True:
            rest = {"continue": more} if more else {}
            page = await self.get(path, limit=str(PAGE), **rest, **parameters)
            items, about = page.get("items"), page.get("metadata")
            if not isinstance(about, dict) or not isinstance(items, list | None):
                raise BrokenObjectError(f"{self.access.url}{path}: the answer is no list")
            yield items or [], str(about.get("resourceVersion", ""))
            more = str(about.get("continue") or "")
            if not more:
                return

    async def watch(self, path: str, version: str, **parameters: str) -> AsyncGenerator[WatchEvent]:
        """What happens after a version, until the server ends the watch. Raises KubeError.

        GoneError: that version is too old.
        """
        asked = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(random.randint(*WATCH_SECONDS)),  # noqa: S311
            **parameters,
        }
        timeout = aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT, sock_read=SILENCE)
        try:
            async with self._open().get(
                self.access.url + path, params=asked, timeout=timeout, **self._credentials()
            ) as response:
                if response.status != 200:
                    await self._refuse("watch", path, response)
                yield WatchEvent("CONNECTED", {})
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > MAX_OBJECT:
                        raise BrokenObjectError(f"watch {path}: an event over {MAX_OBJECT} bytes")
                    for line in lines:
                        if line.strip():
                            yield _event(path, line)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from None

    async def patch(self, path: str, body: Json, kind: str = "strategic-merge-patch") -> Json:
        """Change an object; `kind` is strategic-merge-patch or merge-patch. Raises KubeError."""
        content = {"Content-Type": f"application/{kind}+json"}
        return await self._request("PATCH", path, {}, json.dumps(body).encode(), content)

    # -- connections ---------------------------------------------------------------------

    def connect_anew(self) -> None:
        """Make new connections from the next request on."""
        session, self._session = self._session, None
        if session is not None:
            task = asyncio.create_task(session.close(), name="close connections")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(socket_factory=_socket, limit=16)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session

    def _credentials(self) -> dict[str, Any]:
        """Arguments of a request: the token and certificates as they are now."""
        headers = {"User-Agent": "flatmesh", "Accept": "application/json"}
        token = self.access.bearer()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        found: dict[str, Any] = {"headers": headers}
        if self.access.url.startswith("https:"):
            now = self.access.credentials()
            if self._tls is None or self._tls[0] != now:
                self._tls = now, tls_context(self.access)
            found["ssl"] = self._tls[1]
            if self.access.server_name:
                found["server_hostname"] = self.access.server_name
        return found

    async def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        arguments = self._credentials()
        arguments["headers"] |= headers or {}
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT)
        try:
            async with self._open().request(
                method,
                self.access.url + path,
                params=parameters,
                data=body,
                timeout=timeout,
                allow_redirects=False,
                **arguments,
            ) as response:
                if not 200 <= response.status < 300:
                    await self._refuse(method, path, response)
                found = json.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from None
        except (ValueError, RecursionError):
            raise BrokenObjectError(f"{self.access.url}{path}: the answer is not JSON") from None
        if not isinstance(found, dict):
            raise BrokenObjectError(f"{self.access.url}{path}: the answer is no object")
        return found

    async def _refuse(self, method: str, path: str, response: aiohttp.ClientResponse) -> None:
        """Raise what the server's refusal means."""
        text = (await response.content.read(64 << 10)).decode(errors="replace")
        raise refusal(f"{method} {path}", response.status, text)

    def _unavailable(self, error: BaseException) -> KubeError:
        text = str(error) or f"no answer within {REQUEST_TIMEOUT:.0f} s"
        return KubeUnavailableError(f"API server {self.access.url}: {text[:MAX_TEXT]}")


def refusal(what: str, status: int, body: str) -> KubeError:
    """The error for an answer of the server that is no success."""
    text = body.strip()
    try:
        told = json.loads(body)
        if isinstance(told, dict) and isinstance(told.get("message"), str):
            text = told["message"]
    except (ValueError, RecursionError):
        pass
    text = " ".join(text.split())[:MAX_TEXT]
    line = f"API server: {what}: {status}: {text}"
    if status == 410:
        return GoneError(line)
    if status == 404:
        return NotFoundError(line)
    if status == 401:
        return KubeError(f"{line}; it does not know our token or certificate")
    if status == 403:
        return KubeError(f"{line}; give our account that right (deploy/kubernetes/flatmesh.yml)")
    return KubeUnavailableError(line) if status >= 500 or status == 429 else KubeError(line)


def _event(path: str, line: bytes) -> WatchEvent:
    try:
        event = json.loads(line)
        kind, about = event["type"], event["object"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise BrokenObjectError(f"watch {path}: an event that is none") from None
    if not isinstance(kind, str) or not isinstance(about, dict):
        raise BrokenObjectError(f"watch {path}: an event that is none")
    if kind == "ERROR":
        code = about.get("code")
        raise refusal(f"watch {path}", code if isinstance(code, int) else 500, json.dumps(about))
    return WatchEvent(kind, about)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
