# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel has what the routing mesh needs: tried once, in a namespace for that alone.

A host's lease says so, as others send it clients' packets only then.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from backend.protocol import Backend
from base.errors import FlatmeshError
from hostnet.kinds.link_messages import add_link, settings
from hostnet.kinds.links.vxlan import Vxlan, vxlan_data
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import run_in_new
from hostnet.nft import tables
from hostnet.ownership import MESH_DEVICE
from hostnet.underlay import Underlay
from ipam.lease import LeaseAttributes
from services.mesh.rules import PORT, VNI
from services.ruleset import SEED

HOOKS = f"""
table netdev try {{
    chain in {{
        type filter hook ingress device "{MESH_DEVICE}" priority 0;
        fib daddr type local meta mark set jhash ip saddr . tcp sport mod 32 seed {SEED}
        fwd to "{MESH_DEVICE}"
    }}
    chain out {{ type filter hook egress device "{MESH_DEVICE}" priority 0; }}
}}
"""


@functools.cache
def obstacle() -> str | None:
    """What is missing, as one line; None when all is there."""
    try:
        return run_in_new(_try)
    except (FlatmeshError, OSError) as error:
        return str(error)


def _try() -> str | None:
    device = add_link(
        "vxlan", settings(name=MESH_DEVICE), vxlan_data(Vxlan(VNI, PORT, "127.0.0.1"), 0)
    )
    try:
        with NetlinkSocket(None) as sock:
            sock.request(device, f"ip link add {MESH_DEVICE} type vxlan")
    except OSError as error:
        return f"the kernel has no VXLAN ({error})"
    try:
        tables.run(HOOKS)
    except tables.NftError as error:
        return f"the kernel has no nftables hooks of devices: Linux 5.16 or later has ({error})"
    return None


def published_attributes(
    backend: Backend, underlay: Underlay, previous: LeaseAttributes | None
) -> LeaseAttributes:
    """What this host's lease should say."""
    found = backend.attributes(underlay, previous)
    return replace(found, ingress=obstacle() is None)
