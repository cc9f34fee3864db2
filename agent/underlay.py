# SPDX-License-Identifier: Apache-2.0
"""Which underlay device the operator's flags mean."""

from __future__ import annotations

from dataclasses import replace

from agent.settings import Settings
from hostnet.kernel import Kernel
from hostnet.underlay import Underlay
from hostnet.underlay_detect import UnderlayError, detect_underlay
from ipam.lease_source import LeaseSource
from ipam.network import NetworkConfig


def find_underlay(
    settings: Settings,
    config: NetworkConfig,
    kernel: Kernel,
    source: LeaseSource,
    before: Underlay | None = None,
) -> Underlay:
    """Try --iface, then --iface-regex, in the order given; without any the default route.

    The source may say by which addresses the host is known, where the flags don't. Else those of
    `before` stay while the device has them. Raises UnderlayError: the last one when several were
    tried.
    """
    public_ip, public_ipv6 = source.public_addresses()
    public_ip, public_ipv6 = settings.public_ip or public_ip, settings.public_ipv6 or public_ipv6
    refusal = UnderlayError("no underlay device")
    asked: list[str | None] = [*settings.iface, *settings.iface_regex]
    for wanted in asked or [None]:
        try:
            found = detect_underlay(
                wanted,
                public_ip=public_ip,
                public_ipv6=public_ipv6,
                need_v4=config.enable_ipv4,
                need_v6=config.enable_ipv6,
                kernel=kernel,
            )
        except UnderlayError as error:
            refusal = error
            continue
        if before is None:
            return found
        return with_addresses_kept(
            found, before, keep_v4=public_ip is None, keep_v6=public_ipv6 is None
        )
    raise refusal


def with_addresses_kept(
    found: Underlay, before: Underlay, *, keep_v4: bool, keep_v6: bool
) -> Underlay:
    """The underlay under the addresses that it had, of the families asked for. Pure.

    The kernel lists the newest IPv6 address first: a floating one that another program brings to
    the device must not become the host's, for it goes on to the next host.
    """
    held = {one.ip for one in found.addresses}
    if found.link != before.link:
        return found
    if keep_v4 and before.public_ip in held:
        found = replace(found, public_ip=before.public_ip)
    if keep_v6 and before.public_ipv6 in held:
        found = replace(found, public_ipv6=before.public_ipv6)
    return found
