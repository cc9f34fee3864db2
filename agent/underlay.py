# SPDX-License-Identifier: Apache-2.0
"""Which underlay device the operator's flags mean."""

from __future__ import annotations

from agent.settings import Settings
from hostnet.kernel import Kernel
from hostnet.underlay import Underlay
from hostnet.underlay_detect import UnderlayError, detect_underlay
from ipam.lease_source import LeaseSource
from ipam.network import NetworkConfig


def find_underlay(
    settings: Settings, config: NetworkConfig, kernel: Kernel, source: LeaseSource
) -> Underlay:
    """Try --iface, then --iface-regex, in the order given; without any the default route.

    The source may say by which addresses the host is known, where the flags don't. Raises
    UnderlayError: the last one when several were tried.
    """
    public_ip, public_ipv6 = source.public_addresses()
    refusal = UnderlayError("no underlay device")
    asked: list[str | None] = [*settings.iface, *settings.iface_regex]
    for wanted in asked or [None]:
        try:
            return detect_underlay(
                wanted,
                public_ip=settings.public_ip or public_ip,
                public_ipv6=settings.public_ipv6 or public_ipv6,
                need_v4=config.enable_ipv4,
                need_v6=config.enable_ipv6,
                kernel=kernel,
            )
        except UnderlayError as error:
            refusal = error
    raise refusal
