# SPDX-License-Identifier: Apache-2.0
"""Asks whether the host that a lease names is alive, before a second one with its address uses it.

A lease in etcd names its host by PublicIP alone. A host that finds one under its own address, and
does not remember that it took it, may have been installed anew, or may be a second host with the
same address: then both would give the same addresses to their pods. So it asks, in a key beside
the leases, and the daemon that holds the lease answers there:

    <prefix>/questions/10.5.76.0-24    a random number, then `held by NAME`

Who holds it follows all keys below the prefix already, so an answer takes milliseconds. Without
one in ANSWER_TIMEOUT the lease is taken over: its host is gone, or is a flanneld, which knows no
questions and overlooks these keys. A key of this kind goes by itself after QUESTION_TTL.

A note of the host's identity in the lease was considered: nobody could tell an old host that is
gone from one that is alive, before the lease has expired a day later.
"""

from __future__ import annotations

import asyncio
import secrets
import socket

from etcd.client import Etcd, EtcdError

ANSWER_TIMEOUT = 2.0
"""Seconds that the holder has for its answer."""
POLL_INTERVAL = 0.1
"""Seconds between two looks for it."""
QUESTION_TTL = 10
"""Seconds that a question stays in etcd."""
HELD = "held by "
MAX_NAME = 100


class LeaseHeldError(EtcdError):
    """Another host, which is alive, holds the lease under this host's address."""


def question_key(prefix: str, lease_key: str) -> str:
    """Where a question about a lease is asked."""
    return f"{prefix}/questions/{lease_key}"


async def ask_holder(etcd: Etcd, prefix: str, lease_key: str) -> str | None:
    """Ask who holds a lease; returns the answer, None: nobody answered. Raises EtcdError."""
    key, question = question_key(prefix, lease_key), secrets.token_hex(8).encode()
    lease = await etcd.grant(QUESTION_TTL)
    try:
        await etcd.put(key, question, lease=lease)
        loop = asyncio.get_running_loop()
        end = loop.time() + ANSWER_TIMEOUT
        while loop.time() < end:
            await asyncio.sleep(POLL_INTERVAL)
            there, _ = await etcd.get(key)
            answer = there.value.decode(errors="replace") if there is not None else ""
            if answer.startswith(HELD):
                return answer.removeprefix(HELD)[:MAX_NAME]
        return None
    finally:
        await asyncio.shield(etcd.revoke(lease))


async def answer(etcd: Etcd, prefix: str, lease_key: str) -> None:
    """Answer a question about a lease that this host holds. Raises EtcdError."""
    there, _ = await etcd.get(question_key(prefix, lease_key))
    if there is not None and not there.value.startswith(HELD.encode()):
        text = f"{HELD}{socket.gethostname()[:MAX_NAME]}".encode()
        await etcd.put_if(there.key, text, mod_revision=there.mod_revision, lease=there.lease)
