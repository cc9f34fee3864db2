# SPDX-License-Identifier: Apache-2.0
"""Which kinds of network device this kernel can make: tried, in a namespace that ends at once.

pyroute2 does it, as nobody waits for it: see docs/decisions/0001-netlink-by-hand-or-pyroute2.md.
"""

from __future__ import annotations

import errno

from hostnet.netns import run_in_new

UNKNOWN = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})
"""What the kernel answers for a kind that it doesn't have, and can't load."""
NAME = "probe0"


def missing_kind(kind: str) -> str | None:
    """Why the kernel can't make devices of a kind (`vxlan`, ...); None: it can.

    Another refusal means that it knows the kind, and asks for more attributes. Raises NetnsError.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - takes 0.15 s
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    def attempt() -> str | None:
        with IPRoute() as netlink:
            try:
                netlink.link("add", ifname=NAME, kind=kind)
            except NetlinkError as error:
                return str(error.args[1]) if error.code in UNKNOWN else None
        return None

    return run_in_new(attempt)
