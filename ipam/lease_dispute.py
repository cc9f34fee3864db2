# SPDX-License-Identifier: Apache-2.0
"""Two hosts that want one lease: who is asked, how often, and when this one gives way.

Two hosts come to one lease when both have one PublicIP, or when one was cloned from the other
(`agent.leases.machine_mark` notices nearly all clones). None of them ever takes it from the other
by force: the holder is asked (`ipam.lease_question`), and where both write to it all the same, the
one that has lost ROUNDS rounds takes another subnet. Each waits before its next round, for a time
that is random and grows, so that one of them loses first.
"""

from __future__ import annotations

import asyncio
import random

from ipam.lease import Lease
from ipam.lease_question import LeaseHeldError, ask_holder
from ipam.registry import Registry

ASK_INTERVAL = 30.0
"""Seconds until another host that holds a lease is asked again."""
SILENCE = 300.0
"""Seconds without an answer after which a host that has answered before is taken for gone."""
ROUNDS = 3
"""Lost rounds after which this host gives way."""
ROUNDS_LAST = 300.0
"""Seconds after which a lost round is forgotten."""
FIRST_WAIT = 0.5
"""Seconds, at most, before the first round; twice as many before each further one."""


class LeaseDispute:
    """What was asked and lost so far. Used by one asyncio task."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._refusal: str | None = None
        """Why the lease under our address is not ours."""
        self._ask_again = self._answered = 0.0
        self._asked: dict[str, float] = {}
        """When we asked for which lease."""
        self._lost: list[float] = []
        """When another host wrote over what we had written."""

    async def holder(self, lease: Lease) -> str | None:
        """The name of the host that holds a lease, None: nobody answers. Raises EtcdError."""
        return await ask_holder(self.registry.etcd, self.registry.prefix, lease.key)

    async def holder_now_and_then(self, lease: Lease) -> str | None:
        """As `holder`, None also where ASK_INTERVAL has not passed since the last time."""
        now = asyncio.get_running_loop().time()
        if now < self._asked.get(lease.key, -ASK_INTERVAL) + ASK_INTERVAL:
            return None
        self._asked[lease.key] = now
        return await self.holder(lease)

    async def require_no_holder(self, lease: Lease) -> None:
        """Raise LeaseHeldError when the lease under our address is another host's, which lives.

        It is asked again after a while. Once it has answered, silence counts only when it lasts: a
        daemon that is being restarted is silent, too.
        """
        now = asyncio.get_running_loop().time()
        if self._refusal is None or now > self._ask_again:
            name = await self.holder(lease)
            self._ask_again = now + ASK_INTERVAL
            if name is not None:
                self._answered = now
                address = lease.attributes.public_ip or lease.attributes.public_ipv6
                self._refusal = (
                    f"lease {lease.key} under this host's address {address} is held by another "
                    f"host, {name}, which is alive: give this host an address of its own "
                    "(--public-ip), or stop flatmeshd there"
                )
            elif self._refusal is None or now - self._answered > SILENCE:
                self._refusal = None
                return
        raise LeaseHeldError(self._refusal)

    async def lose_round(self) -> bool:
        """Another host wrote over our lease: wait for our turn; returns whether to give way."""
        now = asyncio.get_running_loop().time()
        self._lost = [then for then in self._lost if now - then < ROUNDS_LAST] + [now]
        if len(self._lost) >= ROUNDS:
            self._lost = []
            return True
        longest = FIRST_WAIT * 2 ** len(self._lost)
        await asyncio.sleep(random.uniform(longest / 4, longest))  # noqa: S311 - not both at once
        return False
