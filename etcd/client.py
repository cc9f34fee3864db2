# SPDX-License-Identifier: Apache-2.0
"""A thin asyncio client for etcd's v3 API: the calls flatmesh makes, and no others.

Theory of operation
-------------------
`etcd_channel` gets a request to a member and its answer back; here are the requests. What is
written conditionally is written so that it can be tried again: a call whose answer got lost
may have been done, so a transaction that fails also says what is there instead, and our own
work is recognised by its etcd lease.

A watch says `hasleader: true`: a member in a minority partition ends it instead of staying
silent for ever. It is to be resumed at the last event's mod_revision + 1, not at a header's
revision: what happened between the two would be lost.

Sources: etcd, Documentation/learning/api.md and api_guarantees.md.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from etcd import etcd_pb2 as pb
from etcd.channel import DEADLINE, END, LIST_FACTOR, EtcdChannel, RpcError
from etcd.comparisons import (
    Page,
    exists,
    keys_around,
    keys_below,
    none_below,
    prefix_end,
    unchanged,
)
from etcd.errors import CompactedError, EtcdAuthError, EtcdError, EtcdUnavailableError
from etcd.login import Login
from etcd.transaction import Transaction

__all__ = [
    "CompactedError",
    "Etcd",
    "EtcdAuthError",
    "EtcdError",
    "EtcdUnavailableError",
    "FirstAbsent",
    "KeyValue",
    "MemberStatus",
    "NewKey",
    "Transaction",
    "WatchBatch",
]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One key as it is at some revision."""

    key: str
    value: bytes
    mod_revision: int
    lease: int = 0
    create_revision: int = 0


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Events that arrived together, in order; the first batch, without events, says: connected."""

    revision: int
    """Of the last event; go on from the one behind it."""
    events: tuple[tuple[str, KeyValue | None], ...]
    """Key, and what it is now; None: deleted."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to create, if neither it nor any key with one of the prefixes is there."""

    key: str
    value: bytes
    absent_prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstAbsent:
    """What came of an attempt to create one of several keys."""

    key: str | None
    """The one that was created; None: all were there already."""
    revision: int
    keys: tuple[KeyValue, ...] = ()
    """Where none was created: all keys at that moment, without their values."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member of the cluster."""

    version: str
    has_leader: bool
    """Without a leader nothing can be written, nor read as it is now."""
    size: int
    """Bytes of its database."""


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
        password_file: Path | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        """Describe the cluster. Raises EtcdError for unusable URLs or certificate files."""
        self.endpoints = tuple(endpoints)
        self._channel = EtcdChannel(
            self.endpoints,
            ca=ca,
            cert=cert,
            key=key,
            login=Login(username, password, password_file) if username else None,
            deadline=deadline,
        )

    async def __aenter__(self) -> Self:
        self._channel.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def renew_connection(self) -> None:
        """Connect and log in anew for all calls from now on, with the TLS files as they are now.

        Call it when this host's address changes, or when credentials were replaced.
        """
        self._channel.forget_token()
        if not self._channel.renew_if_files_changed():
            self._channel.renew()

    # -- keys ------------------------------------------------------------------------

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """Read one key; also the store's revision. Raises EtcdError."""
        request = pb.RangeRequest(key=key.encode())
        answer = await self._channel.unary("KV/Range", request, pb.RangeResponse)
        found = [_key_value(kv) for kv in answer.kvs]
        return (found[0] if found else None), answer.header.revision

    async def list(
        self, prefix: str, *, keys_only: bool = False, page: Page | None = None
    ) -> tuple[builtins.list[KeyValue], int]:
        """Read all keys below a prefix, or a page; also the store's revision. Raises EtcdError."""
        request = keys_below(prefix, keys_only=keys_only, page=page)
        deadline = self._channel.deadline * LIST_FACTOR
        answer = await self._channel.unary("KV/Range", request, pb.RangeResponse, deadline=deadline)
        return [_key_value(kv) for kv in answer.kvs], answer.header.revision

    async def list_around(
        self, prefix: str, left_out: Sequence[str], *, keys_only: bool = False
    ) -> tuple[builtins.list[KeyValue], int]:
        """Read all keys below a prefix but those below others within it, at one revision."""
        request = keys_around(prefix, left_out, keys_only=keys_only)
        deadline = self._channel.deadline * LIST_FACTOR
        answer = await self._channel.unary("KV/Txn", request, pb.TxnResponse, deadline=deadline)
        found = [_key_value(kv) for one in answer.responses for kv in one.response_range.kvs]
        return found, answer.header.revision

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write one key, whatever is there; returns its revision. Raises EtcdError."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        answer = await self._channel.unary("KV/Put", request, pb.PutResponse)
        return answer.header.revision

    async def delete(self, key: str) -> bool:
        """Delete one key; says whether it was there. Raises EtcdError."""
        request = pb.DeleteRangeRequest(key=key.encode())
        answer = await self._channel.unary("KV/DeleteRange", request, pb.DeleteRangeResponse)
        return bool(answer.deleted)

    async def put_if(
        self, key: str, value: bytes, *, mod_revision: int, lease: int = 0
    ) -> int | None:
        """Write a key only if its mod_revision is this one (0: only if it doesn't exist).

        Returns the key's new revision, None when it is another's. Raises EtcdError; after
        EtcdUnavailableError it may or may not have been written.
        """
        put = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        look = pb.RangeRequest(key=key.encode())
        request = pb.TxnRequest(
            compare=[unchanged(key, mod_revision)],
            success=[pb.RequestOp(request_put=put)],
            failure=[pb.RequestOp(request_range=look)],
        )
        answer = await self._channel.unary("KV/Txn", request, pb.TxnResponse)
        if answer.succeeded:
            return answer.header.revision
        for kv in answer.responses[0].response_range.kvs:
            if kv.value == value and kv.lease == lease and kv.mod_revision > mod_revision:
                return kv.mod_revision  # written by our first try, whose answer got lost
        return None

    async def delete_if(
        self, key: str, *, mod_revision: int | None, marker: str = "", lease: int = 0
    ) -> bool:
        """Delete a key if its mod_revision is this one (None: any); says whether it was there.

        With `marker`, that key is written in the same step, attached to `lease`: whoever
        watches both learns of the two together. Raises EtcdError.
        """
        delete = pb.DeleteRangeRequest(key=key.encode())
        steps = [pb.RequestOp(request_delete_range=delete)]
        if marker:
            put = pb.PutRequest(key=marker.encode(), lease=lease)
            steps.append(pb.RequestOp(request_put=put))
        request = pb.TxnRequest(
            compare=[exists(key) if mod_revision is None else unchanged(key, mod_revision)],
            success=steps,
        )
        answer = await self._channel.unary("KV/Txn", request, pb.TxnResponse)
        return bool(answer.succeeded)

    async def put_first_absent(
        self, candidates: Sequence[NewKey], prefix: str, *, lease: int
    ) -> FirstAbsent:
        """Create the first of some keys that isn't there, attached to `lease`, in one step.

        At most one key of a prefix is ever attached to the lease, however often this is
        tried. Keep it to 40 candidates: each is a transaction nested in the one before
        (protobuf nests messages 100 deep; etcd counts 128 --max-txn-ops). Raises EtcdError.
        """
        look = pb.RequestOp(request_range=keys_below(prefix, keys_only=True))
        step = look
        for candidate in reversed(candidates):
            put = pb.PutRequest(key=candidate.key.encode(), value=candidate.value, lease=lease)
            compare = [unchanged(candidate.key, 0), *map(none_below, candidate.absent_prefixes)]
            attempt = pb.TxnRequest(
                compare=compare, success=[pb.RequestOp(request_put=put)], failure=[step]
            )
            step = pb.RequestOp(request_txn=attempt)
        nothing_ours = pb.Compare(
            result=pb.Compare.NOT_EQUAL,
            target=pb.Compare.LEASE,
            key=prefix.encode(),
            range_end=prefix_end(prefix),
            lease=lease,
        )
        request = pb.TxnRequest(compare=[nothing_ours], success=[step], failure=[look])
        answer = await self._channel.unary("KV/Txn", request, pb.TxnResponse)
        if not answer.succeeded:  # our first try did it, and its answer got lost
            kvs = answer.responses[0].response_range.kvs
            ours = next(_key_value(kv) for kv in kvs if kv.lease == lease)
            return FirstAbsent(ours.key, ours.mod_revision)
        reply = answer.responses[0]
        for candidate in candidates:
            if reply.response_txn.succeeded:
                return FirstAbsent(candidate.key, answer.header.revision)
            reply = reply.response_txn.responses[0]
        kvs = reply.response_range.kvs
        return FirstAbsent(None, answer.header.revision, tuple(map(_key_value, kvs)))

    async def commit(self, transaction: Transaction) -> int | None:
        """Do a transaction; returns its revision, None where something was not as it requires.

        None may also mean that a first try was done and its answer got lost: then what was put is
        there. Raises EtcdError.
        """
        request = transaction.request()
        answer = await self._channel.unary("KV/Txn", request, pb.TxnResponse)
        return answer.header.revision if answer.succeeded else None

    # -- leases ----------------------------------------------------------------------

    async def grant(self, ttl: int) -> int:
        """Make an etcd lease of `ttl` seconds; returns its id. Raises EtcdError."""
        request = pb.LeaseGrantRequest(TTL=ttl)
        answer = await self._channel.unary("Lease/LeaseGrant", request, pb.LeaseGrantResponse)
        return answer.ID

    async def revoke(self, lease: int) -> None:
        """End an etcd lease, and with it its keys; one that is gone is no error."""
        request = pb.LeaseRevokeRequest(ID=lease)
        try:
            await self._channel.unary("Lease/LeaseRevoke", request, pb.LeaseRevokeResponse)
        except EtcdError as error:
            if "lease not found" not in str(error):
                raise

    async def keep_alive(self, lease: int) -> int:
        """Renew an etcd lease once; returns the seconds it was granted for, 0: it is gone.

        Raises EtcdError.
        """

        async def once() -> int:
            answer_type = pb.LeaseKeepAliveResponse
            async with self._channel.stream("Lease/LeaseKeepAlive", answer_type) as stream:
                await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
                answer = await stream.read()
                if answer is END:
                    raise EtcdUnavailableError(
                        f"etcd {self._channel.where}: hung up on a lease's renewal"
                    )
                return max(int(answer.TTL), 0)

        return await self._channel.retried(once)

    async def time_to_live(self, lease: int) -> int:
        """Seconds until an etcd lease ends unless it is renewed; 0: it is gone. Raises EtcdError.

        It renews nothing.
        """
        request = pb.LeaseTimeToLiveRequest(ID=lease)
        answer = await self._channel.unary(
            "Lease/LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse
        )
        return max(int(answer.TTL), 0)

    async def member_status(self) -> MemberStatus:
        """What a member says of itself; it needs no login. Raises EtcdError.

        Which member answers is chosen for each call: for a certain one, connect to it alone.
        """
        answer = await self._channel.unary(
            "Maintenance/Status", pb.StatusRequest(), pb.StatusResponse
        )
        return MemberStatus(answer.version, answer.leader != 0, answer.dbSize)

    # -- watching --------------------------------------------------------------------

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[WatchBatch]:
        """All changes below a prefix from `revision` on, each once, in order.

        Lasts as long as its connection; resume it at the last batch's revision + 1. Raises
        EtcdUnavailableError when the connection ends, EtcdAuthError, and CompactedError when
        there is no way to go on from `revision`: compacted away, or not reached yet by an
        etcd that was restored from a backup or started empty. Iterate in `aclosing`.
        """
        for last in (False, True):
            await self._channel.log_in()
            try:
                metadata = ("hasleader", "true")
                async with self._channel.stream(
                    "Watch/Watch", pb.WatchResponse, metadata
                ) as stream:
                    async for batch in self._batches(stream, prefix, revision):
                        yield batch
                raise EtcdUnavailableError(f"etcd {self._channel.where}: ended the watch")
            except RpcError as error:
                self._channel.next_member()
                self._channel.renew_if_files_changed()
                self._channel.token_refused(error.details())
                raise self._channel.explained(error) from None
            except EtcdAuthError:
                # etcd 3.4 says "permission denied" for a token that has expired, too
                renewed = self._channel.renew_if_files_changed()
                if last or not (self._channel.forget_token() or renewed):
                    raise

    async def _batches(self, stream: Any, prefix: str, revision: int) -> AsyncIterator[WatchBatch]:
        create = pb.WatchCreateRequest(
            key=prefix.encode(), range_end=prefix_end(prefix), start_revision=revision
        )
        await stream.write(pb.WatchRequest(create_request=create))
        while (answer := await stream.read()) is not END:
            if answer.compact_revision:
                raise CompactedError(
                    f"etcd has compacted revision {revision} away (up to {answer.compact_revision})"
                )
            if answer.canceled:
                raise self._channel.refused(answer.cancel_reason or "watch cancelled")
            if answer.header.revision < revision - 1:
                raise CompactedError(
                    f"etcd is at revision {answer.header.revision}, before {revision - 1}: "
                    "it was restored from a backup or started empty"
                )
            last = max((e.kv.mod_revision for e in answer.events), default=revision - 1)
            yield WatchBatch(last, tuple(map(_event, answer.events)))


def _key_value(kv: pb.KeyValue) -> KeyValue:
    return KeyValue(
        kv.key.decode(errors="replace"), kv.value, kv.mod_revision, kv.lease, kv.create_revision
    )


def _event(event: pb.Event) -> tuple[str, KeyValue | None]:
    found = _key_value(event.kv)
    return found.key, None if event.type == pb.Event.DELETE else found
