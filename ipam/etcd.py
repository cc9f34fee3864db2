"""A thin asyncio client for etcd's v3 API: the calls flatmesh makes, and no others.

Theory of operation
-------------------
One gRPC channel holds all endpoints and spreads calls over the members that are up, so a
dead member costs a retry, not an outage. Four rules, each learned from a fault that a
published client has:

- Every unary call has a deadline; a black hole is an error after seconds, not a hang.
- Keepalive *and* ping timeout are set: with keepalive alone a connection that was cut
  silently stays "up" for minutes.
- A watch says `hasleader: true`: a member in a minority partition ends the watch instead of
  staying silent for ever.
- A watch resumes at the last event's mod_revision + 1, not at the header's revision: what
  happened between the two would be lost.

Authentication tokens expire; UNAUTHENTICATED is answered by a new login and one more try.

Sources: etcd, Documentation/learning/api.md and api_guarantees.md; gRPC core's
doc/keepalive.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio

from ipam import etcd_pb2 as pb

DEADLINE = 5.0  # seconds for a unary call
BACKOFF = (0.1, 2.0)  # seconds: first and longest wait between two tries of a watch
KEEPALIVE = 6000  # milliseconds without a byte until a ping is sent; etcd hangs up below 5000
PING_TIMEOUT = 3000  # milliseconds for its answer
OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", KEEPALIVE),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT),
    ("grpc.keepalive_permit_without_calls", 0),  # an idle client is no load
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),  # 10,000 leases are more than the default 4 MiB
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
    ("grpc.dns_enable_srv_queries", 0),
]

log = logging.getLogger("ipam.etcd")
Answer = TypeVar("Answer")


class EtcdError(Exception):
    """etcd didn't do it; the message is one line: what, which endpoints, why."""


class EtcdUnavailableError(EtcdError):
    """No member answered in time; trying again later may help."""


class EtcdAuthError(EtcdError):
    """Wrong user, password, certificate or permission; trying again won't help."""


class CompactedError(EtcdError):
    """The revision to resume from is compacted away: list again."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at some revision."""

    key: str
    value: bytes
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events that arrived together, in order."""

    revision: int
    """The store's revision after them; events carry their own."""
    events: tuple[tuple[str, KeyValue | None], ...]
    """Key, and what it is now; None: deleted."""


class Etcd:
    """A connection to an etcd cluster; an async context manager."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        username: str | None = None,
        password: str | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        """Describe the cluster. Raises EtcdError for unusable URLs or certificate files."""
        self.endpoints = tuple(endpoints)
        self.deadline = deadline
        self._login = (username, password or "") if username else None
        self._token: str | None = None
        self._term = 0
        self._target, secure, name = _target(self.endpoints)
        self._options = [*OPTIONS, *([("grpc.default_authority", name)] if name else [])]
        self._credentials = _credentials(ca, cert, key) if secure or ca or cert else None
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, self._options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, self._credentials, self._options)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    # -- keys ------------------------------------------------------------------------

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """Read one key; also the store's revision. Raises EtcdError."""
        answer = await self._call("KV/Range", pb.RangeRequest(key=key.encode()), pb.RangeResponse)
        found = [_key_value(kv) for kv in answer.kvs]
        return (found[0] if found else None), answer.header.revision

    async def list(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Read all keys below a prefix; also the revision they are of. Raises EtcdError."""
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        answer = await self._call("KV/Range", request, pb.RangeResponse)
        return [_key_value(kv) for kv in answer.kvs], answer.header.revision

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key, whatever is there; returns its revision. Raises EtcdError."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        answer = await self._call("KV/Put", request, pb.PutResponse)
        return answer.header.revision

    async def delete(self, key: str) -> bool:
        """Delete one key; says whether it was there. Raises EtcdError."""
        request = pb.DeleteRangeRequest(key=key.encode())
        answer = await self._call("KV/DeleteRange", request, pb.DeleteRangeResponse)
        return bool(answer.deleted)

    async def put_if(
        self, key: str, value: bytes, *, mod_revision: int, lease: int = 0
    ) -> int | None:
        """Write a key only if its mod_revision is this one (0: only if it doesn't exist).

        Returns the new revision, None when the key was another's. Raises EtcdError; after
        EtcdUnavailableError it may or may not have been written.
        """
        put = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        answer = await self._call(
            "KV/Txn",
            pb.TxnRequest(
                compare=[_unchanged(key, mod_revision)], success=[pb.RequestOp(request_put=put)]
            ),
            pb.TxnResponse,
        )
        return answer.header.revision if answer.succeeded else None

    async def delete_if(self, key: str, *, mod_revision: int) -> bool:
        """Delete a key only if its mod_revision is this one. Raises EtcdError."""
        delete = pb.DeleteRangeRequest(key=key.encode())
        answer = await self._call(
            "KV/Txn",
            pb.TxnRequest(
                compare=[_unchanged(key, mod_revision)],
                success=[pb.RequestOp(request_delete_range=delete)],
            ),
            pb.TxnResponse,
        )
        return bool(answer.succeeded)

    # -- leases ----------------------------------------------------------------------

    async def grant(self, ttl: int) -> int:
        """Make an etcd lease of `ttl` seconds; returns its id. Raises EtcdError."""
        answer = await self._call(
            "Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl), pb.LeaseGrantResponse
        )
        return answer.ID

    async def revoke(self, lease: int) -> None:
        """End an etcd lease, and with it its keys; one that is gone is no error."""
        request = pb.LeaseRevokeRequest(ID=lease)
        try:
            await self._call("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse)
        except EtcdError as error:
            if "not found" not in str(error):
                raise

    async def keep_alive(self, lease: int) -> int:
        """Renew an etcd lease once; returns its time to live, 0 when it has expired.

        Raises EtcdError.
        """

        async def once() -> int:
            stream = self._open("Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
            try:
                await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
                answer = await stream.read()
                return 0 if answer is grpc.aio.EOF else max(int(answer.TTL), 0)
            finally:
                stream.cancel()

        return await self._tried(once)

    # -- watching --------------------------------------------------------------------

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[WatchBatch]:
        """All changes below a prefix from `revision` on, each once, in order, for ever.

        Survives disconnects, restarts and failovers. Raises CompactedError when the
        revision to go on from is compacted away, or lies in the future (an etcd restored
        from a backup or started empty): list again then. Raises EtcdAuthError.
        """
        wait = BACKOFF[0]
        while True:
            try:
                async for batch in self._watch_once(prefix, revision):
                    wait = BACKOFF[0]
                    if batch.events:
                        revision = max(revision, batch.revision + 1)
                        yield batch
            except grpc.aio.AioRpcError as error:
                await self._after(error)
            except EtcdUnavailableError as error:
                log.debug("watch: %s", error)
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF[1])

    async def _watch_once(self, prefix: str, revision: int) -> AsyncIterator[WatchBatch]:
        await self._log_in()
        stream = self._open("Watch/Watch", pb.WatchResponse, ("hasleader", "true"))
        try:
            create = pb.WatchCreateRequest(
                key=prefix.encode(), range_end=prefix_end(prefix), start_revision=revision
            )
            await stream.write(pb.WatchRequest(create_request=create))
            while (answer := await stream.read()) is not grpc.aio.EOF:
                if answer.header.raft_term < self._term:
                    # terms only grow while a cluster lives: this is another one's history
                    self._term = answer.header.raft_term
                    raise CompactedError("etcd was restored or started anew")
                self._term = answer.header.raft_term
                if answer.compact_revision:
                    raise CompactedError(
                        f"revision {revision} is compacted away (up to {answer.compact_revision})"
                    )
                if answer.canceled:
                    raise EtcdUnavailableError(f"watch cancelled: {answer.cancel_reason}")
                if answer.header.revision and answer.header.revision < revision - 1:
                    raise CompactedError(
                        f"etcd is at revision {answer.header.revision}, before {revision - 1}: "
                        "it was restored or started anew"
                    )
                last = max((e.kv.mod_revision for e in answer.events), default=revision - 1)
                yield WatchBatch(last, tuple(map(_event, answer.events)))
        finally:
            stream.cancel()

    # -- calls -----------------------------------------------------------------------

    async def _call(self, method: str, request: Any, answer: type[Answer]) -> Answer:
        async def once() -> Answer:
            call = self._connected.unary_unary(
                f"/etcdserverpb.{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,  # type: ignore[attr-defined] # protobuf's
            )
            result: Answer = await call(request, timeout=self.deadline, metadata=self._metadata())
            return result

        return await self._tried(once)

    async def _tried(self, once: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do it once with a deadline; log in first, and anew when the token has expired."""
        await self._log_in()
        for last in (False, True):
            try:
                async with asyncio.timeout(self.deadline + 1):
                    return await once()
            except grpc.aio.AioRpcError as error:
                if last or not self._login or not _token_expired(error):
                    raise self._explained(error) from None
                self._token = None
                await self._log_in()
            except TimeoutError:
                raise EtcdUnavailableError(
                    f"etcd {self._where}: no answer within {self.deadline:g} s"
                ) from None
        raise AssertionError  # the loop above always leaves

    async def _log_in(self) -> None:
        if self._login is None or self._token is not None:
            return
        name, password = self._login
        call = self._connected.unary_unary(
            "/etcdserverpb.Auth/Authenticate",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.AuthenticateResponse.FromString,
        )
        request = pb.AuthenticateRequest(name=name, password=password)
        try:
            answer = await call(request, timeout=self.deadline)
        except grpc.aio.AioRpcError as error:
            raise self._explained(error) from None
        self._token = answer.token

    async def _after(self, error: grpc.aio.AioRpcError) -> None:
        """Decide what an ended watch means. Raises EtcdAuthError when trying again is vain."""
        if self._login and _token_expired(error):
            self._token = None
            return
        explained = self._explained(error)
        if isinstance(explained, EtcdAuthError):
            raise explained
        log.debug("watch: %s", explained)

    def _open(self, method: str, answer: Any, *extra: tuple[str, str]) -> Any:
        call = self._connected.stream_stream(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return call(metadata=(*self._metadata(), *extra))

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    @property
    def _connected(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise EtcdError("the etcd connection is closed")
        return self._channel

    @property
    def _where(self) -> str:
        return ",".join(self.endpoints)

    def _explained(self, error: grpc.aio.AioRpcError) -> EtcdError:
        """Turn a gRPC status into one line of ours."""
        code, details = error.code(), error.details() or ""
        text = f"etcd {self._where}: {details or code.name}"
        wrong = ("authentication failed", "invalid user", "user name is empty", "not enabled")
        if code in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        ) or any(words in details for words in wrong):
            return EtcdAuthError(f"{text}; check --etcd-username, --etcd-password and its roles")
        if "CERTIFICATE" in details.upper() or "SSL" in details.upper():
            return EtcdAuthError(f"{text}; check --etcd-cafile, --etcd-certfile and --etcd-keyfile")
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            return EtcdUnavailableError(text)
        return EtcdError(text)


def prefix_end(prefix: str) -> bytes:
    """The key after the last one that begins with `prefix` (etcd's range_end)."""
    data = bytearray(prefix.encode())
    while data and data[-1] == 0xFF:
        data.pop()
    if not data:
        return b"\0"  # etcd's "to the end of all keys"
    data[-1] += 1
    return bytes(data)


def _unchanged(key: str, mod_revision: int) -> pb.Compare:
    if mod_revision == 0:
        return pb.Compare(
            result=pb.Compare.EQUAL, target=pb.Compare.VERSION, key=key.encode(), version=0
        )
    return pb.Compare(
        result=pb.Compare.EQUAL,
        target=pb.Compare.MOD,
        key=key.encode(),
        mod_revision=mod_revision,
    )


def _key_value(kv: pb.KeyValue) -> KeyValue:
    return KeyValue(kv.key.decode(errors="replace"), kv.value, kv.mod_revision, kv.lease)


def _event(event: pb.Event) -> tuple[str, KeyValue | None]:
    found = _key_value(event.kv)
    return found.key, None if event.type == pb.Event.DELETE else found


def _token_expired(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or "invalid auth token" in (
        error.details() or ""
    )


def _target(endpoints: Sequence[str]) -> tuple[str, bool, str | None]:
    """The gRPC target of some URLs, whether it is TLS, and the name to check its certificate by.

    gRPC takes a list of addresses only of one family and without names to look up.
    """
    urls = [urlsplit(url) for url in endpoints]
    try:
        places = [(str(url.hostname), int(url.port or "")) for url in urls]
    except ValueError:
        places = []
    if not places or {url.scheme for url in urls} - {"http", "https"}:
        raise EtcdError(f"etcd endpoints {','.join(endpoints)!r}: write http://HOST:PORT,...")
    if len({url.scheme for url in urls}) > 1:
        raise EtcdError(f"etcd endpoints {','.join(endpoints)}: use http or https, not both")
    secure = urls[0].scheme == "https"
    name = places[0][0] if secure else None
    joined = ",".join(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places
    )
    if all(":" in host for host, _ in places):
        return f"ipv6:{joined}", secure, name
    if all(host.replace(".", "").isdigit() for host, _ in places):
        return f"ipv4:{joined}", secure, name
    if len(places) == 1:
        return f"dns:///{joined}", secure, name
    return "ipv4:" + ",".join(_resolved(places)), secure, name


def _resolved(places: Sequence[tuple[str, int]]) -> list[str]:
    """Look several names up ourselves: gRPC's resolver takes one name."""
    import socket  # noqa: PLC0415 - only for lists of names

    found = []
    for host, port in places:
        try:
            answers = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            log.warning("etcd endpoint %s: %s", host, error)
            continue
        found += [f"{str(address[4][0])}:{address[4][1]}" for address in answers]
    if not found:
        raise EtcdUnavailableError(
            f"etcd endpoints: none of {', '.join(host for host, _ in places)} has an address"
        )
    return found


def _credentials(ca: Path | None, cert: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    if (cert is None) != (key is None):
        raise EtcdError("--etcd-certfile and --etcd-keyfile go together: give both or neither")
    try:
        contents = [path.read_bytes() if path is not None else None for path in (ca, key, cert)]
    except OSError as error:
        raise EtcdError(f"certificate file {error.filename}: {error.strerror}") from None
    return grpc.ssl_channel_credentials(*contents)
