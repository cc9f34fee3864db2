# SPDX-License-Identifier: Apache-2.0
"""Policy routing rules in rtnetlink: `ip rule` (linux/fib_rules.h, net/core/fib_rules.c).

The kernel takes any number of rules of one priority. Two are the same rule where all of their
fields agree, the protocol number included; it then refuses the second one (EEXIST).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hostnet.kinds.batch import apply_batch
from hostnet.kinds.kind import (
    DiffContext,
    Failure,
    KernelView,
    PlanPart,
    Step,
    step,
    without_occupied,
)
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView
from hostnet.netlink.attributes import (
    attr,
    attr_text,
    attr_u8,
    attr_u32,
    attributes,
    pack_address,
    text_of,
    u32,
    unpack_address,
)
from hostnet.netlink.buffers import Part as Message
from hostnet.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    RequestBatch,
)
from hostnet.ownership import Mark
from hostnet.state import HostState, Occupant

RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 6, 10
FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_PROTOCOL = 15, 16, 17, 21
FR_ACT_TO_TBL = 1
RT_TABLE_COMPAT = 252  # what the header says when the number is in FRA_TABLE
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ALL_BITS = 0xFFFFFFFF

_HEADER = struct.Struct("=BBBBBBBBI")  # struct fib_rule_hdr


class Rule(NamedTuple):
    """One rule. `ip rule add pref PRIORITY [from SOURCE] [fwmark MARK/MASK] lookup TABLE`."""

    family: int
    """4 or 6."""
    priority: int
    table: int
    source: str | None = None
    """A network; None: any."""
    destination: str | None = None
    mark: int = 0
    """Value of the packet's mark under `mask`; both 0: any."""
    mask: int = 0
    iif: str = ""
    """Name of the device that a packet came in by; empty: any. The device need not exist."""
    oif: str = ""
    """Name of the device that a local socket is bound to; empty: any."""

    @property
    def key(self) -> Rule:
        """All of it: a rule that differs in anything is another rule."""
        return self


class RuleKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "rule"
    types = (Rule,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Rule | Occupant]:
        """Those with our protocol number; others where they are what is wanted."""
        right = wanted.of(Rule)
        for family in FAMILIES.values():
            body = _HEADER.pack(family, *(0,) * 8)
            for part in view.socket.dump(RTM_GETRULE, body, "ip rule show"):
                rule, protocol = parse_rule(part)
                if rule is None:
                    continue
                if protocol == view.mark.protocol and protocol:
                    yield rule
                elif rule in right:
                    yield Occupant(Rule, rule, _in_the_way(rule, protocol))

    def diff(self, context: DiffContext) -> PlanPart:
        """New ones before stale ones."""
        desired, actual = context.desired.of(Rule), context.actual.of(Rule)
        new, conflicts = without_occupied(desired - actual, context, Rule)
        return PlanPart(
            put=step(self, "put", sorted(new, key=repr)),
            delete=step(self, "delete", sorted(actual - desired, key=repr)),
            conflicts=conflicts,
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them; one that somebody was faster with is a failure."""

        def encode(objects: Sequence[Rule]) -> RequestBatch:
            bodies = [encode_rule(one, view.mark.protocol) for one in objects]
            if step.verb == "delete":
                return RequestBatch(RTM_DELRULE, 0, bodies)
            return RequestBatch(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, bodies)

        return apply_batch(step, view, encode, on_device=False, explain=_explain)[0]

    def watcher(self, mark: Mark) -> RuleWatcher:
        """Tells that one was changed."""
        del mark
        return RuleWatcher()

    def line(self, verb: str, one: Rule) -> str:
        """`ip rule add pref PRIORITY ... lookup TABLE`."""
        words = ["ip -6 rule" if one.family == 6 else "ip rule"]
        words += ["del" if verb == "delete" else "add", "pref", str(one.priority)]
        words += ["from", one.source] if one.source else []
        words += ["to", one.destination] if one.destination else []
        words += ["fwmark", f"{one.mark:#x}/{one.mask:#x}"] if one.mask else []
        words += ["iif", one.iif] if one.iif else []
        words += ["oif", one.oif] if one.oif else []
        return " ".join([*words, "lookup", str(one.table)])


def encode_rule(one: Rule, protocol: int) -> bytes:
    """The payload of RTM_NEWRULE and RTM_DELRULE. Raises OSError, ValueError for bad addresses."""
    lengths, parts = {}, []
    for kind, network in ((FRA_DST, one.destination), (FRA_SRC, one.source)):
        address, _, length = (network or "").partition("/")
        lengths[kind] = int(length) if length else 0
        if network:
            family, packed = pack_address(address)
            if family != FAMILIES[one.family]:
                raise ValueError(f"{network} is no IPv{one.family} network")
            parts.append(attr(kind, packed))
    table = one.table if one.table < 256 else RT_TABLE_COMPAT
    head = _HEADER.pack(
        FAMILIES[one.family], lengths[FRA_DST], lengths[FRA_SRC], 0, table, 0, 0, FR_ACT_TO_TBL, 0
    )
    parts += [attr_u32(FRA_PRIORITY, one.priority), attr_u32(FRA_TABLE, one.table)]
    if one.mask:
        parts += [attr_u32(FRA_FWMARK, one.mark), attr_u32(FRA_FWMASK, one.mask)]
    parts += [attr_text(FRA_IIFNAME, one.iif)] if one.iif else []
    parts += [attr_text(FRA_OIFNAME, one.oif)] if one.oif else []
    return head + b"".join(parts) + attr_u8(FRA_PROTOCOL, protocol)


def parse_rule(part: Message) -> tuple[Rule | None, int]:
    """Read an RTM_NEWRULE message: the rule (None: of a kind we never make), and its protocol."""
    data, begin, end = part
    family, to_length, from_length, _, table, _, _, action, _ = _HEADER.unpack_from(data, begin)
    found = attributes(data, begin + _HEADER.size, end)
    protocol = found.get(FRA_PROTOCOL, b"\0")[0]
    version = {number: name for name, number in FAMILIES.items()}.get(family)
    if action != FR_ACT_TO_TBL or version is None:
        return None, protocol
    mark = u32(found.get(FRA_FWMARK))
    rule = Rule(
        version,
        u32(found.get(FRA_PRIORITY)),
        u32(found.get(FRA_TABLE), table),
        _network(found.get(FRA_SRC), from_length),
        _network(found.get(FRA_DST), to_length),
        mark,
        u32(found.get(FRA_FWMASK), ALL_BITS if mark else 0),
        text_of(found.get(FRA_IIFNAME)),
        text_of(found.get(FRA_OIFNAME)),
    )
    return rule, protocol


def _network(packed: bytes | None, length: int) -> str | None:
    return f"{unpack_address(packed)}/{length}" if packed else None


def _in_the_way(rule: Rule, protocol: int) -> str:
    line = RuleKind().line("delete", rule)
    return f"the same rule is there and not ours (protocol {protocol}): remove it ({line})"


def _explain(one: Rule, error: NetlinkError) -> str:
    return _in_the_way(one, 0) if error.errno == errno.EEXIST else error.reason


class RuleWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (8, 19)  # RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_RULE
    messages = (RTM_NEWRULE, RTM_DELRULE)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Message, view: WatchView) -> str | None:
        """Those with our protocol number."""
        rule, protocol = parse_rule(part)
        if rule is None or not protocol or protocol != view.mark.protocol:
            return None
        return f"rule {rule.priority} was {'deleted' if message == RTM_DELRULE else 'set'}"

    def deletion(self, one: object) -> None:
        """The messages have a sender."""

    def writing(self, one: object) -> None:
        """Likewise."""
