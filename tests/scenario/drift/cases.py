# SPDX-License-Identifier: Apache-2.0
"""All that flatmesh makes on a host, and what becomes of it when another program changes it.

`test_drift.py` does each to a running host of each backend. docs/drift.md is made from this table
by docs/generate.py.

Words in braces are filled in from the host (`host_state.words`). A command that begins with a name
in `host_state.SPECIAL` is no program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
    "ovs, pods on kbr0": {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow", "Key": 7},
    "ovs, pods on obr0": {
        "Type": "ovs",
        "Tunnel": "vxlan",
        "Mesh": "static",
        "Key": 7,
        "PodAttach": "obr0",
    },
}
ALL = tuple(BACKENDS)
OVS = tuple(name for name in ALL if name.startswith("ovs"))
ON_KBR0 = tuple(name for name in ALL if name != "ovs, pods on obr0")
OVS_KBR0, OVS_OBR0 = OVS[:1], OVS[1:]
VXLAN, HOST_GW, UDP, WIREGUARD = (ALL[n : n + 1] for n in range(4))
ROUTED = tuple(name for name in ALL if name != "udp")
"""Backends with a route for each peer; udp has one for the whole network."""
DUAL_STACK = ROUTED
BRIDGED = (*VXLAN, *OVS_KBR0)
"""For what is the same with every backend whose pods are on kbr0."""
EVENT, CHECK = "event", "check"
"""How it is noticed: at the kernel's or Open vSwitch's message; by looking every five seconds."""
DELETED, OVERWRITTEN, FOREIGN = "deleted", "overwritten", "foreign"


class Drift(NamedTuple):
    """One change by another program."""

    what: str
    """The kind of object."""
    way: str
    """`deleted`, `overwritten` (or set otherwise), `foreign` (somebody's own beside it)."""
    detail: str
    commands: str
    """Separated by ` ; `."""
    backends: tuple[str, ...] = ALL
    noticed: str = EVENT
    kernel: str = ""
    """What the kernel needs for it (tests/kernel/features.py)."""

    @property
    def id(self) -> str:
        """For the test's name."""
        return f"{self.what} {self.way}: {self.detail}"


FDB = "bridge fdb replace {mac} dev flannel.1"
NEIGH = "ip neigh replace {base} lladdr 02:00:00:00:00:07 dev flannel.1 nud"

DRIFTS = [
    # -- devices -----------------------------------------------------------------------------
    Drift("device", DELETED, "tunnel device", "ip link del {device}", (*VXLAN, *UDP, *WIREGUARD)),
    Drift("device", OVERWRITTEN, "down", "ip link set {device} down", (*VXLAN, *UDP, *WIREGUARD)),
    Drift(
        *("device", OVERWRITTEN, "MTU", "ip link set {device} mtu 1300"),
        (*VXLAN, *UDP, *WIREGUARD),
    ),
    Drift(
        *("device", OVERWRITTEN, "MAC", "ip link set {device} address 02:00:00:00:00:09"),
        VXLAN,
    ),
    Drift("device", OVERWRITTEN, "TTL", "ip link set flannel.1 type vxlan ttl 1", VXLAN),
    Drift("device", OVERWRITTEN, "in a bridge", "ip link set flannel.1 master foreign", VXLAN),
    Drift("device", DELETED, "veth pair to the switch", "ip link del kbr0-obr0", OVS_KBR0),
    Drift("device", OVERWRITTEN, "veth pair down", "ip link set obr0-kbr0 down", OVS_KBR0),
    Drift("device", OVERWRITTEN, "veth pair off kbr0", "ip link set kbr0-obr0 nomaster", OVS_KBR0),
    Drift("device", DELETED, "veth pair to the underlay", "ip link del phy-host", OVS),
    Drift("device", OVERWRITTEN, "obr0 down", "ip link set obr0 down", OVS_OBR0),
    Drift("device", OVERWRITTEN, "obr0's MTU", "ip link set obr0 mtu 1300", OVS_OBR0),
    Drift("device", OVERWRITTEN, "checksum offload", "ethtool -K kbr0-obr0 tx on", OVS_KBR0),
    # -- addresses, neighbours, forwarding entries -------------------------------------------
    Drift("address", DELETED, "of the tunnel", "ip addr flush dev {device}", (*VXLAN, *UDP)),
    Drift("address", DELETED, "of obr0", "ip addr del {gateway} dev obr0", OVS_OBR0),
    Drift("address", DELETED, "of obr0-phy", "ip addr flush dev obr0-phy scope global", OVS),
    Drift("address", FOREIGN, "on the tunnel", "ip addr add 10.99.0.1/32 dev flannel.1", VXLAN),
    Drift("neighbour", DELETED, "", "ip neigh del {base} dev flannel.1", VXLAN),
    Drift("neighbour", OVERWRITTEN, "permanent", f"{NEIGH} permanent", VXLAN),
    Drift("neighbour", OVERWRITTEN, "not permanent", f"{NEIGH} stale", VXLAN),
    Drift("neighbour", FOREIGN, "", NEIGH.replace("{base}", "10.98.0.9") + " permanent", VXLAN),
    Drift(
        *("FDB entry", DELETED, "", "bridge fdb del {mac} dev flannel.1 dst {peer} self"),
        VXLAN,
    ),
    Drift("FDB entry", OVERWRITTEN, "address", f"{FDB} dst 192.168.64.77 self", VXLAN),
    Drift("FDB entry", OVERWRITTEN, "port", f"{FDB} dst {{peer}} port 4789 self", VXLAN),
    Drift("FDB entry", OVERWRITTEN, "not permanent", f"{FDB} dst {{peer}} self dynamic", VXLAN),
    Drift(
        *("FDB entry", FOREIGN, ""),
        "bridge fdb append 02:00:00:00:00:08 dev flannel.1 dst {peer} self",
        VXLAN,
    ),
    # -- routes ------------------------------------------------------------------------------
    Drift("route", DELETED, "IPv4", "ip route del {net}"),
    Drift("route", DELETED, "IPv6", "ip -6 route del {net6}", DUAL_STACK),
    Drift("route", OVERWRITTEN, "by another", "ip route replace {net} via 192.168.64.1"),
    Drift("route", OVERWRITTEN, "by a blackhole", "ip route replace blackhole {net}"),
    Drift(
        *("route", OVERWRITTEN, "by a blackhole, IPv6"),
        "ip -6 route replace blackhole {net6} metric 1024",
        DUAL_STACK,
    ),
    Drift("route", FOREIGN, "preferred, IPv4", "ip route prepend {net} via 192.168.64.1"),
    Drift(
        *("route", FOREIGN, "preferred, IPv6"),
        "ip -6 route add {net6} via fd00:1::1 metric 5",
        DUAL_STACK,
    ),
    Drift("nexthop object", DELETED, "", "ip nexthop del id {hop}", (*VXLAN, *HOST_GW)),
    Drift(
        *("nexthop object", OVERWRITTEN, "by another"),
        "ip nexthop replace id {hop} via 192.168.64.1 dev eth0",
        (*VXLAN, *HOST_GW),
    ),
    Drift(
        *("nexthop object", OVERWRITTEN, "by a blackhole"),
        "ip nexthop replace id {hop} blackhole",
        (*VXLAN, *HOST_GW),
    ),
    # -- forwarding and filter ---------------------------------------------------------------
    Drift("sysctl", OVERWRITTEN, "ip_forward", "sysctl -qw net.ipv4.ip_forward=0"),
    Drift(
        *("sysctl", OVERWRITTEN, "forwarding, IPv6"),
        "sysctl -qw net.ipv6.conf.all.forwarding=0",
        DUAL_STACK,
    ),
    Drift(
        *("sysctl", OVERWRITTEN, "forwarding of kbr0"),
        "sysctl -qw net.ipv4.conf.kbr0.forwarding=0",
        VXLAN,
        CHECK,
    ),
    Drift(
        *("sysctl", OVERWRITTEN, "forwarding of the device that packets arrive by"),
        "sysctl -qw net.ipv4.conf.{arrival}.forwarding=0",
        (*VXLAN, *HOST_GW, *UDP, *WIREGUARD),
        CHECK,
    ),
    Drift(
        *("sysctl", OVERWRITTEN, "send_redirects"),
        "sysctl -qw net.ipv4.conf.all.send_redirects=1",
        OVS,
        CHECK,
    ),
    Drift("nftables", DELETED, "table of the host", "nft delete table inet flatmesh"),
    Drift("nftables", DELETED, "whole ruleset", "nft flush ruleset"),
    Drift("nftables", DELETED, "rules", "nft flush chain inet flatmesh postrouting", VXLAN),
    Drift(
        "nftables", DELETED, "elements of a set", "nft flush set inet flatmesh protected4", VXLAN
    ),
    Drift("nftables", FOREIGN, "rule", "nft insert rule inet flatmesh forward drop", VXLAN),
    Drift(
        *("nftables", FOREIGN, "element"),
        "nft add element inet flatmesh protected4 {{ 192.168.64.200 }}",
        VXLAN,
    ),
    Drift("nftables", DELETED, "table of pods", "nft delete table bridge {guard}", ON_KBR0),
    Drift("nftables", DELETED, "redirect to the switch", "nft delete table {redirect}", OVS),
    # -- pods --------------------------------------------------------------------------------
    Drift("pod's port", DELETED, "taken off kbr0", "ip link set {veth} nomaster", ON_KBR0),
    Drift("pod's port", OVERWRITTEN, "in a bridge", "ip link set {veth} master foreign", BRIDGED),
    Drift("pod's port", OVERWRITTEN, "down", "ip link set {veth} down"),
    Drift("pod's port", OVERWRITTEN, "MTU", "ip link set {veth} mtu 1280", BRIDGED),
    Drift(
        *("pod's port", OVERWRITTEN, "isolated"),
        "bridge link set dev {veth} isolated on",
        BRIDGED,
    ),
    Drift(
        "pod's port", OVERWRITTEN, "hairpin", "bridge link set dev {veth} hairpin {other}", VXLAN
    ),
    Drift(
        *("pod's port", OVERWRITTEN, "learning and flooding"),
        "bridge link set dev {veth} learning off flood off mcast_flood off bcast_flood off",
        BRIDGED,
    ),
    Drift(
        *("pod's port", OVERWRITTEN, "locked, guarded, neighbours suppressed"),
        "bridge link set dev {veth} locked on guard on root_block on neigh_suppress on",
        VXLAN,
    ),
    Drift("pod's port", OVERWRITTEN, "blocked", "bridge link set dev {veth} state 0", VXLAN),
    Drift(
        *("pod's port", OVERWRITTEN, "VLANs"),
        "ip link set kbr0 type bridge vlan_filtering 1 ; bridge vlan del dev {veth} vid 1",
        VXLAN,
        kernel="bridge VLANs",
    ),
    Drift("bridge kbr0", DELETED, "", "ip link del kbr0", ON_KBR0),
    Drift("bridge kbr0", OVERWRITTEN, "made again", "ip link del kbr0 ; ADD", VXLAN),
    Drift("bridge kbr0", OVERWRITTEN, "down", "ip link set kbr0 down", ON_KBR0),
    Drift("bridge kbr0", OVERWRITTEN, "without address", "ip addr flush dev kbr0", ON_KBR0),
    Drift("bridge kbr0", OVERWRITTEN, "MAC", "ip link set kbr0 address 02:00:00:00:00:08", VXLAN),
    Drift("bridge kbr0", OVERWRITTEN, "MTU", "ip link set kbr0 mtu 1280", BRIDGED),
    # -- processes ---------------------------------------------------------------------------
    Drift("process", DELETED, "killed", "KILL {process}", (*UDP, *WIREGUARD), CHECK),
    Drift("table of udp", OVERWRITTEN, "without peers", "UDP-TABLE", UDP, CHECK),
    Drift("WireGuard peer", DELETED, "", "UAPI remove=true", WIREGUARD, CHECK),
    Drift(
        *("WireGuard peer", OVERWRITTEN, "allowed-ips"),
        "UAPI replace_allowed_ips=true allowed_ip=10.99.0.0/24",
        WIREGUARD,
        CHECK,
    ),
    Drift(
        *("WireGuard peer", OVERWRITTEN, "endpoint"),
        "UAPI endpoint=192.168.64.77:51820",
        WIREGUARD,
        CHECK,
    ),
    # -- Open vSwitch ------------------------------------------------------------------------
    Drift("OVS bridge", DELETED, "obr0", "VSCTL del-br obr0", OVS),
    Drift("OVS bridge", DELETED, "obr0-phy", "VSCTL del-br obr0-phy", OVS),
    Drift("OVS bridge", OVERWRITTEN, "fail_mode", "VSCTL clear bridge obr0 fail_mode", OVS),
    Drift("OVS port", DELETED, "tunnel", "VSCTL del-port obr0 {tunnel}", OVS),
    Drift("OVS port", DELETED, "kbr0", "VSCTL del-port obr0 obr0-kbr0", OVS_KBR0),
    Drift("OVS port", DELETED, "pod", "VSCTL del-port obr0 {veth}", OVS_OBR0),
    Drift("OVS port", OVERWRITTEN, "key", "VSCTL set interface {tunnel} options:key=99", OVS),
    Drift("OVS port", OVERWRITTEN, "VLAN", "VSCTL set port {tunnel} tag=9", OVS),
    Drift("OVS port", OVERWRITTEN, "forbidden to forward", "OFPORT {tunnel} no-forward", OVS),
    Drift(
        *("OVS port", OVERWRITTEN, "forbidden to receive, flood"),
        "OFPORT {inward} no-receive ; OFPORT {inward} no-flood",
        OVS,
    ),
    Drift("OVS port", OVERWRITTEN, "pods' port down", "OFPORT {inward} down", OVS),
    Drift("OVS flow", DELETED, "all of obr0", "OFCTL del-flows obr0", OVS),
    Drift("OVS flow", DELETED, "all of obr0-phy", "OFCTL del-flows obr0-phy", OVS),
    Drift(
        *("OVS flow", OVERWRITTEN, "actions"),
        "OFCTL mod-flows obr0 cookie={cookie}/-1,actions=drop",
        OVS,
    ),
    Drift("OVS route", DELETED, "", "APPCTL ovs/route/del 192.168.64.0/24", OVS, CHECK),
    # -- files -------------------------------------------------------------------------------
    Drift("file", DELETED, "subnet.env", "rm {run}/subnet.env", VXLAN, CHECK),
]


def of_backend(backend: str) -> list[Drift]:
    """Those that can happen to a host of a backend."""
    return [one for one in DRIFTS if backend in one.backends]
