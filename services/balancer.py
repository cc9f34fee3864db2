# SPDX-License-Identifier: Apache-2.0
"""The nftables maps of services: no chain and no rule for a service or an endpoint.

    virtual4_tcp_hash_32     (virtual address, port, slot) -> (endpoint's address, port)
    published4_tcp_hash_32   (published port, slot) -> (endpoint's address, port)
    hairpin4                 (endpoint, endpoint): who may be led back to itself
    limited                  (protocol, published port): only some sources may use it
    sources4_24              (protocol, published port, source cut to 24 bits): these

and the same with 6, udp and sctp. There is a map for each way to choose a slot (`hash` of the
client's address and port, `client`: of its address alone, `random`) and each number of slots in
use; `services.ruleset` has the one rule that looks each up, `services.elements` what is in them. A
service without ready endpoints has no elements.

One map for all protocols was tried: nft 1.0.6 refuses `th dport` in a `typeof` that it reads back
from the kernel.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from hostnet.nft.sets import NftSet
from hostnet.ownership import SERVICES_TABLE
from services.model import PROTOCOLS, ServicePort

FAMILIES = (4, 6)
Target = tuple[int, str, int]
"""What clients send to: protocol's number, address (empty: of any host) and port."""


class SlotMap(NamedTuple):
    """One of the maps."""

    kind: str
    """`virtual` or `published`."""
    family: int
    protocol: str
    selection: str
    """`hash`, `client` or `random`."""
    slots: int

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.kind}{self.family}_{self.protocol}_{self.selection}_{self.slots}"


@functools.cache
def slot_map(which: SlotMap) -> NftSet:
    """The map as a value of the host's state."""
    address = f"ipv{which.family}_addr"
    port = f"{which.protocol}_service"
    key = (address, port, "slot") if which.kind == "virtual" else (port, "slot")
    return NftSet("inet", SERVICES_TABLE, which.name, key, (address, port))


@functools.cache
def hairpin_set(family: int) -> NftSet:
    """Endpoints' addresses, each twice."""
    address = f"ipv{family}_addr"
    return NftSet("inet", SERVICES_TABLE, f"hairpin{family}", (address, address))


LIMITED = NftSet("inet", SERVICES_TABLE, "limited", ("inet_proto", "inet_service"))


@functools.cache
def sources_set(family: int, length: int) -> NftSet:
    """Sources, cut to `length` bits, of published ports that not everybody may use."""
    types = ("inet_proto", "inet_service", f"ipv{family}_addr")
    return NftSet("inet", SERVICES_TABLE, f"sources{family}_{length}", types)


def port_field(number: int) -> bytes:
    """A port as a field of a concatenation."""
    return number.to_bytes(2, "big") + b"\0\0"


def published_key(port: ServicePort) -> bytes:
    """Protocol and published port, as a key of two fields."""
    return bytes((PROTOCOLS[port.protocol], 0, 0, 0)) + port_field(port.published_port)
