# SPDX-License-Identifier: Apache-2.0
"""The network between the hosts, as seen from this host.

flatmesh calls the network that carries tunnel packets the underlay. Everything a backend
needs to know about it is here: which device, which of its addresses the peers use, how
large a packet it takes, and which addresses are on the same L2 segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface


@dataclass(frozen=True, slots=True)
class Underlay:
    """This host's place on the underlay."""

    link: str
    mtu: int
    """Bytes, of the device itself."""
    public_ip: IPv4Address | None = None
    """What we publish for peers to send to; behind 1:1 NAT not an address of ours."""
    public_ipv6: IPv6Address | None = None
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    """All global addresses of the device, with their on-link prefix."""
    mac: str | None = None

    def on_link(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether `address` is on this device's L2 segment, judged by its prefixes."""
        return any(address in mine.network for mine in self.addresses)

    def local(self, family: int) -> IPv4Address | IPv6Address | None:
        """Our own source address of `family` (4 or 6): the public one if it is on the device."""
        public = self.public_ip if family == 4 else self.public_ipv6
        own = [a.ip for a in self.addresses if a.version == family]
        return public if public in own else (own[0] if own else None)
