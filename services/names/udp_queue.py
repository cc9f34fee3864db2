# SPDX-License-Identifier: Apache-2.0
"""Queries that wait, a share for each client: one that sends without end keeps nobody waiting.

All that has arrived is read at once, which is cheap, and put into a queue of its client. What a
client sends beyond the length of its queue is dropped. Then the clients are answered in turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

MAX_OF_A_CLIENT = 64  # queries that wait
MAX_CLIENTS = 2048  # with queries that wait


@dataclass(slots=True)
class FairQueue:
    """First in, first out for each client; the clients in turn."""

    dropped: int = 0
    _waiting: dict[str, deque[Any]] = field(default_factory=dict)
    """By client, in the order in which they are served."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, client: str, query: Any) -> None:
        """Queue a query, or drop it."""
        mine = self._waiting.get(client)
        if mine is None:
            if len(self._waiting) >= MAX_CLIENTS:
                self.dropped += 1
                return
            mine = self._waiting[client] = deque()
        if len(mine) >= MAX_OF_A_CLIENT:
            self.dropped += 1
            return
        mine.append(query)

    def take(self) -> Any:
        """The next query. Raises StopIteration when there is none."""
        client = next(iter(self._waiting))
        mine = self._waiting.pop(client)
        query = mine.popleft()
        if mine:
            self._waiting[client] = mine  # behind all others
        return query
