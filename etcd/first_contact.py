# SPDX-License-Identifier: Apache-2.0
"""Why no member of etcd can be reached: asked before the first answer, told within 2 s.

gRPC takes seconds to give up on an address where nobody answers, and its words for a wrong name or
protocol are those of its own parts. So until a cluster has answered once, a plain TCP connection is
tried first, and when gRPC fails all the same, what speaks there is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from etcd.errors import EtcdUnavailableError

TIMEOUT = 1.2  # seconds for names and TCP; a SYN that was lost is sent again after 1 s
SLOW = 1.2  # seconds without an answer that are told
PAUSES = (0.1, 0.3)  # seconds before the second and the third try
ANSWER_TIMEOUT = 0.5  # seconds for one look at what speaks there
log = logging.getLogger("etcd.client")
ANSWER = b'"etcdserver"'  # in what etcd answers to GET /version


async def require_reachable(endpoints: Sequence[str], within: float = TIMEOUT) -> None:
    """Return as soon as one member takes a connection. Raises EtcdUnavailableError.

    An etcd that refuses may be starting: it is tried again for half a second.
    """
    last = asyncio.get_running_loop().time() + sum(PAUSES)
    for pause in (*PAUSES, None):
        try:
            await _require_one(endpoints, within)
        except EtcdUnavailableError:
            if pause is None or asyncio.get_running_loop().time() > last:
                raise
            await asyncio.sleep(pause)
        else:
            return


async def _require_one(endpoints: Sequence[str], within: float) -> None:
    tasks = {url: asyncio.create_task(_refusal(url, within)) for url in endpoints}
    try:
        for done in asyncio.as_completed(tasks.values()):
            if await done is None:
                return
    finally:
        for task in tasks.values():
            task.cancel()
    reasons: dict[str, list[str]] = {}
    for url, task in tasks.items():
        reasons.setdefault(str(task.result()), []).append(url)
    told = [f"etcd {','.join(urls)}: {reason}" for reason, urls in reasons.items()]
    raise EtcdUnavailableError("; ".join(told))


@dataclass(slots=True)
class Patience:
    """Says once that an answer is waited for, when that lasts longer than people expect."""

    where: str
    _told: bool = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block is the waiting."""
        timer = asyncio.get_running_loop().call_later(SLOW, self._tell)
        try:
            yield
        finally:
            timer.cancel()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.warning("etcd %s takes connections, but has not answered yet: waiting", self.where)


async def wrong_protocol(endpoints: Sequence[str]) -> str | None:
    """Why a member takes connections and yet no gRPC comes through; None: unknown."""
    for url in endpoints:
        parts = urlsplit(url)
        where = (parts.hostname, parts.port)
        if parts.scheme == "http" and await _speaks_tls(where):
            return f"etcd {url}: it speaks TLS there: write https://, and give --etcd-cafile"
        page = await _version_page(where)
        if parts.scheme == "https" and ANSWER in page:
            return f"etcd {url}: it speaks no TLS there: write http://"
        if page and ANSWER not in page:
            return f"etcd {url}: what answers there is no etcd: check host and port"
    return None


async def _refusal(url: str, within: float) -> str | None:
    """Why nobody takes a connection there; None: somebody does."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 0
    try:
        async with asyncio.timeout(within):
            addresses = await _lookup(host, port)
    except TimeoutError:
        return f"the name {host} is not resolved within {within:g} s: check this host's DNS"
    except OSError as error:
        return f"the name {host} can't be resolved ({error.strerror}): check it, or this host's DNS"
    try:
        async with asyncio.timeout(within):
            return await _first_success([_connect(address, port) for address in addresses])
    except TimeoutError:
        return f"no answer within {within:g} s: check the address, and routes and firewalls to it"


async def _first_success(attempts: Sequence[Awaitable[str | None]]) -> str | None:
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    reason: str | None = None
    try:
        for done in asyncio.as_completed(tasks):
            reason = await done
            if reason is None:
                return None
    finally:
        for task in tasks:
            task.cancel()
    return reason


async def _connect(address: str, port: int) -> str | None:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return "Connection refused: check that etcd runs there, and that this is its client port"
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        return f"{words}: check the address, and the routes to it"
    writer.close()
    return None


async def _lookup(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError.

    In a thread of its own: one of asyncio's would keep the program from ending while it waits for
    a name server.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def deliver(result: list[str] | OSError) -> None:
        if found.done():
            return
        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)

    def work() -> None:
        result: list[str] | OSError
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            result = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except OSError as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=work, name="look up etcd", daemon=True).start()
    return await found


async def _speaks_tls(where: tuple[Any, Any]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent: what speaks there is all we ask
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            _, writer = await asyncio.open_connection(*where, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _version_page(where: tuple[Any, Any]) -> bytes:
    """What is answered to a plain HTTP request; nothing when nobody does."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_connection(*where)
            try:
                writer.write(b"GET /version HTTP/1.0\r\n\r\n")
                return await reader.read(4096)
            finally:
                writer.transport.abort()
    return b""
