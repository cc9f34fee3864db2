"""Several netlink requests sent as one packet, with the `ip` command of each for its error."""

from __future__ import annotations

from collections.abc import Sequence

from hostnet.netlink.socket import Bulk, NetlinkSocket, Request


def send_batch(sock: NetlinkSocket, requests: Sequence[Request], lines: Sequence[str]) -> None:
    """Send them; `lines` has a command for each request. Raises the first NetlinkError."""
    errors = sock.execute(requests, lambda index: lines[index])
    if errors:
        raise errors[min(errors)]


def as_requests(bulk: Bulk) -> list[Request]:
    """The messages of a bulk as single requests, to be sent together with others."""
    return [Request(bulk.type, bulk.flags, body) for body in bulk.bodies]
