# SPDX-License-Identifier: Apache-2.0
"""Tells when nftables tables were changed, by the kernel's messages."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from hostnet.netlink.attributes import attributes, text_of
from hostnet.netlink.buffers import Part, messages
from hostnet.netlink.sender_filter import sender_filter
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.nft.messages import (
    NETLINK_NETFILTER,
    NFNL_SUBSYS_NFTABLES,
    NFNLGRP_NFTABLES,
    NFTA_TABLE_NAME,
)

RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes: kube-proxy rewrites thousands of rules at once

Concerns = Callable[[int, int, str], bool]
"""Whether a message matters: its kind (NFT_MSG_*), the family (NFPROTO_*), the table's name."""


class NftWatch:
    """Watches one network namespace (None: the caller's). Close it when done.

    Used by one thread at a time.
    """

    def __init__(
        self, concerns: Concerns, netns: NetnsRef | None = None, *, ignore: int | None = None
    ) -> None:
        """Start to watch; what the netlink port `ignore` changes is no news.

        Raises NetnsError, OSError.
        """
        self._concerns = concerns
        self._ignored = ignore
        self._socket = NetlinkSocket(netns, protocol=NETLINK_NETFILTER)
        self._socket.receive_buffer(RECEIVE_BUFFER)
        self._socket.join(NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self._socket.fileno()

    def ignore(self, ports: Iterable[int]) -> None:
        """Changes that come from these netlink ports concern nobody here: the kernel drops them.

        A hundred thousand elements of a map are as many messages to each socket that watches.
        """
        self._socket.attach_filter(sender_filter(ports))

    def drain(self) -> list[str]:
        """Read all that has arrived; why the tables have to be read again, or nothing.

        Never waits. Raises OSError.
        """
        reasons: dict[str, None] = {}
        while True:
            try:
                data = self._socket.receive()
            except BlockingIOError:
                return list(reasons)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                reasons["more happened than the socket's buffer holds"] = None
                continue
            for message, sender, part in messages(data):
                table = self._concerned(message, part) if sender != self._ignored else None
                if table is not None:
                    reasons[f"nftables table {table} changed"] = None

    def close(self) -> None:
        """Stop watching; again is harmless."""
        self._socket.close()

    def _concerned(self, message: int, part: Part) -> str | None:
        if message >> 8 != NFNL_SUBSYS_NFTABLES:
            return None
        data, begin, end = part
        # the table's name has the same number in messages on tables, chains, rules and sets
        name = text_of(attributes(data, begin + 4, end).get(NFTA_TABLE_NAME))
        return name if self._concerns(message & 0xFF, data[begin], name) else None
