# SPDX-License-Identifier: Apache-2.0
"""What is probably a mistake on this host, though it can be followed: told, and no reason to stop.

A PublicIP that no device has is right behind 1:1 NAT; an MTU above the device's is right where the
device's is to be raised next. flanneld takes both without a word.
"""

from __future__ import annotations

from agent.settings import Settings
from hostnet.underlay import Underlay
from ipam.network import NetworkConfig


def host_warnings(config: NetworkConfig, underlay: Underlay, settings: Settings) -> list[str]:
    """One line each: what, where, and the mend."""
    found = []
    own = [address.ip for address in underlay.addresses]
    for flag, public in (
        ("--public-ip", settings.public_ip),
        ("--public-ipv6", settings.public_ipv6),
    ):
        if public is not None and public not in own:
            known = ", ".join(str(ip) for ip in own if ip.version == public.version) or "none"
            found.append(
                f"{flag} {public} is no address of {underlay.link} ({known}): behind 1:1 NAT that "
                "is right, elsewhere peers don't reach this host"
            )
    mtu = config.options.number("MTU", 0)
    if mtu > underlay.mtu:
        found.append(
            f"cluster config: Backend.MTU {mtu} is above the {underlay.mtu} of {underlay.link}: "
            "large packets get lost; leave the key out, or raise the device's MTU"
        )
    return found
