# SPDX-License-Identifier: Apache-2.0
"""The text of a host's nftables table: flannel's rules of masquerade, and the filter's."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from backend.arrivals import Arrivals, Check, TunnelPort
from flannel import host_table, masquerade
from flannel.host_filter import ClosedPorts, HostFilter
from ipam import lease
from ipam.network import parse_config

OWN = lease.parse("10.5.1.0-24", '{"PublicIP":"192.168.64.2","PublicIPv6":null}')
CONFIG = parse_config('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')
NETWORK = IPv4Network("10.5.0.0/16")
VXLAN = Arrivals((TunnelPort("udp", 8472, Check.VXLAN, 1),))
ALL = ClosedPorts.of(VXLAN, [2379], 9000, [])


def host_filter(arrivals: Arrivals = VXLAN, closed: ClosedPorts = ALL) -> HostFilter:
    return HostFilter([NETWORK], "eth0", arrivals, closed, [(4, 24)], [IPv4Address("192.168.64.2")])


def chain(body: str, name: str) -> list[str]:
    """The lines of one chain."""
    lines = body.split(f"chain {name} {{\n")[1].split("}\n", maxsplit=1)[0]
    return [line.strip() for line in lines.splitlines()]


def test_masquerade_rules_stand_in_flannels_order() -> None:
    assert masquerade.rules(host_table.families(CONFIG, OWN)) == [
        "meta mark & 0x4000 == 0x4000 return",
        "ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return",
        "ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return",
        "ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return",
        "ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random",
    ]


def test_without_ip_masq_packets_are_only_filtered() -> None:
    body = host_table.table(CONFIG, OWN, host_filter(), masquerades=False).body
    assert "masquerade" not in body
    assert chain(body, "forward") == [
        "type filter hook forward priority filter; policy accept;",
        'iifname "eth0" ip saddr 10.5.0.0/16 jump plain4',
        "ip daddr 10.5.0.0/16 accept",
        "ip saddr 10.5.0.0/16 ip daddr @protected4 jump closed",
        "ip saddr 10.5.0.0/16 accept",
        'iifname { "kbr0", "obr0" } ip daddr @protected4 jump closed',
        'iifname { "kbr0", "obr0" } ip6 daddr @protected6 jump closed',
    ]


def test_without_tunnels_what_pods_send_each_other_passes_first() -> None:
    ordinary = host_filter().forward()
    assert host_filter(Arrivals(plain=True)).forward() == [
        'iifname "kbr0" ip daddr 10.5.0.0/16 accept',
        "ip saddr & 255.255.255.0 @plain4_24 ip daddr 10.5.0.0/16 accept",
        *ordinary,
    ]
    on_kbr0 = replace(host_filter(Arrivals(plain=True)), underlay_link="kbr0")
    assert on_kbr0.forward()[0].startswith("ip saddr & 255.255.255.0 @plain4_24")


def test_vxlan_packets_are_compared_with_the_leases() -> None:
    own = "ip daddr 192.168.64.2"
    assert host_filter().chains()["tunnel_8472"] == [
        f"{own} @th,224,16 0x0800 ip saddr . @th,336,32 & 0xffffff00 @vxlan4_24 accept",
        f"{own} @th,224,16 0x0800 ip saddr . @th,336,32 @vxlan4_32 accept",
        "@th,224,16 0x86dd ip6 saddr . @th,304,128 @vxlan6_128 accept",
        "@th,96,24 != 0x1 accept",
        "ip daddr != 192.168.64.2 counter name not_tunnel_end drop",
        "ip saddr != @members4 counter name not_a_member drop",
        "ip6 saddr != @members6 counter name not_a_member drop",
        "meta nfproto ipv4 @th,224,16 != 0x0800 counter name not_ip drop",
        "meta nfproto ipv6 @th,224,16 != 0x86dd counter name not_ip drop",
        "counter name wrong_inner_source drop",
    ]


def test_the_input_hook_takes_tunnel_packets_from_the_underlay_first() -> None:
    assert host_filter().input() == [
        'iifname "eth0" udp dport 8472 jump tunnel_8472',
        'iifname "eth0" ip saddr 10.5.0.0/16 jump plain4',
        'iifname "lo" accept',
        'iifname { "kbr0", "obr0" } jump closed',
        "ip saddr 10.5.0.0/16 ip saddr != @hosts4 jump closed",
        "udp dport 8472 jump tunnel_8472",
    ]


def test_packets_without_a_tunnel_come_only_from_subnets_of_peers() -> None:
    assert host_filter().chains()["plain4"] == ["counter name plain_pod_source drop"]
    assert host_filter(Arrivals(plain=True)).chains()["plain4"] == [
        "ip saddr & 255.255.255.0 @plain4_24 return",
        "counter name plain_pod_source drop",
    ]


def test_ports_are_closed_to_pods_until_they_are_opened() -> None:
    tunnels = Arrivals((*VXLAN.ports, TunnelPort("gre")))
    closed = ClosedPorts.of(tunnels, [2379, 4001], 9000, [])
    assert closed == ClosedPorts((8472,), True, (2379, 4001), (9000,), (2377,))
    assert ClosedPorts.of(tunnels, [2379], 0, ["tunnels", "scheduler", "tcp/2379"]) == ClosedPorts(
        scheduler=()
    )
    assert ClosedPorts.of(tunnels, [2379], 0, ["udp/8472", "tcp/4001"]) == ClosedPorts(
        gre=True, etcd=(2379,)
    )
