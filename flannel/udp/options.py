# SPDX-License-Identifier: Apache-2.0
"""The udp backend's options in the cluster config, checked."""

from __future__ import annotations

from typing import NamedTuple

from ipam.network import NetworkConfig

DEFAULT_PORT = 8285


class UdpOptions(NamedTuple):
    """The Backend object of the cluster config; see `flannel.udp.backend.UdpBackend`."""

    port: int
    underlay_mtu: int
    queues: int
    single: bool

    @classmethod
    def of(cls, config: NetworkConfig) -> UdpOptions:
        """Read them. Raises ConfigError."""
        options = config.options
        return cls(
            options.number("Port", 0, minimum=0, maximum=65535) or DEFAULT_PORT,
            options.number("MTU", 0, minimum=0, maximum=65535),
            options.number("Queues", 0, minimum=0, maximum=64),
            options.flag("SinglePacket", default=False),
        )
