# SPDX-License-Identifier: Apache-2.0
"""The nftables table that keeps pods' packets from leaving a host unencrypted.

With an encrypting backend a packet for a pod of another host leaves by the tunnel's device, or not
at all:

    to the cluster's network, not to this host's subnet, not by the tunnel  ->  dropped

The routes into the tunnel say the same, but they vanish with the device, and another backend's may
take their place. This table stays when devices, routes, the other table of ours and the daemon are
gone. It goes when another backend's data plane stands, or by `flatmeshd --cleanup`.

The hook is postrouting: what pods send and what the host itself sends pass it with the device that
they leave by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network

from hostnet.kinds.nft_table import NftTable
from hostnet.ownership import ENCRYPTION_TABLE

LOCAL = ("kbr0", "lo")
"""Devices by which packets reach this host's own pods only."""
REASON = "unencrypted"
"""Name of the counter."""


def encryption_table(
    devices: Collection[str],
    networks: Iterable[IPv4Network | IPv6Network],
    own: Collection[IPv4Network | IPv6Network],
) -> NftTable:
    """The table of a host with these subnets; `devices` encrypt."""
    names = ", ".join(f'"{name}"' for name in sorted({*devices, *LOCAL}))
    rules = [f"oifname {{ {names} }} accept"]
    for network in networks:
        ip = "ip" if network.version == 4 else "ip6"
        elsewhere = [
            f"{ip} daddr != {subnet}" for subnet in own if subnet.version == network.version
        ]
        words = [f"{ip} daddr {network}", *elsewhere, f"counter name {REASON} drop"]
        rules.append(" ".join(words))
    body = [
        f"counter {REASON} {{\n}}",
        "chain postrouting {",
        "type filter hook postrouting priority 0; policy accept;",
        *rules,
        "}",
    ]
    return NftTable("inet", ENCRYPTION_TABLE, "\n".join(body) + "\n")
