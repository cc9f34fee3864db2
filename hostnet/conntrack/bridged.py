# SPDX-License-Identifier: Apache-2.0
"""Whether packets between the ports of one bridge are tracked (bridge netfilter).

A pod's answer to a pod on the same bridge is switched, not routed. Where the request was sent to a
virtual address, the answer has to pass connection tracking all the same, to get that address as its
source. The setting of one bridge is used; net.bridge.bridge-nf-call-iptables is for all bridges.
"""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from hostnet.find_link import find_link
from hostnet.kinds.link_messages import change_kind_data
from hostnet.netlink.attributes import attr_u8
from hostnet.netlink.socket import NetlinkSocket

IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES = 36, 37  # linux/if_link.h
MODULE = "br_netfilter"
SETTINGS = Path("/proc/sys/net/bridge")
"""There while the kernel has bridge netfilter."""
LOAD_TIMEOUT = 10.0  # seconds


def available() -> bool:
    """Whether the kernel has bridge netfilter; its module is loaded if need be."""
    if not SETTINGS.exists():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                ["modprobe", "-q", MODULE], check=False, capture_output=True, timeout=LOAD_TIMEOUT
            )
    return SETTINGS.exists()


def track(sock: NetlinkSocket, bridge: str, *, on: bool) -> bool:
    """Turn it on or off for a bridge; says whether there is such a bridge. Raises NetlinkError."""
    found = find_link(sock, bridge)
    if found is None or found.kind != "bridge":
        return False
    data = attr_u8(IFLA_BR_NF_CALL_IPTABLES, on) + attr_u8(IFLA_BR_NF_CALL_IP6TABLES, on)
    words = f"ip link set {bridge} type bridge nf_call_iptables {on:d} nf_call_ip6tables {on:d}"
    sock.request(change_kind_data(bridge, "bridge", data), words)
    return True
