# SPDX-License-Identifier: Apache-2.0
"""nftables for single pods: masquerading (`ipMasq`) and the MAC spoof check (`macspoofchk`).

Two tables, made when the first pod needs them. A pod is an element of sets, never a rule, so
the cost of a packet and of an ADD does not grow with the number of pods:

    inet flatmesh_cni     masq4, masq6: addresses of pods to masquerade
                          near4, near6: pairs of subnets between which nothing is masqueraded
    bridge flatmesh_cni   guarded: host interfaces that are checked
                          allowed: host interface and the source MAC that may come from it

The names of tables and sets are those of every version, since pods outlive an upgrade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cni import cidr
from cni.errors import NETWORK_FAILURE, CniError
from cni.pod.nft_elements import add_elements, delete_elements, make_table

if TYPE_CHECKING:
    from hostnet.nft.sets import NftElement

TABLE = "flatmesh_cni"

_MASQUERADE = """
    set masq4 { type ipv4_addr; }
    set masq6 { type ipv6_addr; }
    set near4 { type ipv4_addr . ipv4_addr; flags interval; }
    set near6 { type ipv6_addr . ipv6_addr; flags interval; }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        ip saddr @masq4 ip daddr != 224.0.0.0/4 ip saddr . ip daddr != @near4 masquerade
        ip6 saddr @masq6 ip6 daddr != ff00::/8 ip6 saddr . ip6 daddr != @near6 masquerade
    }
"""
_SPOOFING = """
    set guarded { type ifname; }
    set allowed { type ifname . ether_addr; }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        iifname @guarded iifname . ether saddr != @allowed drop
    }
"""


BODIES = {"inet": _MASQUERADE, "bridge": _SPOOFING}
"""What is in the table of each family, but for the elements."""


def add_masquerade(addresses: Sequence[str]) -> None:
    """Masquerade what pods with these addresses (`10.5.1.2/24`) send beyond their subnets.

    Raises CniError (100) and NetlinkError, as all functions here.
    """
    # hostnet.nft.sets has no intervals yet, so the pairs of subnets are added as text
    _add_pairs("".join(map(_pair_command, addresses)))
    add_elements(masquerade_elements(addresses), _MASQUERADE)


def delete_masquerade(addresses: Sequence[str]) -> None:
    """Undo `add_masquerade`, if it was done. The pairs of subnets stay: other pods use them."""
    delete_elements(masquerade_elements(addresses))


def add_mac_spoof_check(host_name: str, mac: str) -> None:
    """Drop what comes from this host interface with another source MAC than this one."""
    add_elements(spoof_check_elements(host_name, mac), _SPOOFING)


def delete_mac_spoof_check(host_name: str, mac: str) -> None:
    """Undo `add_mac_spoof_check`, if it was done."""
    delete_elements(spoof_check_elements(host_name, mac))


def masquerade_elements(addresses: Sequence[str]) -> list[NftElement]:
    """What `add_masquerade` adds, less the pairs of subnets."""
    from hostnet.nft.sets import NftElement, NftSet  # noqa: PLC0415 - see nft_elements

    elements = []
    for text in addresses:
        family, value, _ = cidr.parse_cidr(text)
        of = NftSet("inet", TABLE, f"masq{family}", (f"ipv{family}_addr",))
        elements.append(NftElement(of, value.to_bytes(4 if family == 4 else 16, "big")))
    return elements


def _pair_command(address: str) -> str:
    network = cidr.parse_cidr(address).network
    where = f"inet {TABLE} near{network.family}"
    return f"add element {where} {{ {network} . {network} }}\n"


def spoof_check_elements(host_name: str, mac: str) -> list[NftElement]:
    """What `add_mac_spoof_check` adds."""
    from hostnet.nft.datatypes import pack  # noqa: PLC0415 - see nft_elements
    from hostnet.nft.sets import NftElement, NftSet  # noqa: PLC0415

    guarded = NftSet("bridge", TABLE, "guarded", ("ifname",))
    allowed = NftSet("bridge", TABLE, "allowed", ("ifname", "ether_addr"))
    name = host_name.encode().ljust(16, b"\0")  # bytes: IFNAMSIZ, linux/if.h
    address = bytes.fromhex(mac.replace(":", ""))
    return [
        NftElement(guarded, pack(guarded.types, name)),
        NftElement(allowed, pack(allowed.types, name, address)),
    ]


def _add_pairs(commands: str) -> None:
    """Run nft commands; where the table is missing, make it and try again."""
    from hostnet.nft import tables  # noqa: PLC0415 - 15 ms, which most calls needn't pay

    try:
        tables.run(commands)
    except tables.NftMissingError as error:
        raise CniError(NETWORK_FAILURE, str(error)) from None
    except tables.NftError:
        make_table("inet", TABLE, _MASQUERADE)
        try:
            tables.run(commands)
        except tables.NftError as error:
            raise CniError(NETWORK_FAILURE, str(error)) from None
