# SPDX-License-Identifier: Apache-2.0
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

Sources: nftables wiki, "Performing NAT"; `fully-random` is iptables' --random-fully: without it two
hosts' source ports collide.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

IPNetwork = IPv4Network | IPv6Network
KUBE_PROXY_MARK = "0x4000"  # kube-proxy --iptables-masquerade-bit, default 14
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def rules(pairs: Iterable[tuple[IPNetwork, IPNetwork]]) -> list[str]:
    """Rules of the postrouting hook, for pairs of the cluster's network and this host's subnet."""
    found = [f"meta mark & {KUBE_PROXY_MARK} == {KUBE_PROXY_MARK} return"]
    for cluster, pods in pairs:
        found += _of_family(cluster, pods)
    return found


def _of_family(cluster: IPNetwork, pods: IPNetwork) -> list[str]:
    ip = "ip" if cluster.version == 4 else "ip6"
    multicast = MULTICAST[cluster.version]
    return [
        f"{ip} saddr {pods} {ip} daddr {cluster} return",
        f"{ip} saddr {cluster} {ip} daddr {pods} return",
        f"{ip} saddr != {cluster} {ip} daddr {pods} return",
        f"{ip} saddr {cluster} {ip} daddr != {multicast} masquerade fully-random",
        f"{ip} saddr != {cluster} {ip} daddr {cluster} masquerade fully-random",
    ]
