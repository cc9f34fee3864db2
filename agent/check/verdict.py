# SPDX-License-Identifier: Apache-2.0
"""Which pair does not reach each other, in which direction, and how: from all ends' results. Pure.

A packet's way there and its answer's way back are told apart by what arrived: a request that was
not answered, but did arrive, had its answer lost on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.check.keys import End, Results, Sent

LOST, LARGE, TRANSLATED = "lost", "large packets lost", "translated"


@dataclass(frozen=True, slots=True)
class BadPair:
    """One direction between two hosts that is not as it should be."""

    sender: str
    """`h1`: the host's name."""
    receiver: str
    origin: str
    """`pod` or `host`, at the sender."""
    target: str
    """The same at the receiver."""
    family: int
    fault: str
    """LOST, LARGE, TRANSLATED."""
    detail: str = ""

    def text(self) -> str:
        """One line."""
        way = f"{self.sender} {self.origin} -> {self.receiver} {self.target}, IPv{self.family}"
        return f"{way}: {self.detail or self.fault}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found."""

    ends: tuple[End, ...]
    results: Mapping[int, Results]
    """By the end's number."""
    bad: tuple[BadPair, ...]
    absent: Mapping[str, str]
    """Hosts that took no part, by name, and why."""
    pairs: int = 0
    """Directions that were tried."""

    @property
    def good(self) -> bool:
        """Whether every host took part, and every pair is right."""
        return not self.bad and not self.absent

    def round_trip(self, sender: int, receiver: int, family: int) -> float | None:
        """Milliseconds from pod to pod."""
        for one in self.results.get(sender, Results()).sent:
            if (one.to, one.origin, one.target, one.family) == (receiver, "pod", "pod", family):
                return one.milliseconds
        return None


def label(end: End) -> str:
    """How a host is called."""
    return end.name or end.key.replace("-", "/")


def judge(
    ends: Sequence[End], results: Mapping[int, Results], absent: Mapping[str, str]
) -> Verdict:
    """Judge all results together."""
    arrived = {
        (one.sender, number, one.origin, one.family, one.large)
        for number, found in results.items()
        for one in found.arrived
    }
    bad: dict[BadPair, None] = {}
    pairs = 0
    for number, found in results.items():
        for sent in found.sent:
            if 0 <= sent.to < len(ends):
                pairs += 1
                bad |= dict.fromkeys(_faults(ends, number, sent, arrived))
    return Verdict(tuple(ends), results, tuple(bad), absent, pairs)


def _faults(
    ends: Sequence[End], number: int, sent: Sent, arrived: set[tuple[int, int, str, int, bool]]
) -> Iterator[BadPair]:
    there, back = _directions(ends, number, sent)

    def came(*, large: bool) -> bool:
        return (number, sent.to, sent.origin, sent.family, large) in arrived

    if sent.milliseconds is None:
        if sent.target == "host":
            yield BadPair(*there, LOST, "no answer (sent there, or on the way back)")
        elif came(large=False):
            yield BadPair(*back, LOST, "packets are lost")
        else:
            yield BadPair(*there, LOST, "packets are lost")
        return
    if sent.large is False:
        way, mtu = (back if came(large=True) else there), ends[number].mtu
        text = f"packets of {mtu} bytes are lost, small ones are not: a smaller MTU on the way"
        yield BadPair(*way, LARGE, text)
    own = ends[number].addresses if sent.origin == "pod" else ends[number].host_addresses
    if sent.target == "pod" and sent.seen not in own:
        yield BadPair(*there, TRANSLATED, f"arrives from {sent.seen}: translated on the way (NAT)")


Way = tuple[str, str, str, str, int]


def _directions(ends: Sequence[End], number: int, sent: Sent) -> tuple[Way, Way]:
    here, other = label(ends[number]), label(ends[sent.to])
    there = (here, other, sent.origin, sent.target, sent.family)
    back = (other, here, sent.target, sent.origin, sent.family)
    return there, back
