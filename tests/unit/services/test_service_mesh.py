# SPDX-License-Identifier: Apache-2.0
"""Which host a client's packet is passed on to, and how hosts are named."""

from __future__ import annotations

import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

from hostnet.nft.sets import NftElement
from services.elements import elements_of as balancer_elements
from services.mesh import ingress
from services.mesh.member import MARK_MASK, MARK_TAG, Member, Places, marks, packed_mac
from services.model import Endpoint, Service, ServicePort
from services.served import ServedService


def host(number: int) -> Member:
    address = IPv4Address(f"192.168.64.{number}")
    subnet = IPv4Network(f"10.5.{number}.0/24")
    return Member(address, (address,), (subnet,), str(address))


HOSTS = [host(1), host(2), host(3)]
WEB = Service("web", ports=(ServicePort("http", "tcp", 80, 8080, 30080),))


def endpoint(name: str, address: str) -> Endpoint:
    return Endpoint("web", name, (ip_address(address),))


def elements(
    *endpoints: Endpoint, service: Service = WEB, own: Member = HOSTS[0]
) -> set[NftElement]:
    served = ServedService(service, (1, "web"), endpoints)
    return set(ingress.elements_of(service, served, Places.of(HOSTS), own))


def owners(found: set[NftElement]) -> dict[int, bytes]:
    return {int.from_bytes(one.element[4:], sys.byteorder): one.data for one in found if one.data}


def test_slots_lead_to_the_host_of_the_endpoint_that_the_balancer_chooses() -> None:
    endpoints = endpoint("a", "10.5.1.2"), endpoint("b", "10.5.2.2"), endpoint("c", "10.5.3.2")
    served = ServedService(WEB, (1, "web"), endpoints)
    (slots,) = balancer_elements(WEB, served).slots.values()
    chosen = {slot: ip_address(data[:4]) for slot, data in enumerate(slots)}
    found = owners(elements(*endpoints))
    for slot, address in chosen.items():
        (there,) = (one for one in HOSTS if address in ip_network(str(one.subnets[0])))
        assert found.get(slot) == (packed_mac(there.receiver) if there != HOSTS[0] else None)


def test_a_service_with_endpoints_here_or_nowhere_known_takes_the_ordinary_way() -> None:
    assert not elements(endpoint("a", "10.5.1.2"), endpoint("b", "203.0.113.9"))
    assert not elements(endpoint("b", "10.5.2.2"), service=replace(WEB, ports=()))


def test_a_draining_endpoint_keeps_its_slots() -> None:
    both = endpoint("b", "10.5.2.2"), endpoint("c", "10.5.3.2")
    draining = replace(both[0], draining=True)
    assert elements(*both) == elements(draining, both[1])


def test_the_endpoint_may_be_a_host_itself() -> None:
    found = owners(elements(endpoint("b", "192.168.64.2")))
    assert set(found.values()) == {packed_mac(HOSTS[1].receiver)}


def test_changes_are_the_elements_that_differ() -> None:
    kept = ingress.IngressElements(Places.of(HOSTS), HOSTS[0])
    one = ServedService(WEB, (1, "web"), (endpoint("b", "10.5.2.2"),))
    gone, come = kept.update({"web": WEB}, {"web": one})
    assert not gone
    assert come == kept.all()
    assert kept.maps() == {ingress.ingress_map(4, "tcp", "hash", 32)}
    assert kept.update({"web": WEB}, {"web": one}) == (set(), set())
    gone, come = kept.update({}, {"web": None})
    assert (len(gone), come, kept.maps(), kept.published) == (33, set(), frozenset(), set())


def test_each_host_has_a_mark_of_its_own_that_leaves_other_programs_bits_alone() -> None:
    many = [replace(HOSTS[0], address=IPv4Address(0x0A000000 + n)) for n in range(20_000)]
    found = marks(many)
    assert len(set(found.values())) == len(many)
    assert all(one & MARK_MASK == MARK_TAG and not one & 0xC000 for one in found.values())
    assert marks(reversed(many)) == found
