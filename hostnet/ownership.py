# SPDX-License-Identifier: Apache-2.0
"""How a restarted daemon, or an operator, knows that a kernel object is ours.

Every kind of object carries a mark that survives its maker:

    kind                    mark                              seen with
    route, nexthop object   protocol 102                      ip route show proto 102
    address                 IFA_PROTO 102 (kernel 5.18 on)    ip -d addr show
    neighbour               NDA_PROTOCOL 102 (kernel 5.0 on)  ip neigh show proto 102
    link                    alias `flatmesh`                  ip link show
    FDB entry               on a VXLAN device of ours         bridge fdb show dev flannel.1
    nftables table          its name, inet `flatmesh` and     nft list tables
                            inet `flatmesh_encryption`

Addresses, neighbours, FDB entries and routes on a device of ours are ours with or without
their own mark: the device was made for them. That is also how the entries of a real
flanneld, which marks nothing, are taken over with its device.

102 is unassigned in linux/rtnetlink.h and in iproute2's rt_protos. What plugins make for a
pod bears the alias prefix `flatmesh-pod` instead, so that no reconcile of the host's own
state ever sweeps a pod.
"""

from __future__ import annotations

from dataclasses import dataclass

PROTOCOL = 102
TRIAL_LINK = "flatmesh-try"
"""A device that is made and taken away at once, to see whether the kernel would."""
LINK_ALIAS = "flatmesh"
POD_ALIAS = "flatmesh-pod"
"""Prefix of the alias of links made for pods; never swept by `hostnet.apply.reconcile`."""
NFT_TABLE = "flatmesh"
ENCRYPTION_TABLE = "flatmesh_encryption"
"""Its own, as it outlives the other one and the daemon (`flannel.encryption`)."""
SERVICES_TABLE = "flatmesh_services"
"""The load balancer's; there is none while no service is configured."""
MESH_TABLE = "flatmesh_mesh"
"""The routing mesh's, of the families inet and netdev (`services.mesh`)."""
MESH_DEVICE = "flatmesh-in"
"""The ingress tunnel's."""
POLICY_TABLE = "flatmesh_policy"
"""Network policies: which pods may reach which. There is none without --network-policy."""
OVERLAY_KINDS = frozenset({"vxlan", "wireguard", "tun"})
"""Kinds of device that exist for an overlay only: what is on one of ours is ours."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One owner's marks; a second instance on one host (a second cluster) uses others."""

    protocol: int = PROTOCOL
    alias: str = LINK_ALIAS
    tables: frozenset[tuple[str, str]] = frozenset({("inet", NFT_TABLE)})
    """Family and name of the nftables tables that are swept when nobody wants them."""
    kinds: frozenset[str] | None = None
    """Kinds of object that the owner has at all (names as in plans: `sysctl`, `table`); only
    these tables of the kernel are read for it. None: all kinds."""

    def has(self, kind: str) -> bool:
        """Whether the owner has objects of a kind."""
        return self.kinds is None or kind in self.kinds


MARK = Mark()
"""All that one flatmesh has on a host: what `--cleanup` of earlier versions swept."""
OVERLAY = Mark(tables=frozenset())
"""Devices, addresses, routes, neighbours and FDB entries of the backend."""
FORWARDING = Mark(
    protocol=0,
    alias="flatmesh-forwarding",
    kinds=frozenset({"sysctl", "table", "set", "element"}),
)
"""Forwarding, filter and masquerade: sysctls, the nftables table of flatmesh, and its sets."""
ENCRYPTION = Mark(
    protocol=0,
    alias="flatmesh-encryption",
    tables=frozenset({("inet", ENCRYPTION_TABLE)}),
    kinds=frozenset({"table"}),
)
"""What keeps pods' packets from leaving unencrypted."""
SERVICES = Mark(
    protocol=103,
    alias="flatmesh-services",
    tables=frozenset({("inet", SERVICES_TABLE)}),
    kinds=frozenset({"route", "table", "set", "element"}),
)
"""The load balancer: its table and maps, and the routes by which hosts send to virtual addresses.
103 is unassigned, as 102 is: flatmesh's other routes are swept on their own."""
MESH = Mark(
    protocol=104,
    alias="flatmesh-mesh",
    tables=frozenset({("netdev", MESH_TABLE), ("inet", MESH_TABLE)}),
    kinds=frozenset(
        {
            *("link", "sysctl", "address", "set", "element", "table"),
            *("neighbour", "fdb", "route", "rule"),
        }
    ),
)
"""The routing mesh: the ingress tunnel's device, what leads into it and back. 104 is unassigned."""
