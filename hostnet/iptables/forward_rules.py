# SPDX-License-Identifier: Apache-2.0
"""Which rules let the pods' packets through a host's `filter FORWARD`, and where they stand.

A chain of ours in nftables can't do that: a packet that one table's chain accepts still passes the
chains of all other tables at the same hook, and is dropped when one of them drops it (nft(8),
"verdict statement"). Docker sets the policy of FORWARD to DROP on each host, and so do ufw and
many administrators. So the accepts are put into that chain itself, as flanneld does
(--iptables-forward-rules).

    FORWARD             ..., -j FLATMESH-FORWARD, what drops or rejects all the rest
    FLATMESH-FORWARD    -s NETWORK -j ACCEPT, -d NETWORK -j ACCEPT, and what comes by the ingress
                        tunnel: replies of services to clients of this host

The jump stands last, or before the first rule that drops or rejects everything (the end of ufw's
rules, and of many hand-written ones). Before that the rules of others keep their effect: network
policies, and what an administrator forbids. To insert it first was tried: then these had none.

Pure: a table goes in, lines for iptables-restore(8) come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from hostnet.iptables.filter_table import FORWARD, FilterTable
from hostnet.ownership import MESH_DEVICE

CHAIN = "FLATMESH-FORWARD"
COMMENT = "-m comment --comment flatmesh"
JUMP = f"{COMMENT} -j {CHAIN}"
ENDS = ("DROP", "REJECT")
UFW_LOG = "ufw-after-logging-forward"
"""ufw logs in this chain what its own rules have not accepted: the jump stands before it."""

Network = IPv4Network | IPv6Network


def wanted(networks: Sequence[Network]) -> tuple[str, ...]:
    """The rules of our chain, in iptables-save's form."""
    matches = [f"{flag} {network}" for network in networks for flag in ("-s", "-d")]
    return tuple(f"{one} {COMMENT} -j ACCEPT" for one in (*matches, f"-i {MESH_DEVICE}"))


def changes(table: FilterTable | None, networks: Sequence[Network]) -> list[str]:
    """Lines for `iptables-restore --noflush` that bring our rules about; none: all is right.

    `networks` are those of the table's family. Where there are none, or nothing in FORWARD that
    can drop, our rules are taken away. A table that isn't there is not made.
    """
    if table is None:
        return []
    if not networks or not _can_drop(table):
        return removal(table)
    lines = []
    if CHAIN not in table.policies or table.rules.get(CHAIN, ()) != wanted(networks):
        lines.append(f":{CHAIN} - [0:0]")  # makes the chain, or empties it
        lines += [f"-A {CHAIN} {rule}" for rule in wanted(networks)]
    forward = table.rules.get(FORWARD, ())
    others = [rule for rule in forward if rule != JUMP]
    end = next((i for i, rule in enumerate(others) if _ends(rule, table)), len(others))
    if forward.count(JUMP) != 1 or not _is_well_placed(forward, table):
        lines += [f"-D {FORWARD} {JUMP}"] * forward.count(JUMP)
        lines.append(f"-I {FORWARD} {end + 1} {JUMP}")
    return lines


def removal(table: FilterTable | None) -> list[str]:
    """Lines for `iptables-restore --noflush` that take our rules away."""
    if table is None:
        return []
    lines = [f"-D {FORWARD} {JUMP}"] * table.rules.get(FORWARD, ()).count(JUMP)
    if CHAIN in table.policies:
        lines += [f":{CHAIN} - [0:0]", f"-X {CHAIN}"]
    return lines


def _can_drop(table: FilterTable) -> bool:
    others = [rule for rule in table.rules.get(FORWARD, ()) if rule != JUMP]
    return table.policies.get(FORWARD, "ACCEPT") != "ACCEPT" or bool(others)


def _is_well_placed(forward: Sequence[str], table: FilterTable) -> bool:
    """Whether nothing before our jump ends all packets."""
    return not any(_ends(rule, table) for rule in forward[: forward.index(JUMP)])


def _ends(rule: str, table: FilterTable) -> bool:
    """Whether a rule drops or rejects all packets that come to it, or logs them as refused.

    A chain that it jumps to is looked at, too, but not the chains behind that one.
    """
    if _is_end(rule):
        return True
    target = rule.removeprefix("-j ")
    return target == UFW_LOG or (
        target != rule and any(_is_end(inner) for inner in table.rules.get(target, ()))
    )


def _is_end(rule: str) -> bool:
    return rule.startswith(tuple(f"-j {end}" for end in ENDS))
