# SPDX-License-Identifier: Apache-2.0
"""How long whoever follows keys in etcd waits until the next try."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

FIRST, LONGEST = 0.1, 2.0  # seconds
REFUSED = 5.0  # seconds: each login costs etcd a bcrypt, and somebody has to mend it first


@dataclass(slots=True)
class RetryPause:
    """Grows with each try that fails."""

    seconds: float = FIRST

    def reset(self) -> None:
        """Etcd has answered."""
        self.seconds = FIRST

    def refused(self) -> None:
        """Etcd has refused our user or certificate."""
        self.seconds = REFUSED

    async def wait(self) -> None:
        """Wait, up to half of it less: a cluster's daemons must not all come at the same moment."""
        await asyncio.sleep(self.seconds * random.uniform(0.5, 1))  # noqa: S311
        self.seconds = min(self.seconds * 2, LONGEST)
