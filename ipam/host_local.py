# SPDX-License-Identifier: Apache-2.0
"""Addresses that the reference's host-local plugin has given on this host.

host-local keeps a file for each address below a directory for each network:

    /var/lib/cni/networks/NETWORK/10.5.72.2

A pod that flannel attached keeps its address there until its DEL. Our store gives none of these, so
that one subnet has one holder for each address, whoever gave it. Files from before the last boot
hold nothing: no pod outlives a boot.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from ipam.address_allocator import Address


def addresses_of_host_local(directory: Path) -> frozenset[Address]:
    """All of them; none where the plugin was never used."""
    return frozenset(_addresses(directory))


def _addresses(directory: Path) -> Iterator[Address]:
    try:
        networks = [entry for entry in os.scandir(directory) if entry.is_dir()]
    except OSError:
        return
    booted = _boot_time() if networks else 0.0
    for network in networks:
        try:
            files = list(os.scandir(network.path))
        except OSError:
            continue
        for file in files:
            try:
                given = ip_address(file.name)
                if file.stat().st_mtime >= booted:
                    yield Address(given.version, int(given))
            except (ValueError, OSError):
                continue  # host-local's lock and last_reserved_ip.0, or it has just gone


@functools.cache  # /proc/stat takes the kernel longer than the rest of an ADD's store
def _boot_time() -> float:
    """When this host was booted, as file times count."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
