# SPDX-License-Identifier: Apache-2.0
"""Rules of nf_tables as packed expressions, each beside its text in nft(8).

A rule is a row of expressions: some load a part of the packet into a register, the next compares
the register or looks it up in a set, the last gives the verdict. Only what flatmesh's rules need is
here. Source: linux/netfilter/nf_tables.h; the registers are chosen as nft(8) does, so that
`nft list` prints the rules as text again.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hostnet.netlink.attributes import attr, attr_nest, attr_text

# enum nft_registers: the first of 16 bytes, and the parts of four bytes that follow in its place
REG_VERDICT, REG_1, REG32_00 = 0, 1, 8
NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
CODES = {"drop": 0, "accept": 1, "jump": -3, "goto": -4, "return": -5}
"""Verdicts: NF_DROP and NF_ACCEPT (linux/netfilter.h), enum nft_verdicts."""
NFT_CMP_EQ, NFT_CMP_NEQ = 0, 1
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # enum nft_payload_bases
META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 6, 7, 15, 16  # enum nft_meta_keys
CT_STATE, CT_DIRECTION = 0, 1  # enum nft_ct_keys
CT_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8}  # NF_CT_STATE_BIT
NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR = 3, 2
ADDRESS_TYPES = {"broadcast": 3, "multicast": 5}  # RTN_*, linux/rtnetlink.h
NFT_OBJECT_COUNTER = 1
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
ADDRESSES = {(4, "saddr"): (12, 4), (4, "daddr"): (16, 4), (6, "saddr"): (8, 16)}
ADDRESSES[(6, "daddr")] = (24, 16)
"""Offset and size in the header of IPv4 and IPv6."""
_NFPROTO = {4: (2, "ipv4"), 6: (10, "ipv6")}
_IP = {4: "ip", 6: "ip6"}

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Expressions(NamedTuple):
    """A part of a rule: a match, a statement or a verdict."""

    text: str
    packed: bytes


class NftRule(NamedTuple):
    """One rule. Make it with `rule`."""

    digest: str
    """Of its text and expressions; it is kept beside the rule as a comment, and tells a rule of
    ours from what others wrote in its place."""
    text: str = ""
    packed: bytes = b""


def rule(*parts: Expressions) -> NftRule:
    """One rule of its parts."""
    text = " ".join(part.text for part in parts)
    packed = b"".join(part.packed for part in parts)
    return NftRule(hashlib.sha256(text.encode() + packed).hexdigest()[:16], text, packed)


# -- matches ---------------------------------------------------------------------------------


@functools.cache
def family_is(family: int) -> Expressions:
    """`meta nfproto ipv4`: which header follows, in a table of the family inet."""
    number, name = _NFPROTO[family]
    return Expressions(f"meta nfproto {name}", _meta(META_NFPROTO) + _compare(bytes((number,))))


@functools.cache
def protocol_is(name: str) -> Expressions:
    """`meta l4proto tcp`."""
    return Expressions(
        f"meta l4proto {name}", _meta(META_L4PROTO) + _compare(bytes((PROTOCOLS[name],)))
    )


def address_in_set(family: int, field: str, name: str) -> Expressions:
    """`ip saddr @NAME`; `field` is saddr or daddr."""
    packed = _address(family, field) + _expression("lookup", *_lookup(name))
    return Expressions(f"{_IP[family]} {field} @{name}", packed)


def addresses_in_set(family: int, name: str) -> Expressions:
    """`ip saddr . ip daddr @NAME`."""
    ip = _IP[family]
    packed = _address(family, "saddr") + _address(family, "daddr", _after(family, 0))
    packed += _expression("lookup", *_lookup(name))
    return Expressions(f"{ip} saddr . {ip} daddr @{name}", packed)


def address_port_in_set(family: int, name: str) -> Expressions:
    """`ip daddr . meta l4proto . th dport @NAME`."""
    packed = _address(family, "daddr")
    packed += _meta(META_L4PROTO, _after(family, 0)) + _dport(_after(family, 1))
    packed += _expression("lookup", *_lookup(name))
    return Expressions(f"{_IP[family]} daddr . meta l4proto . th dport @{name}", packed)


def address_in_network(network: IPNetwork, field: str) -> Expressions:
    """`ip saddr 10.5.0.0/16`."""
    size = len(network.network_address.packed)
    packed = _address(network.version, field)
    if network.prefixlen < network.max_prefixlen:
        packed += _mask(network.netmask.packed, size)
    packed += _compare(network.network_address.packed)
    return Expressions(f"{_IP[network.version]} {field} {network}", packed)


def ports_between(first: int, last: int) -> Expressions:
    """`th dport 80-90`."""
    low, high = first.to_bytes(2, "big"), last.to_bytes(2, "big")
    if first == last:
        return Expressions(f"th dport {first}", _dport(REG_1) + _compare(low))
    ends = (attr(2, _be(NFT_CMP_EQ)), _value(3, low), _value(4, high))
    packed = _dport(REG_1) + _expression("range", attr(1, _be(REG_1)), *ends)
    return Expressions(f"th dport {first}-{last}", packed)


def icmpv6_between(first: int, last: int) -> Expressions:
    """`icmpv6 type 133-137`."""
    load = _payload(TRANSPORT_HEADER, 0, 1, REG_1)
    if first == last:
        return Expressions(f"icmpv6 type {first}", load + _compare(bytes((first,))))
    ends = (attr(2, _be(NFT_CMP_EQ)), _value(3, bytes((first,))), _value(4, bytes((last,))))
    packed = load + _expression("range", attr(1, _be(REG_1)), *ends)
    return Expressions(f"icmpv6 type {first}-{last}", packed)


def device_is(direction: str, name: str) -> Expressions:
    """`iifname "kbr0"`; `direction` is iif or oif."""
    key = META_IIFNAME if direction == "iif" else META_OIFNAME
    packed = _meta(key) + _compare(name.encode().ljust(16, b"\0"))  # bytes: IFNAMSIZ
    return Expressions(f'{direction}name "{name}"', packed)


def state_is(*states: str) -> Expressions:
    """`ct state established,related`. Its first rule turns connection tracking on."""
    bits = sum(CT_STATES[one] for one in states).to_bytes(4, sys.byteorder)
    packed = _expression("ct", attr(1, _be(REG_1)), attr(2, _be(CT_STATE)))
    packed += _mask(bits, 4) + _compare(bytes(4), NFT_CMP_NEQ)
    return Expressions(f"ct state {','.join(states)}", packed)


def is_reply() -> Expressions:
    """`ct direction reply`: sent by the one who did not begin the connection."""
    packed = _expression("ct", attr(1, _be(REG_1)), attr(2, _be(CT_DIRECTION)))
    return Expressions("ct direction reply", packed + _compare(b"\1"))


def destination_is(kind: str) -> Expressions:
    """`fib daddr type multicast` (or broadcast)."""
    packed = _expression(
        "fib",
        attr(1, _be(REG_1)),
        attr(2, _be(NFT_FIB_RESULT_ADDRTYPE)),
        attr(3, _be(NFTA_FIB_F_DADDR)),
    )
    packed += _compare(ADDRESS_TYPES[kind].to_bytes(4, sys.byteorder))
    return Expressions(f"fib daddr type {kind}", packed)


# -- statements and verdicts -----------------------------------------------------------------


def count_in(name: str) -> Expressions:
    """`counter name "NAME"`."""
    packed = _expression("objref", attr(1, _be(NFT_OBJECT_COUNTER)), attr_text(2, name))
    return Expressions(f'counter name "{name}"', packed)


def by_map(family: int, field: str, name: str) -> Expressions:
    """`ip saddr vmap @NAME`: the address's verdict in a map."""
    packed = _address(family, field)
    packed += _expression("lookup", *_lookup(name), attr(3, _be(REG_VERDICT)))
    return Expressions(f"{_IP[family]} {field} vmap @{name}", packed)


@functools.cache
def verdict(code: str, chain: str = "") -> Expressions:
    """`accept`, `drop`, `return`, `jump CHAIN`, `goto CHAIN`."""
    packed = _expression("immediate", attr(1, _be(REG_VERDICT)), verdict_data(2, code, chain))
    return Expressions(f"{code} {chain}".strip(), packed)


def verdict_data(kind: int, code: str, chain: str = "") -> bytes:
    """A verdict as an attribute: of an `immediate`, or of a map's element."""
    inner = [attr(NFTA_VERDICT_CODE, (CODES[code] & 0xFFFFFFFF).to_bytes(4, "big"))]
    if chain:
        inner.append(attr_text(NFTA_VERDICT_CHAIN, chain))
    return attr_nest(kind, attr_nest(NFTA_DATA_VERDICT, *inner))


# -- expressions -----------------------------------------------------------------------------


def _expression(name: str, *attributes: bytes) -> bytes:
    return attr_nest(
        NFTA_LIST_ELEM, attr_text(NFTA_EXPR_NAME, name), attr_nest(NFTA_EXPR_DATA, *attributes)
    )


def _be(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _value(kind: int, value: bytes) -> bytes:
    return attr_nest(kind, attr(NFTA_DATA_VALUE, value))


def _meta(key: int, register: int = REG_1) -> bytes:
    return _expression("meta", attr(1, _be(register)), attr(2, _be(key)))


def _compare(value: bytes, operation: int = NFT_CMP_EQ) -> bytes:
    return _expression("cmp", attr(1, _be(REG_1)), attr(2, _be(operation)), _value(3, value))


def _payload(base: int, offset: int, size: int, register: int) -> bytes:
    numbers: Sequence[int] = (register, base, offset, size)
    return _expression("payload", *(attr(n, _be(value)) for n, value in enumerate(numbers, 1)))


def _address(family: int, field: str, register: int = REG_1) -> bytes:
    return _payload(NETWORK_HEADER, *ADDRESSES[family, field], register)


def _dport(register: int) -> bytes:
    return _payload(TRANSPORT_HEADER, 2, 2, register)


def _after(family: int, fields: int) -> int:
    """The register behind an address and some fields of four bytes."""
    return REG32_00 + (1 if family == 4 else 4) + fields


def _mask(mask: bytes, size: int) -> bytes:
    registers: Iterable[bytes] = (attr(1, _be(REG_1)), attr(2, _be(REG_1)), attr(3, _be(size)))
    return _expression("bitwise", *registers, _value(4, mask), _value(5, bytes(size)))


def _lookup(name: str) -> tuple[bytes, bytes]:
    return attr_text(1, name), attr(2, _be(REG_1))
