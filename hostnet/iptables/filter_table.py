# SPDX-License-Identifier: Apache-2.0
"""The table `filter` as iptables-save(8) prints it.

*filter
:FORWARD DROP [0:0]                         chain, policy (`-`: made by a user), counters
-A FORWARD -i docker0 -j ACCEPT             a rule, in the chain's order
COMMIT
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FORWARD = "FORWARD"


@dataclass(frozen=True, slots=True)
class FilterTable:
    """Chains of one family's table, with their rules."""

    policies: Mapping[str, str]
    """By chain: `ACCEPT` or `DROP`; `-` for a chain that a user made."""
    rules: Mapping[str, tuple[str, ...]]
    """By chain: what stands behind `-A CHAIN `, in order. A chain without rules is not in it."""


def parse(text: str) -> FilterTable | None:
    """Read what `iptables-save -t filter` printed; None when that has no table."""
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("*"):
            inside = line == "*filter"
        elif not inside:
            continue
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            policies[chain] = policy
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            rules.setdefault(chain, []).append(rule)
    if not policies:
        return None
    return FilterTable(policies, {chain: tuple(lines) for chain, lines in rules.items()})
