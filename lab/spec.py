# SPDX-License-Identifier: Apache-2.0
"""What a lab is made of: its description, and the pods that were added to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What to build. Kept as JSON in the lab's directory, so that a later command finds it."""

    name: str = "lab"
    hosts: int = 3
    pods_per_host: int = 2
    backend: Mapping[str, Any] = field(default_factory=lambda: {"Type": "vxlan"})
    """The cluster config's `Backend`."""
    ipv4: bool = True
    ipv6: bool = False
    network: str = "10.5.0.0/16"
    subnet_len: int = 0
    """Prefix length of a host's IPv4 subnet; 0 leaves it to the cluster config's default."""
    ipv6_network: str = "fd05::/48"
    underlay_ipv6: bool = False
    """Give the underlay IPv6 addresses even where pods have none (yet)."""
    underlay_mtu: int = 1500
    """Bytes."""
    ip_masq: bool = True
    docker: bool = False
    """Run dockerd on each host."""
    scheduler: bool = False
    """Its services have virtual addresses."""
    services: bool = False
    """Have virtual addresses and names for services."""
    python: str = field(default_factory=lambda: sys.executable)
    """The interpreter of daemons, plugins and commands; flatmesh is installed there."""

    def cluster_config(self) -> dict[str, Any]:
        """Return the cluster config as an operator would write it."""
        config: dict[str, Any] = {}
        if self.ipv4:
            config["Network"] = self.network
            if self.subnet_len:
                config["SubnetLen"] = self.subnet_len
        else:
            config["EnableIPv4"] = False
        if self.ipv6:
            config |= {"EnableIPv6": True, "IPv6Network": self.ipv6_network}
        if self.scheduler or self.services:
            config |= {"ServiceNetwork": "10.96.0.0/16"} if self.ipv4 else {}
            config |= {"IPv6ServiceNetwork": "fd96::/112"} if self.ipv6 else {}
        if self.services:
            config["ServiceZone"] = "flatmesh.internal"
        return config | {"Backend": dict(self.backend)}


@dataclass(frozen=True, slots=True)
class LabPod:
    """A pod that was added: on which host, and the result of its CNI ADD."""

    host: int
    name: str
    netns: str
    result: Mapping[str, Any]

    @property
    def addresses(self) -> list[str]:
        """Its addresses, without prefix lengths."""
        return [str(ip_interface(ip["address"]).ip) for ip in self.result["ips"]]
