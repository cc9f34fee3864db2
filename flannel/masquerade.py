"""Which pod traffic gets the host's address: only what leaves the cluster.

The rules, in order, for each family (P: this host's pod subnet, C: the cluster network);
they are flanneld's, so a mixed cluster behaves the same on every host:

    packets marked for kube-proxy's own masquerade      leave alone
    P -> C                                              leave alone: pod to pod is never NATed
    C -> P                                              leave alone
    outside -> P                                        leave alone: the pod sees its client
    C -> anything but multicast                         masquerade
    outside -> C                                        masquerade, or the answer would not
                                                        come back through this host

and in the forward hook everything from and to C is accepted.

All of it is one nftables table that is wholly ours (nftables wiki, "Performing NAT";
`fully-random` is iptables' --random-fully: without it two hosts' source ports collide).
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from hostnet.kinds.nft_table import NftTable
from ipam.lease import Lease
from ipam.network import NetworkConfig

TABLE = "flatmesh"
KUBE_PROXY_MARK = "0x4000"  # kube-proxy --iptables-masquerade-bit, default 14
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def table(config: NetworkConfig, own: Lease, *, masquerade: bool) -> NftTable:
    """Write the table for this host's lease; without `masquerade` only the forward rules."""
    pairs: list[tuple[IPv4Network | IPv6Network, IPv4Network | IPv6Network]] = []
    if config.network is not None and own.subnet is not None:
        pairs.append((config.network, own.subnet))
    if config.ipv6_network is not None and own.ipv6_subnet is not None:
        pairs.append((config.ipv6_network, own.ipv6_subnet))
    forward = [rule for cluster, _ in pairs for rule in _forward(cluster)]
    body = _chain("forward", "filter", "filter", forward)
    if masquerade:
        rules = [f"meta mark & {KUBE_PROXY_MARK} == {KUBE_PROXY_MARK} return"]
        for cluster, pods in pairs:
            rules += _masquerade(cluster, pods)
        body += _chain("postrouting", "nat", "srcnat", rules)
    return NftTable("inet", TABLE, body)


def _forward(cluster: IPv4Network | IPv6Network) -> list[str]:
    ip = "ip" if cluster.version == 4 else "ip6"
    return [f"{ip} saddr {cluster} accept", f"{ip} daddr {cluster} accept"]


def _masquerade(cluster: IPv4Network | IPv6Network, pods: IPv4Network | IPv6Network) -> list[str]:
    ip = "ip" if cluster.version == 4 else "ip6"
    multicast = MULTICAST[cluster.version]
    return [
        f"{ip} saddr {pods} {ip} daddr {cluster} return",
        f"{ip} saddr {cluster} {ip} daddr {pods} return",
        f"{ip} saddr != {cluster} {ip} daddr {pods} return",
        f"{ip} saddr {cluster} {ip} daddr != {multicast} masquerade fully-random",
        f"{ip} saddr != {cluster} {ip} daddr {cluster} masquerade fully-random",
    ]


def _chain(name: str, kind: str, priority: str, rules: list[str]) -> str:
    lines = [f"type {kind} hook {name} priority {priority}; policy accept;", *rules]
    return f"chain {name} {{\n" + "".join(f"\t{line}\n" for line in lines) + "}\n"
