# SPDX-License-Identifier: Apache-2.0
"""What is wrong now, by topic: logged once until it changes.

A cause that lasts must not fill the disk. Used from the event loop's thread; `text` and `all` may
be called from any.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Problems:
    """The problems there are."""

    log: logging.Logger
    _texts: dict[str, str] = field(default_factory=dict)

    def report(self, topic: str, text: str, level: int = logging.ERROR) -> None:
        """Take a problem in, and log it unless it was the topic's last."""
        if self._texts.get(topic) != text:
            self._texts[topic] = text
            self.log.log(level, "%s", text)

    def clear(self, topic: str) -> None:
        """The topic's problem is over."""
        self._texts.pop(topic, None)

    def replace(self, prefix: str, found: Mapping[str, str], level: int = logging.ERROR) -> None:
        """Take in all problems there are below a prefix; others below it are over."""
        gone = [t for t in self._texts if t.startswith(prefix) and t[len(prefix) :] not in found]
        for topic in gone:
            del self._texts[topic]
        for topic, text in found.items():
            self.report(prefix + topic, text, level)

    def text(self, topic: str) -> str | None:
        """A topic's problem."""
        return self._texts.get(topic)

    def first(self, topics: Iterable[str]) -> str | None:
        """The problem of the first of these topics that has one."""
        return next((text for topic in topics if (text := self._texts.get(topic))), None)
