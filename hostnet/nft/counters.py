"""Named counters of an nftables table, read over netlink.

`nft list counters` gives the same as text, at the price of all rules and sets of the table, which
libnftables reads first. The messages are NFT_MSG_GETOBJ's (linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import errno

from hostnet.netlink.attributes import attributes, text_of
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.nft import messages


def read_counters(family: str, table: str, netns: NetnsRef | None = None) -> dict[str, int]:
    """Packets by counter name; empty for a missing table. From any thread.

    Raises NetlinkError, NetnsError, OSError.
    """
    with NetlinkSocket(netns, protocol=messages.NETLINK_NETFILTER) as sock:
        try:
            parts = sock.dump(*messages.get_counters(family, table), "nft list counters")
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return {}
            raise
    found = {}
    for data, begin, end in parts:
        one = attributes(data, begin + 4, end)
        content = one.get(messages.NFTA_OBJ_DATA, b"")
        packets = attributes(content, 0, len(content)).get(messages.NFTA_COUNTER_PACKETS, b"")
        if text_of(one.get(messages.NFTA_OBJ_TABLE)) == table:
            found[text_of(one.get(messages.NFTA_OBJ_NAME))] = int.from_bytes(packets, "big")
    return found
