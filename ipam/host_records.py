# SPDX-License-Identifier: Apache-2.0
"""What each host says of itself beside its lease: its name, version, and whether it is ready.

A lease in etcd has flannel's format, which has no room for a host's name. So there is a key of
our own beside it, which flanneld overlooks, as it reads below `subnets/` only:

    <prefix>/subnets/10.5.76.0-24    the lease
    <prefix>/hosts/10.5.76.0-24      {"name": "node7", "version": "0.1.0", "commit": "0123abc",
                                      "started": 1800000000, "ready": true, "problem": ""}

It is attached to the same etcd lease, and so goes with it. A reservation has no etcd lease: the
key is then attached to one of its own, which is short and renewed. All hosts get every change of
it by the watch that they have anyway, so it is written rarely: when a daemon has started, and
when it turned ready or no longer is, and not within MIN_INTERVAL of the last time.

A host without such a key is a flanneld, or a flatmesh of an earlier version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from etcd.client import Etcd
from ipam.etcd_origin import origin_of
from ipam.lease import Lease

MIN_INTERVAL = 15.0
"""Seconds between two writes of one host's record."""
RESERVED_TTL = 900
"""Seconds that the record of a reservation stays when nobody renews it."""
MAX_NAME, MAX_PROBLEM = 64, 200
"""Characters that are kept of what other hosts write."""


@dataclass(frozen=True, slots=True)
class HostRecord:
    """One host, in its own words: all of it is text from outside."""

    name: str = ""
    version: str = ""
    commit: str = ""
    started: int = 0
    """When its daemon started: seconds since 1970, by its own clock. 0: it did not say."""
    ready: bool = False
    """Whether it serves pods and nothing failed, when it wrote this."""
    problem: str = ""
    """Why it is not ready, as one line."""


def hosts_prefix(prefix: str) -> str:
    """What the key of every record begins with; the lease's key follows."""
    return f"{prefix}/hosts/"


def format_record(record: HostRecord) -> bytes:
    """A record as it is stored."""
    return json.dumps(asdict(record), separators=(",", ":")).encode()


def parse_record(value: bytes) -> HostRecord | None:
    """A record as another host wrote it, cut to size; None for anything else."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping):
        return None

    def text(name: str, size: int) -> str:
        there = found.get(name)
        return "".join(filter(str.isprintable, there))[:size] if isinstance(there, str) else ""

    started = found.get("started")
    whole = isinstance(started, int) and 0 <= started < 1 << 40
    return HostRecord(
        text("name", MAX_NAME),
        text("version", MAX_NAME),
        text("commit", MAX_NAME),
        int(started) if whole and isinstance(started, int) else 0,
        found.get("ready") is True,
        text("problem", MAX_PROBLEM),
    )


async def list_host_records(etcd: Etcd, prefix: str) -> dict[str, HostRecord]:
    """The records of all hosts by `Lease.key`. Raises EtcdError."""
    below = hosts_prefix(prefix)
    found, _ = await etcd.list(below)
    records = {kv.key.removeprefix(below): parse_record(kv.value) for kv in found}
    return {key: record for key, record in records.items() if record is not None}


class HostRecordWriter:
    """Keeps this host's record as it should be. Used by one task."""

    def __init__(self, etcd: Etcd, prefix: str) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._written: tuple[str, int, HostRecord] | None = None
        """The key, the etcd lease and the record of the last write."""
        self._at = 0.0
        """When that was, in monotonic seconds."""
        self._own_lease = 0
        """Ours alone, for a reservation."""
        self._renewed = 0.0

    async def write(self, lease: Lease, record: HostRecord, there: HostRecord | None) -> None:
        """Write it beside this host's lease, if it is not as `there` is. Raises EtcdError.

        Does nothing within MIN_INTERVAL of the last write to the same key: the next call does.
        """
        key = hosts_prefix(self._prefix) + lease.key
        etcd_lease = origin_of(lease).etcd_lease or await self._lease_of_reservation()
        last, now = self._written, time.monotonic()
        same_place = last is not None and last[:2] == (key, etcd_lease)
        if same_place and (there == record or now - self._at < MIN_INTERVAL):
            return
        if last is not None and last[0] != key:
            await self._etcd.delete(last[0])
        await self._etcd.put(key, format_record(record), lease=etcd_lease)
        self._written, self._at = (key, etcd_lease, record), now

    async def _lease_of_reservation(self) -> int:
        now = time.monotonic()
        if self._own_lease and now - self._renewed < RESERVED_TTL / 3:
            return self._own_lease
        if not self._own_lease or not await self._etcd.keep_alive(self._own_lease):
            self._own_lease = await self._etcd.grant(RESERVED_TTL)
        self._renewed = now
        return self._own_lease
