# SPDX-License-Identifier: Apache-2.0
"""gRPC channels to an etcd cluster: endpoints, TLS, login, deadlines, and errors in one line.

Theory of operation
-------------------
Where all endpoints are plain IP addresses of one family, one gRPC channel holds them all and
spreads calls over the members that are up. Otherwise (names, which gRPC resolves again by
itself; certificates, of which each member has its own) every endpoint has its own channel,
and a call that finds its member away goes to the next.

Rules, each learned from a fault that a published client has:

- Every unary call has a deadline: a black hole is an error after seconds, not a hang.
- Keepalive *and* ping timeout are set: with keepalive alone a connection that was cut
  silently stays "up" for minutes. etcd hangs up on whoever pings more often than every 5 s
  (its --grpc-keepalive-min-time).
- A call whose member went away is tried again twice. It may have been done the first time:
  whoever writes must be able to tell its own work from another's.
- Tokens expire; a refused one is answered by one new login.

Sources: etcd, Documentation/learning/api.md and op-guide/authentication; gRPC core's
doc/keepalive.md and doc/naming.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

# gRPC's core writes to stderr by itself, several lines for each refused connection; what it
# has to say reaches us as errors, too. It looks at this variable when it is loaded: let
# nobody else import it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Names are looked up by the system's resolver (getaddrinfo), as every program of the host does.
# gRPC's own one asks the DNS servers also for a name that is in /etc/hosts: without an answer
# from them it found nothing within our deadline.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

import grpc
import grpc.aio

from etcd import etcd_pb2 as pb
from etcd import first_contact
from etcd.errors import EtcdAuthError, EtcdError, EtcdUnavailableError
from etcd.login import Login
from etcd.tls import REFUSED_CERTIFICATE, TlsFiles

DEADLINE = 5.0  # seconds for a unary call
LIST_FACTOR = 6
"""How much longer a list may take: when thousands of hosts come back at once each wants all
leases, and a list that is given up and tried again makes etcd do its work twice."""
PAUSES = (0.1, 0.3)  # seconds before the second and the third try
KEEPALIVE = 7000  # milliseconds without a byte until a ping is sent
PING_TIMEOUT = 3000  # milliseconds for its answer
CONNECT_TIMEOUT = 3000  # milliseconds for TCP and TLS
OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", KEEPALIVE),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT),
    ("grpc.keepalive_permit_without_calls", 0),  # an idle client is no load
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),  # 10,000 leases are more than the default 4 MiB
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),  # ours know which errors are worth it
    ("grpc.dns_enable_srv_queries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel gets the old one's connection
    ("grpc.enable_http_proxy", 0),  # $http_proxy is meant for others
]
# What etcd says of a token it no longer takes (etcd, api/v3rpc/rpctypes/error.go)
STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
REFUSED = ("authentication failed", "invalid user ID", "permission denied", "user name is empty")
TLS_TROUBLE = ("CERTIFICATE", "SSL", "TLS", "TSI", "HANDSHAKE", "VERIFICATION")

END = grpc.aio.EOF
"""What a stream that ended reads as."""
RpcError: TypeAlias = grpc.aio.AioRpcError

log = logging.getLogger("etcd.client")
Answer = TypeVar("Answer")


class EtcdChannel:
    """Calls to a cluster. Open it in the event loop that uses it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        login: Login | None,
        deadline: float,
    ) -> None:
        """Describe the cluster. Raises EtcdError for unusable URLs or certificate files."""
        self.where = ",".join(endpoints)
        self.deadline = deadline
        self._targets, secure = targets(endpoints)
        self._tls = TlsFiles(ca, cert, key) if secure else None
        self._pem = self._tls.read() if self._tls else None
        self._unreadable = ""
        self._channels: list[grpc.aio.Channel] = []
        self._retired: list[grpc.aio.Channel] = []
        self._at = 0
        self._login = login
        self._token: str | None = None
        self._login_lock = asyncio.Lock()
        self._urls = tuple(endpoints)
        self._patience = first_contact.Patience(self.where)
        self._answered = False
        """Whether any member has answered; until then it is told why none does."""

    def open(self) -> None:
        """Make the channels; they connect, and reconnect, when they are used."""
        for target in self._targets:
            if self._pem is None:
                channel = grpc.aio.insecure_channel(target, OPTIONS)
            else:
                credentials = grpc.ssl_channel_credentials(*self._pem)
                channel = grpc.aio.secure_channel(target, credentials, OPTIONS)
            self._channels.append(channel)

    def renew(self) -> None:
        """Use new connections from now on: the host's own address has changed.

        The old ones would be noticed as dead only after the pings' timeout. They are kept
        until the end all the same: closing one cancels the tasks that wait on its streams.
        """
        self._retired += self._channels
        self._channels = []
        self.open()

    def renew_if_files_changed(self) -> bool:
        """After a failure: connect anew if the certificate files are others than last time.

        A gRPC channel uses the bytes that it was made with for each later connection, too:
        without this, a certificate that was replaced on disk would be of no use until the next
        start. It is not done before each call: a connection that stands stays good, and files
        that are just being replaced, one after the other, don't fit each other for a moment.
        """
        if self._tls is None:
            return False
        try:
            pem = self._tls.read()
        except EtcdError as error:
            if str(error) != self._unreadable:
                log.warning("%s; etcd is reached with what was read before", error)
            self._unreadable = str(error)
            return False
        self._unreadable = ""
        if pem == self._pem:
            return False
        log.info("etcd %s: the certificate files have changed, connecting with them", self.where)
        self._pem = pem
        self.renew()
        return True

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        channels = self._channels + self._retired
        self._channels, self._retired = [], []
        for channel in channels:
            await channel.close()

    async def unary(
        self, method: str, request: Any, answer: type[Answer], *, deadline: float | None = None
    ) -> Answer:
        """Make one call, tried again where that may help. Raises EtcdError."""
        seconds = deadline or self.deadline

        async def once() -> Answer:
            call = self._channel.unary_unary(
                f"/etcdserverpb.{method}",
                _serialize,
                answer.FromString,  # type: ignore[attr-defined]
            )
            result: Answer = await call(request, timeout=seconds, metadata=self._metadata())
            return result

        return await self.retried(once, seconds)

    @asynccontextmanager
    async def stream(
        self, method: str, answer: Any, *metadata: tuple[str, str]
    ) -> AsyncIterator[Any]:
        """Open a stream in both directions inside the block. Errors are gRPC's: see `retried`."""
        call = self._channel.stream_stream(f"/etcdserverpb.{method}", _serialize, answer.FromString)
        stream = call(metadata=(*self._metadata(), *metadata))
        try:
            yield stream
        finally:
            stream.cancel()

    async def retried(
        self, once: Callable[[], Awaitable[Answer]], deadline: float | None = None
    ) -> Answer:
        """Do it with a deadline, logged in; again where that may help. Raises EtcdError."""
        seconds = deadline or self.deadline
        logins = 1
        pauses = [*PAUSES, None]
        while True:
            await self.log_in()
            try:
                async with asyncio.timeout(seconds + 1):
                    return await self._noted(once)
            except RpcError as error:
                self.next_member()
                if self.renew_if_files_changed():
                    continue
                if logins and self.token_refused(error.details()):
                    logins -= 1
                    continue
                pause = pauses.pop(0) if error.code() is grpc.StatusCode.UNAVAILABLE else None
                if pause is None:
                    raise await self._explained_at_first(error) from None
                await asyncio.sleep(pause)
            except TimeoutError:
                self.next_member()
                raise EtcdUnavailableError(
                    f"etcd {self.where}: no answer within {seconds:g} s"
                ) from None

    async def _noted(self, once: Callable[[], Awaitable[Answer]]) -> Answer:
        if self._answered:
            return await once()
        with self._patience.waiting():
            result = await once()
        self._answered = True
        return result

    def next_member(self) -> None:
        """Use another member next time, where each has its own channel."""
        self._at = (self._at + 1) % max(len(self._channels), 1)

    # -- login -----------------------------------------------------------------------

    async def log_in(self) -> None:
        """Get a token if there is a user and no token. Raises EtcdError."""
        if not self._answered:
            timeout = min(first_contact.TIMEOUT, self.deadline)
            await first_contact.require_reachable(self._urls, timeout)
        if self._login is None or self._token is not None:
            return
        async with self._login_lock:  # bcrypt costs etcd 0.1 s: once is enough
            if self._token is None:
                self._token = await self._authenticate(self._login)

    async def _authenticate(self, login: Login) -> str:
        request = pb.AuthenticateRequest(name=login.username, password=login.password())
        pauses = [*PAUSES, None]
        while True:
            call = self._channel.unary_unary(
                "/etcdserverpb.Auth/Authenticate", _serialize, pb.AuthenticateResponse.FromString
            )
            try:
                answer = await call(request, timeout=self.deadline)
            except RpcError as error:
                self.next_member()
                if self.renew_if_files_changed():
                    continue
                if "authentication is not enabled" in (error.details() or ""):
                    log.warning("etcd %s has no authentication; going on without", self.where)
                    return ""
                pause = pauses.pop(0) if error.code() is grpc.StatusCode.UNAVAILABLE else None
                if pause is None:
                    raise await self._explained_at_first(error) from None
                await asyncio.sleep(pause)
            else:
                self._answered = True
                return str(answer.token)

    def token_refused(self, details: str | None) -> bool:
        """Whether etcd's words mean that we must log in anew; forgets the token if so."""
        if self._login is None or not any(words in (details or "") for words in STALE_TOKEN):
            return False
        self._token = None
        return True

    def forget_token(self) -> bool:
        """Log in anew before the next call; False when there is no user."""
        self._token = None
        return self._login is not None

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    @property
    def _channel(self) -> grpc.aio.Channel:
        if not self._channels:
            raise EtcdError("the etcd connection is closed")
        return self._channels[self._at % len(self._channels)]

    async def _explained_at_first(self, error: RpcError) -> EtcdError:
        """`explained`, after a look at what speaks there when no member has answered yet."""
        if not self._answered and error.code() is grpc.StatusCode.UNAVAILABLE:
            words = await first_contact.wrong_protocol(self._urls)
            if words is not None:
                return EtcdUnavailableError(words)
        return self.explained(error)

    def explained(self, error: RpcError) -> EtcdError:
        """Turn a gRPC status into one line of ours."""
        code, details = error.code(), " ".join((error.details() or "").split())
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return EtcdUnavailableError(f"etcd {self.where}: no answer in time")
        if code is grpc.StatusCode.UNAVAILABLE and any(w in details.upper() for w in TLS_TROUBLE):
            words = self._tls.refusal(_innermost(details)) if self._tls else _innermost(details)
            return EtcdAuthError(f"etcd {self.where}: {words}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return EtcdUnavailableError(
                f"etcd {self.where}: {_innermost(details) or code.name.lower()}"
            )
        return self.refused(details or code.name)

    def refused(self, details: str) -> EtcdError:
        """What etcd answered instead of doing it, as an error."""
        reason = details.removeprefix("etcdserver: ")
        if self._login is None and "user name is empty" in details:
            mend = "give --etcd-username and --etcd-password-file"
            return EtcdAuthError(f"etcd {self.where}: it wants a user: {mend}")
        if any(words in details for words in (*REFUSED, *STALE_TOKEN)):
            return EtcdAuthError(
                f"etcd {self.where}: {reason}; "
                "check --etcd-username, --etcd-password-file and that user's roles"
            )
        return EtcdError(f"etcd {self.where}: {reason}")


def targets(endpoints: Sequence[str]) -> tuple[list[str], bool]:
    """Give the gRPC targets of etcd's URLs, a channel each, and whether they are TLS.

    Raises EtcdError.
    """
    example = "write http://HOST:PORT or https://HOST:PORT"
    places: list[tuple[str, int]] = []
    schemes = set()
    for url in endpoints:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port:
            raise EtcdError(f"etcd endpoint {url!r}: {example}")
        schemes.add(parts.scheme)
        places.append((parts.hostname, port))
    if not places:
        raise EtcdError(f"no etcd endpoint: {example}")
    if len(schemes) > 1:
        raise EtcdError(f"etcd endpoints {','.join(endpoints)} mix http and https: use one")
    secure = schemes == {"https"}
    families = [_family(host) for host, _ in places]
    texts = [
        f"[{h}]:{p}" if f == "ipv6" else f"{h}:{p}"
        for (h, p), f in zip(places, families, strict=True)
    ]
    if len(set(families)) == 1 and families[0] != "dns" and (not secure or len(places) == 1):
        return [f"{families[0]}:{','.join(texts)}"], secure
    return [
        f"{f}:///{t}" if f == "dns" else f"{f}:{t}" for t, f in zip(texts, families, strict=True)
    ], secure


def _family(host: str) -> str:
    try:
        return f"ipv{ip_address(host).version}"
    except ValueError:
        return "dns"


def _serialize(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


def _innermost(details: str) -> str:
    """The cause at the end of gRPC's nested story.

    `failed to connect to all addresses; last error: UNKNOWN: ipv4:...: Failed to connect to
    remote host: connect: Connection refused (111)` -> `connect: Connection refused (111)`
    """
    story = details.rpartition("last error: ")[2]
    story = re.sub(r"^\w+: (ipv[46]|dns):\S+: ", "", story)
    for opening in ("remote host: ", "SSL routines:OPENSSL_internal:"):
        story = story.rpartition(opening)[2]
    if "TSI_DATA_CORRUPTED" in story:  # TLS 1.3: it learns of our certificate when all is set up
        return REFUSED_CERTIFICATE
    return story.removesuffix(": OK")
