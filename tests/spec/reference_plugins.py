# SPDX-License-Identifier: Apache-2.0
"""Debian's containernetworking-plugins (1.1.1: specification 1.0.0), as tests call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.spec.cni_host import CniHost


def addresses(host: CniHost, pod: str, name: str = "eth0") -> set[str]:
    links = host.ip("addr", "show", "dev", name, pod=pod)
    return {
        f"{a['local']}/{a['prefixlen']}"
        for link in links
        for a in link["addr_info"]
        if a["scope"] == "global"
    }


def host_local(directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "host-local",
        "ranges": [[{"subnet": "10.77.0.0/24"}]],
        "dataDir": str(directory / "host-local"),
        **more,
    }


def reserved(host: CniHost, network: str) -> list[str]:
    """The addresses that host-local has written down."""
    directory = host.directory / "host-local" / network
    return sorted(p.name for p in directory.glob("10.*")) if directory.is_dir() else []
