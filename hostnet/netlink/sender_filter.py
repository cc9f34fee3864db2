# SPDX-License-Identifier: Apache-2.0
"""The socket filter that keeps messages on changes by known senders in the kernel.

The machine of classic BPF loads in network byte order what netlink writes in the host's.
Source: linux/filter.h.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

Row = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, constant."""
LOAD32, LOAD16, LOAD8, EQUAL, ANY_BIT, ANSWER = 0x20, 0x28, 0x30, 0x15, 0x45, 0x06
"""Codes of struct sock_filter (linux/bpf_common.h)."""
SENDER = (LOAD32, 0, 0, 12)
"""nlmsg_pid: the port that the change came from."""
KEEP, DROP = (ANSWER, 0, 0, 0xFFFFFFFF), (ANSWER, 0, 0, 0)


def sender_filter(ports: Iterable[int]) -> list[Row]:
    """The classic BPF program that drops what comes from these ports.

    Of nftables the kernel sends many messages in one packet, all of one transaction
    (nft_commit_notify): the first one's sender is the sender of all.
    """
    return [SENDER, *if_from(ports, after=1), KEEP, DROP]


def if_from(ports: Iterable[int], after: int) -> list[Row]:
    """Jump over the rows behind these, and over `after` rows more, for one of the ports."""
    mine = sorted(ports)
    return [
        (EQUAL, len(mine) - place - 1 + after, 0, socket.htonl(port))
        for place, port in enumerate(mine)
    ]
