# SPDX-License-Identifier: Apache-2.0
"""The socket filter that keeps our own messages, and those on ARP and ND at work, in the kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from hostnet.kinds.neighbour import NTF_SELF, NUD_PERMANENT, RTM_NEWNEIGH


def packet_filter(ports: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """The classic BPF program that drops what is ours, and neighbours that the kernel resolves.

    Of neighbours it keeps those that are permanent or written by a program, whose port the message
    names; of forwarding entries those that are permanent or a device's own (VXLAN), so that a
    bridge that learns addresses tells nothing.

    Rows of struct sock_filter: code, jump if true, jump if false, constant. The machine loads in
    network byte order what netlink writes in the host's.
    """
    load32, load16, load8, equal, any_bit, answer = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
    mine = sorted(ports)
    program = [(load32, 0, 0, 12)]  # nlmsg_pid: the sender's port
    after = 11  # rows between the last comparison of ports and `drop`
    for place, port in enumerate(mine):
        program.append((equal, len(mine) - place - 1 + after, 0, socket.htonl(port)))
    return [
        *program,
        (load16, 0, 0, 4),  # nlmsg_type
        (equal, 0, 8, socket.htons(RTM_NEWNEIGH)),
        (load8, 0, 0, 16),  # ndm_family
        (equal, 2, 0, socket.AF_BRIDGE),
        (load32, 0, 0, 12),
        (equal, 2, 4, 0),  # of the kernel itself
        (load8, 0, 0, 26),  # ndm_flags
        (any_bit, 2, 0, NTF_SELF),
        (load16, 0, 0, 24),  # ndm_state
        (any_bit, 0, 1, socket.htons(NUD_PERMANENT)),
        (answer, 0, 0, 0xFFFFFFFF),  # keep
        (answer, 0, 0, 0),  # drop
    ]
