# SPDX-License-Identifier: Apache-2.0
"""What a pod may send: frames from its own MAC and addresses, and nothing that only routers send.

One table for all pods, `bridge flatmesh_guard`. A pod is elements of its sets, keyed by the name of
the host's end of its veth pair, never a rule, so that the cost of a packet and of an ADD does not
grow with the number of pods:

    ports        all of them; each element counts what was refused
    unchecked    `spoofCheck: false`: only what routers send is refused
    macs         port and source MAC
    macs_only    pods without addresses from an IPAM plugin: only their MAC is checked
    senders4, 6  port, MAC and source address together: nearly every packet takes this one look-up;
                 of IPv6 also the link-local address that follows from the MAC
    targets6     port and address in neighbour discovery, which nft(8) sees as an integer
    trunks       ports with `vlanTrunk`: of tagged frames only the MAC is checked

Refused from every pod: router advertisements and redirects (RFC 4861), ICMP redirects, packets of
DHCP servers, frames of the spanning tree protocol (IEEE 802.1D: a bridge without it lets them
pass), and frames with a tag of VLAN 0, which receivers overlook, so that these could hide behind
it. With one of them a pod takes over the routing of its neighbours and of the host
(CVE-2020-10749), or the tree of a mesh. From a pod that is checked also: ARP and neighbour
discovery about an address that is not its own. It may ask about others' addresses, and look whether
its own is in use (RFC 5227, RFC 4862).

A chain of the netdev family on each port, or a tc program, was considered: the kernel of Debian 12
can't add a device to a chain of that family that is there.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from cni.attachment.store import AttachmentRecord
from cni.errors import NETWORK_FAILURE, CniError
from cni.pod.naming import POD_PREFIX, host_interface_name, mac_for
from cni.pod.nft_elements import add_elements, delete_elements
from cni.result.model import ResultAddress
from hostnet.address_mac import packed_link_local
from hostnet.netlink.socket import NetlinkError

if TYPE_CHECKING:
    from hostnet.nft.sets import NftElement, NftSet

FAMILY, TABLE = "bridge", "flatmesh_guard"
RECORDED = "sourceGuard"
"""The key in an attachment's metadata."""
NAME_SIZE = 16
"""Bytes of an interface name at the begin of each element's key."""
SETS = {
    "ports": ("ifname",),
    "unchecked": ("ifname",),
    "macs": ("ifname", "ether_addr"),
    "macs_only": ("ifname",),
    "targets6": ("ifname", "nd_target"),
    "trunks": ("ifname",),
    "senders4": ("ifname", "ether_addr", "ipv4_addr"),
    "senders6": ("ifname", "ether_addr", "ipv6_addr"),
}
BODY = """
    set ports { type ifname; counter; }
    set unchecked { type ifname; }
    set macs { type ifname . ether_addr; }
    set macs_only { type ifname; }
    set targets6 { typeof iifname . @th,64,128; }
    set trunks { type ifname; }
    set senders4 { type ifname . ether_addr . ipv4_addr; }
    set senders6 { type ifname . ether_addr . ipv6_addr; }
    chain refused {
        iifname @ports drop
        drop
    }
    chain icmp4 {
        icmp type redirect goto refused
    }
    chain udp4 {
        udp sport 67 goto refused
    }
    chain icmp6 {
        icmpv6 type { nd-router-advert, nd-redirect } goto refused
    }
    chain udp6 {
        udp sport 547 goto refused
    }
    chain routers {
        ether type { 8021q, 8021ad } vlan id 0 goto refused
        ether type ip meta l4proto vmap { icmp : jump icmp4, udp : jump udp4 }
        ether type ip6 meta l4proto vmap { ipv6-icmp : jump icmp6, udp : jump udp6 }
    }
    chain checked_arp {
        iifname . arp saddr ether . arp saddr ip @senders4 accept
        arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @senders4 accept
        iifname @macs_only accept
        goto refused
    }
    chain checked_ipv4 {
        meta l4proto vmap { icmp : jump icmp4, udp : jump udp4 }
        iifname . ether saddr . ip saddr @senders4 accept
        iifname @macs_only accept
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        goto refused
    }
    chain discovery {
        icmpv6 type { nd-router-advert, nd-redirect } goto refused
        iifname @macs_only accept
        icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets6 goto refused
        ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @targets6 accept
        ip6 saddr :: icmpv6 type {
            nd-router-solicit, mld-listener-report, mld2-listener-report
        } accept
    }
    chain checked_ipv6 {
        meta l4proto vmap { ipv6-icmp : jump discovery, udp : jump udp6 }
        iifname . ether saddr . ip6 saddr @senders6 accept
        iifname @macs_only accept
        goto refused
    }
    chain tagged {
        vlan id 0 goto refused
        iifname @trunks accept
        goto refused
    }
    chain pod {
        ether daddr 01:80:c2:00:00:00 goto refused
        iifname @unchecked goto routers
        iifname . ether saddr != @macs goto refused
        ether type vmap {
            ip : goto checked_ipv4, ip6 : goto checked_ipv6, arp : goto checked_arp,
            8021q : goto tagged, 8021ad : goto tagged
        }
        iifname @macs_only accept
        goto refused
    }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        ether type ip meta l4proto tcp iifname . ether saddr . ip saddr @senders4 accept
        ether type ip6 meta l4proto tcp iifname . ether saddr . ip6 saddr @senders6 accept
        ether type ip udp sport != 67 iifname . ether saddr . ip saddr @senders4 accept
        ether type ip6 udp sport != 547 iifname . ether saddr . ip6 saddr @senders6 accept
        iifname @ports goto pod
    }
"""


class GuardedPod(NamedTuple):
    """What one pod may send."""

    host_name: str
    """The host's end of its veth pair."""
    mac: str
    ips: tuple[str, ...] = ()
    """Addresses without prefix length; none: only the MAC is checked."""
    check: bool = True
    """False: it may send from any address (`spoofCheck`)."""
    trunk: bool = False
    """Whether it may send tagged frames (`vlanTrunk`)."""


def recorded(record: AttachmentRecord) -> GuardedPod | None:
    """What an attachment's record says.

    None for pods of earlier versions, and where the ADD has not come so far that there can be
    elements: a delegated plugin gives the addresses.
    """
    metadata = record.metadata
    said = metadata.get(RECORDED)
    if not isinstance(said, dict) or not said.get("bridge"):
        return None
    if "mac" in metadata:
        mac = str(metadata["mac"])
        ips = tuple(str(ip).partition("/")[0] for ip in metadata.get("ips", ()))
    elif record.ips:
        ips = record.ips
        addresses = [ResultAddress(f"{ip}/{128 if ':' in ip else 32}") for ip in ips]
        mac = str(said.get("mac") or mac_for(addresses, POD_PREFIX))
    else:
        return None
    name = host_interface_name(record.key)
    return GuardedPod(name, mac, ips, said.get("check") is not False, bool(said.get("trunk")))


def add(pod: GuardedPod) -> None:
    """Add a pod's elements, and the table if it is not there. Raises CniError (100).

    Where a host has no nftables, pods without `spoofCheck` can be made all the same.
    """
    try:
        add_elements(elements(pod), BODY)
    except (CniError, NetlinkError) as error:
        if pod.check:
            raise CniError(
                NETWORK_FAILURE, f"source guard: {error}; without it: spoofCheck false"
            ) from None


def remove(*pods: GuardedPod) -> None:
    """Delete pods' elements; those that are not there are no error. Raises NetlinkError."""
    delete_elements([element for pod in pods for element in elements(pod)])


def elements(pod: GuardedPod) -> list[NftElement]:
    """The elements of one pod. Pure."""
    from hostnet.nft.sets import NftElement  # noqa: PLC0415 - see nft_elements

    name = key_of(pod.host_name)

    def element(of: str, *values: bytes) -> NftElement:
        return NftElement(nft_set(of), name + b"".join(values))

    if not pod.check:
        return [element("ports"), element("unchecked")]
    address = bytes.fromhex(pod.mac.replace(":", ""))
    mac = address + b"\0\0"  # each value of a key takes a multiple of four bytes
    found = [element("ports"), element("macs", mac)]
    if not pod.ips:
        found.append(element("macs_only"))
    found += [element("senders4", mac, one) for one in _packed(pod.ips, socket.AF_INET)]
    for one in {*_packed(pod.ips, socket.AF_INET6), packed_link_local(address)} if pod.ips else ():
        found += [element("targets6", one), element("senders6", mac, one)]
    if pod.trunk:
        found.append(element("trunks"))
    return found


def key_of(host_name: str) -> bytes:
    """The begin of the keys of an interface's elements: IFNAMSIZ bytes, linux/if.h."""
    return host_name.encode().ljust(NAME_SIZE, b"\0")


@functools.cache
def nft_set(name: str) -> NftSet:
    """One of the table's sets, as `hostnet.nft.sets` knows it."""
    from hostnet.nft.sets import NftSet  # noqa: PLC0415 - see nft_elements

    return NftSet(FAMILY, TABLE, name, SETS[name])


def _packed(ips: Iterable[str], family: int) -> list[bytes]:
    ipv6 = family == socket.AF_INET6
    return [socket.inet_pton(family, ip) for ip in ips if (":" in ip) == ipv6]
