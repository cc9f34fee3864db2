# SPDX-License-Identifier: Apache-2.0
"""The goals, as ratios to a baseline of the same run, and whether a run met them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.suite.figures import BY_NAME, Samples, Spread
from bench.suite.subjects import (
    HAND_OVS,
    HAND_ROUTE,
    HAND_VXLAN,
    HAND_WIREGUARD,
    PLUGINS,
    RAW,
    REFERENCE,
    UDP_SINGLE,
)

MET, MISSED, UNCLEAR, ABSENT = "met", "missed", "unclear", "not measured"
BY_HAND = "what a daemon adds to devices made by hand may cost a tenth at most"
PROTOTYPE = "a prototype reached 0.75 with plain routes and 0.65 with kernel VXLAN"
UDP_GOAL = "many packets a system call, where flanneld moves one (docs/udp.md)"
UDP_SHARE = "a prototype in user space reached 0.5 to 0.75 of the kernel's VXLAN"
OVS_GOAL = "what the meshes do beyond a switch that learns may cost a tenth at most"
CNI_GOAL = "a client in C asks the daemon (docs/decisions/0005-cni-calls-through-a-socket.md)"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of a subject compared with a baseline's."""

    subject: str
    figure: str
    baseline: str
    limit: float
    """The ratio: at least this where more is better, at most this elsewhere."""
    source: str
    """Where the goal comes from."""

    @property
    def at_least(self) -> bool:
        """Whether the ratio must reach the limit, rather than stay below it."""
        return BY_NAME[self.figure].more_is_better

    @property
    def text(self) -> str:
        """For a table: `vxlan: TCP, 1 stream ≥ 0.60 of raw underlay`."""
        how = "≥" if self.at_least else "≤"
        title = BY_NAME[self.figure].title
        return f"{self.subject}: {title} {how} {self.limit:.2f} of {self.baseline}"

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


GOALS: Sequence[Goal] = (
    Goal("host-gw", "tcp-1", RAW, 0.7, PROTOTYPE),
    Goal("host-gw", "tcp-1", HAND_ROUTE, 0.9, BY_HAND),
    Goal("vxlan", "tcp-1", RAW, 0.6, PROTOTYPE),
    Goal("vxlan", "tcp-1", HAND_VXLAN, 0.9, BY_HAND),
    Goal("udp", "tcp-1", UDP_SINGLE, 12.0, UDP_GOAL),
    Goal("udp", "tcp-1", "vxlan", 0.55, UDP_SHARE),
    Goal("udp", "small", UDP_SINGLE, 2.5, UDP_GOAL),
    Goal("wireguard", "tcp-1", HAND_WIREGUARD, 0.9, BY_HAND),
    Goal("ovs", "tcp-1", HAND_OVS, 0.9, OVS_GOAL),
    Goal("ovs", "rtt-p50", HAND_OVS, 1 / 0.9, OVS_GOAL),
    Goal(PLUGINS, "add", REFERENCE, 0.4, CNI_GOAL),
    Goal(PLUGINS, "del", REFERENCE, 0.25, CNI_GOAL),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a goal."""

    goal: Goal
    ratio: Spread | None
    verdict: str
    """`met`; `missed`; `unclear` where the median misses and a round met it; `not measured`."""


def judge(samples: Samples, goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Compare a run with the goals."""
    verdicts = []
    for goal in goals:
        ratio = samples.ratio(goal.figure, goal.subject, goal.baseline)
        verdicts.append(Verdict(goal, ratio, _verdict(goal, ratio)))
    return verdicts


def _verdict(goal: Goal, ratio: Spread | None) -> str:
    if ratio is None:
        return ABSENT
    if goal.holds(ratio.median):
        return MET
    return UNCLEAR if goal.holds(ratio.low) or goal.holds(ratio.high) else MISSED
