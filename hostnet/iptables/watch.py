"""Tells when the chains that forwarded packets pass were changed, by the kernel's messages.

nftables tells of each change, iptables-nft's among them; the older ip_tables tells nothing, so it
has to be looked at now and then (`hostnet.iptables.programs.legacy`).
"""

from __future__ import annotations

import errno

from hostnet.netlink.attributes import attributes, text_of
from hostnet.netlink.buffers import Part, messages
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.nft.messages import FAMILIES, NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFTA_TABLE_NAME
from hostnet.ownership import NFT_TABLE

NFNLGRP_NFTABLES = 7  # linux/netfilter/nfnetlink.h
# linux/netfilter/nf_tables.h: NFT_MSG_NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN; NEWRULE, DELRULE
OF_CHAINS, OF_RULES = frozenset({0, 2, 3, 5}), frozenset({6, 8})
FILTERS = frozenset({(FAMILIES["ip"], "filter"), (FAMILIES["ip6"], "filter")})
RECEIVE_BUFFER = 4 * 1024 * 1024  # bytes: kube-proxy rewrites thousands of rules at once


class ForwardChainsWatch:
    """Watches one network namespace (None: the caller's). Close it when done.

    Used by one thread at a time.
    """

    def __init__(self, netns: NetnsRef | None = None) -> None:
        """Start to watch. Raises OSError; a kernel without nftables tells nothing."""
        self._socket = NetlinkSocket(netns, protocol=NETLINK_NETFILTER)
        self._socket.receive_buffer(RECEIVE_BUFFER)
        self._socket.join(NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> list[str]:
        """Read all that has arrived; why the chains have to be read again, or nothing."""
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
            for message, _, part in messages(data):
                table = _concerned(message, part)
                if table is not None:
                    reasons[f"nftables table {table} changed"] = None

    def close(self) -> None:
        """Stop watching; again is harmless."""
        self._socket.close()


def _concerned(message: int, part: Part) -> str | None:
    """The table that a message is about, where a chain of its forward hook may have changed."""
    if message >> 8 != NFNL_SUBSYS_NFTABLES:
        return None
    data, begin, end = part
    kind = message & 0xFF
    # the table's name has the same number in messages on tables, chains and rules
    name = text_of(attributes(data, begin + 4, end).get(NFTA_TABLE_NAME))
    if kind in OF_CHAINS:
        return None if name.startswith(NFT_TABLE) else name
    return name if kind in OF_RULES and (data[begin], name) in FILTERS else None
