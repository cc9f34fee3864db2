# SPDX-License-Identifier: Apache-2.0
"""The socket filter that keeps our own messages, and those on ARP and ND at work, in the kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from hostnet.kinds.neighbour import NTF_SELF, NUD_PERMANENT, RTM_NEWNEIGH
from hostnet.netlink.sender_filter import (
    ANY_BIT,
    DROP,
    EQUAL,
    KEEP,
    LOAD8,
    LOAD16,
    SENDER,
    Row,
    if_from,
)


def packet_filter(ports: Iterable[int]) -> list[Row]:
    """The classic BPF program that drops what is ours, and neighbours that the kernel resolves.

    Of neighbours it keeps those that are permanent or written by a program, whose port the message
    names; of forwarding entries those that are permanent or a device's own (VXLAN), so that a
    bridge that learns addresses tells nothing.
    """
    return [
        SENDER,
        *if_from(ports, after=11),
        (LOAD16, 0, 0, 4),  # nlmsg_type
        (EQUAL, 0, 8, socket.htons(RTM_NEWNEIGH)),
        (LOAD8, 0, 0, 16),  # ndm_family
        (EQUAL, 2, 0, socket.AF_BRIDGE),
        SENDER,
        (EQUAL, 2, 4, 0),  # the kernel itself
        (LOAD8, 0, 0, 26),  # ndm_flags
        (ANY_BIT, 2, 0, NTF_SELF),
        (LOAD16, 0, 0, 24),  # ndm_state
        (ANY_BIT, 0, 1, socket.htons(NUD_PERMANENT)),
        KEEP,
        DROP,
    ]
