# SPDX-License-Identifier: Apache-2.0
"""The files below /etc that say who and where a container is."""

from __future__ import annotations

import contextlib
from pathlib import Path

from scheduler.runtime.protocol import PodConfig

RESOLV_CONF = Path("/etc/resolv.conf")
LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def contents(pod: PodConfig, hostname: str, address: str) -> dict[str, str]:
    """Name below /etc, and what it says."""
    hosts = LOCALHOST + "".join(f"{where}\t{names}\n" for where, names in pod.hosts)
    if address:
        hosts += f"{address}\t{hostname}\n"
    found = {"hostname": f"{hostname}\n", "hosts": hosts}
    if text := resolv_conf(pod):
        found["resolv.conf"] = text
    return found


def resolv_conf(pod: PodConfig) -> str:
    """What the pod's spec says, the rest as on the host; empty where there is nothing to say."""
    dns = pod.dns
    kept: list[str] = []
    with contextlib.suppress(OSError):
        kept = RESOLV_CONF.read_text(errors="replace").splitlines()
    replaced = {"nameserver"} if dns.servers else set()
    replaced |= {"search", "domain"} if dns.search else set()
    replaced |= {"options"} if dns.options else set()
    lines = [line for line in kept if line.split(None, 1)[:1] and line.split()[0] not in replaced]
    lines += [f"nameserver {server}" for server in dns.servers]
    if dns.search:
        lines.append(f"search {' '.join(dns.search)}")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)
