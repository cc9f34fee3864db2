# SPDX-License-Identifier: Apache-2.0
"""Services as elements, and which tracked connections lead to endpoints that are gone."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address, ip_network

from etcd.client import KeyValue
from hostnet.conntrack.entries import Connection, Tuple
from services.balancer import SlotMap
from services.codec import format_endpoint, format_service
from services.elements import BalancerElements
from services.follow import KeyChanges
from services.keys import Keys
from services.model import Endpoint, Service, ServicePort
from services.ruleset import Ruleset, with_next
from services.served import KnownServices, ServedService, disputed
from services.stale import Translations

NETWORKS = (ip_network("10.96.0.0/16"), ip_network("fd96::/112"))
WEB = Service(
    "web",
    (ip_address("10.96.0.1"), ip_address("fd96::1")),
    (ServicePort("http", "tcp", 80, 8080, 30080), ServicePort("dns", "udp", 53, 5353)),
)
ENDS = [
    Endpoint("web", name, (ip_address(f"10.5.1.{n}"), ip_address(f"fd05::{n}")))
    for n, name in ((2, "a"), (3, "b"), (4, "c"))
]


def served(*endpoints: Endpoint, service: Service = WEB) -> ServedService:
    return ServedService(service, (1, service.name), endpoints)


def test_an_endpoint_that_goes_changes_only_its_slots() -> None:
    elements = BalancerElements()
    gone, come = elements.update({"web": WEB}, {"web": served(*ENDS)})
    assert not gone
    # two ports at the virtual address, one published, two families; hairpin of three endpoints
    assert len(come) == 3 * 2 * 32 + 3 * 2
    gone, come = elements.update({"web": WEB}, {"web": served(*ENDS[:2])})
    assert len(gone) < elements.size()
    keys = {one.key for one in gone if one.data}
    assert keys == {one.key for one in come}
    gone, come = elements.update({}, {"web": None})
    assert not come
    assert not elements.size()
    assert not elements.used_sets()


def test_at_the_start_the_slots_are_what_single_changes_add_up_to() -> None:
    services = {"web": served(*ENDS), "two": served(*ENDS[1:], service=replace(WEB, name="two"))}
    allowed = {name: one.service for name, one in services.items()}
    filled, updated = BalancerElements(), BalancerElements()
    filled.fill(allowed, services)
    come = set().union(*(updated.update(allowed, {n: services[n]})[1] for n in services))
    singly = {element for one in filled.slots() for element in one.elements()}
    assert singly | filled.others() == come
    assert filled.size() == updated.size() == 2 * 3 * 2 * 32 + 3 * 2
    assert filled.used_sets() == updated.used_sets()


def test_only_endpoints_that_may_be_here_are_led_back_to_themselves() -> None:
    outside = replace(ENDS[0], id="d", addresses=(ip_address("192.0.2.7"),))
    for own, count in (("10.5.1.0/24", 3), ("10.5.2.0/24", 0)):
        elements = BalancerElements([(ip_network("10.5.0.0/16"), ip_network(own))])
        elements.update({"web": WEB}, {"web": served(*ENDS, outside)})
        led_back = [one.element[:4] for one in elements.others() if one.set.name == "hairpin4"]
        assert len(led_back) == count + 1
        assert outside.addresses[0].packed in led_back


def test_a_draining_endpoint_gets_no_new_connections_and_none_ready_means_no_elements() -> None:
    elements = BalancerElements()
    draining = [replace(one, draining=True) for one in ENDS]
    _, come = elements.update({"web": WEB}, {"web": served(ENDS[0], *draining[1:])})
    assert {one.data[:4] for one in come if len(one.data) == 8} == {bytes((10, 5, 1, 2))}
    gone, come = elements.update({"web": WEB}, {"web": served(*draining)})
    assert gone
    assert not come
    assert not elements.size()


def test_an_endpoint_of_two_services_is_led_to_itself_until_both_are_gone() -> None:
    other = Service("other", ports=(ServicePort("http", "tcp", 80, 80, 81),))
    elements = BalancerElements()
    both = {"web": WEB, "other": other}
    elements.update(both, {"web": served(ENDS[0]), "other": served(ENDS[0], service=other)})
    gone, _ = elements.update(both, {"web": None})
    assert not [one for one in gone if one.set.name == "hairpin4"]
    gone, _ = elements.update(both, {"other": None})
    assert [one for one in gone if one.set.name == "hairpin4"]


def test_two_services_with_one_port_or_address_the_older_has_it() -> None:
    late = replace(WEB, name="late")
    services = [ServedService(WEB, (5, "web")), ServedService(late, (7, "late"))]
    for order in (services, services[::-1]):
        allowed, problems = disputed(order, NETWORKS, {})
        assert allowed["web"] == WEB
        assert allowed["late"].addresses == ()
        assert allowed["late"].ports[0].published_port == 0
        assert sorted(problems.values())[2] == (
            "service late: virtual address fd96::1 is service web's"
        )


def test_what_hosts_need_themselves_is_not_served() -> None:
    elsewhere = replace(WEB, addresses=(ip_address("192.0.2.1"),))
    allowed, problems = disputed([served(service=elsewhere)], NETWORKS, {("tcp", 30080): "etcd"})
    assert allowed["web"].addresses == ()
    assert not any(port.published_port for port in allowed["web"].ports)
    assert len(problems) == 2


def test_the_table_has_one_rule_for_each_map_and_their_services_may_grow() -> None:
    maps = with_next([SlotMap("virtual", 4, "tcp", "hash", 32)])
    assert {one.slots for one in maps} == {32, 128}
    pods = [(ip_network("10.5.0.0/16"), ip_network("10.5.1.0/24"))]
    body = Ruleset(NETWORKS, pods, maps, [(4, 24)]).table().body
    assert body.count("map @virtual4_tcp_hash_") == 2
    assert "seed 0x666c6174 map @virtual4_tcp_hash_32" in body
    assert "ip saddr & 255.255.255.0 @sources4_24 return" in body


def test_what_is_in_etcd_is_known_as_it_changes() -> None:
    keys = Keys("/p")
    known = KnownServices(keys)

    def kv(key: str, value: bytes, revision: int = 1) -> KeyValue:
        return KeyValue(key, value, revision, create_revision=revision)

    web, broken = keys.service("web"), keys.service("broken")
    first = {web: kv(web, format_service(WEB)), broken: kv(broken, b"{")}
    assert known.take_services(KeyChanges.complete(first.values())) == {"web"}
    assert list(known.refused) == [broken]
    ends = {
        key: kv(key, format_endpoint(one))
        for one in ENDS
        for key in (keys.endpoint("web", one.id),)
    }
    known.take_endpoints(KeyChanges.complete(ends.values()))
    found = known.get("web")
    assert found is not None
    assert [one.id for one in found.endpoints] == ["a", "b", "c"]
    assert known.take_endpoints(KeyChanges({keys.endpoint("web", "a"): None})) == {"web"}
    left = {key: ends[key] for key in list(ends)[2:]}
    assert known.take_endpoints(KeyChanges.complete(left.values())) == {"web"}
    assert known.take_endpoints(KeyChanges.complete(left.values())) == set()
    assert known.take_services(KeyChanges.complete(())) == {"web"}
    assert known.get("web") is None
    assert not known.refused


CLIENT = socket.inet_aton("10.5.9.9")


def connection(protocol: int, to: tuple[str, int], end: tuple[str, int]) -> Connection:
    target, reply = socket.inet_aton(to[0]), socket.inet_aton(end[0])
    return Connection(
        protocol, Tuple(CLIENT, 4000, target, to[1]), Tuple(reply, end[1], CLIENT, 4000), b""
    )


def test_connections_to_endpoints_that_are_gone_are_stale_and_no_others() -> None:
    local = {socket.inet_aton("192.168.64.11")}
    translations = Translations()
    draining = replace(ENDS[1], draining=True)
    assert translations.update({"web": WEB}, {"web": served(ENDS[0], draining)})
    assert not translations.update({"web": WEB}, {"web": served(ENDS[0], ENDS[1])})
    virtual, published, dns = ("10.96.0.1", 80), ("192.168.64.11", 30080), ("10.96.0.1", 53)
    right = [
        connection(6, virtual, ("10.5.1.2", 8080)),
        connection(6, virtual, ("10.5.1.3", 8080)),
        connection(17, dns, ("10.5.1.2", 5353)),
        connection(6, published, ("10.5.1.2", 8080)),
        connection(6, published, published),  # a server of the host's own
        connection(6, ("192.168.64.99", 30080), ("10.5.7.7", 1)),  # through this host
        connection(17, ("10.96.0.9", 53), ("10.5.7.7", 53)),  # no service's
    ]
    wrong = [
        connection(6, virtual, ("10.5.1.4", 8080)),
        connection(17, dns, ("10.5.1.4", 5353)),
        connection(17, dns, dns),  # made before there was an endpoint
        connection(6, published, ("10.5.1.4", 8080)),
    ]
    assert list(translations.stale([*right, *wrong], local)) == wrong
    assert translations.update({"web": WEB}, {"web": served(ENDS[0])})
    assert list(translations.stale(right, local)) == [right[1]]
    assert translations.update({}, {"web": None})
    assert list(translations.stale(right, local)) == right[:4]
