# SPDX-License-Identifier: Apache-2.0
"""Several netlink requests sent as one packet, with the `ip` command of each for its error."""

from __future__ import annotations

from collections.abc import Sequence

from hostnet.netlink.socket import NetlinkSocket, Request, RequestBatch


def send_batch(sock: NetlinkSocket, requests: Sequence[Request], lines: Sequence[str]) -> None:
    """Send them; `lines` has a command for each request. Raises the first NetlinkError."""
    errors = sock.execute(requests, lambda index: lines[index])
    if errors:
        raise errors[min(errors)]


def as_requests(batch: RequestBatch) -> list[Request]:
    """The messages of a batch as single requests, to be sent together with others."""
    return [Request(batch.type, batch.flags, body) for body in batch.bodies]
