# SPDX-License-Identifier: Apache-2.0
"""What the responder answers, from bytes to bytes."""

from __future__ import annotations

from ipaddress import ip_network

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.names.answer import Answer, Question, Responder
from services.names.records import NamedEndpoint, NamedPort, NamedService, ZoneRecords, label

ZONE = "flatmesh.internal"
PORTS = (NamedPort("http", "tcp", 80, 8080), NamedPort("dns", "udp", 53, 5353))
READY = (
    NamedEndpoint(("10.5.1.2", "fd05::2"), {}),
    NamedEndpoint(("10.5.2.2", "fd05:0:0:1::2"), {"http": 8081}),
)


def responder(**more: NamedService) -> Responder:
    records = ZoneRecords()
    web = NamedService(("10.96.0.5", "fd96::5"), PORTS, READY)
    records.update({"web": web, "bare": NamedService((), PORTS, READY), **more})
    networks = [ip_network(one) for one in ("10.5.0.0/16", "10.96.0.0/16", "fd05::/48")]
    gateways = ("10.5.1.1", "fd05::1")
    return Responder(dns.name.from_text(ZONE), records, networks, gateways, known=True)


def ask(
    name: str, kind: str, one: Responder | None = None, *, stream: bool = False, edns: bool = True
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0 if edns else None)
    found = (one or responder()).answer(query.to_wire(), stream=stream)
    assert isinstance(found, Answer)
    answer = dns.message.from_wire(found.wire)
    assert answer.id == query.id
    assert answer.question == query.question
    return answer


def values(answer: dns.message.Message) -> set[str]:
    return {str(rdata) for rrset in answer.answer for rdata in rrset}


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web", "A", {"10.96.0.5"}),
        ("WEB", "AAAA", {"fd96::5"}),
        ("tasks.web", "A", {"10.5.1.2", "10.5.2.2"}),
        ("tasks.web", "AAAA", {"fd05::2", "fd05:0:0:1::2"}),
        ("bare", "A", {"10.5.1.2", "10.5.2.2"}),
        ("10-5-2-2.tasks.web", "A", {"10.5.2.2"}),
        ("fd05--2.tasks.web", "AAAA", {"fd05::2"}),
        ("_http._tcp.web", "SRV", {f"0 1 80 web.{ZONE}."}),
        ("ns.dns", "A", {"10.5.1.1"}),
        (
            "_dns._udp.bare",
            "SRV",
            {
                f"0 1 5353 {one}.tasks.bare.{ZONE}."
                for one in ("10-5-1-2", "10-5-2-2", "fd05--2", "fd05-0-0-1--2")
            },
        ),
    ],
)
def test_names_lead_to_addresses_and_ports(name: str, kind: str, expected: set[str]) -> None:
    answer = ask(f"{name}.{ZONE}", kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert answer.flags & dns.flags.AA
    assert values(answer) == expected


def test_a_port_comes_with_its_targets_addresses_and_an_endpoints_own_port() -> None:
    answer = ask(f"_http._tcp.tasks.web.{ZONE}", "SRV", stream=True)
    assert f"0 1 8081 10-5-2-2.tasks.web.{ZONE}." in values(answer)
    more = {str(rdata) for rrset in answer.additional for rdata in rrset}
    assert more == {"10.5.1.2", "10.5.2.2", "fd05::2", "fd05:0:0:1::2"}


@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        *(
            ("web", "TXT", "NOERROR"),
            ("_tcp.web", "A", "NOERROR"),
            ("_http._tcp.web", "A", "NOERROR"),
        ),
        *(("dns", "A", "NOERROR"), ("nobody", "A", "NXDOMAIN"), ("tasks.nobody", "A", "NXDOMAIN")),
        *(("_sctp.web", "SRV", "NXDOMAIN"), ("_x._tcp.web", "SRV", "NXDOMAIN")),
        *(("x.web", "A", "NXDOMAIN"), ("10-5-9-9.tasks.web", "A", "NXDOMAIN")),
        ("a.10-5-1-2.tasks.web", "A", "NXDOMAIN"),
    ],
)
def test_no_data_and_no_such_name_come_with_the_zones_soa(name: str, kind: str, rcode: str) -> None:
    answer = ask(f"{name}.{ZONE}", kind)
    assert dns.rcode.to_text(answer.rcode()) == rcode
    assert not answer.answer
    (soa,) = answer.authority
    assert (soa.name, soa.rdtype) == (dns.name.from_text(ZONE), dns.rdatatype.SOA)


def test_the_zone_itself_has_soa_and_name_server() -> None:
    assert ask(ZONE, "SOA").answer[0].rdtype == dns.rdatatype.SOA
    assert values(ask(ZONE, "NS")) == {f"ns.dns.{ZONE}."}
    assert ask(ZONE, "A").authority


def test_addresses_have_names() -> None:
    for address, name in (
        ("5.0.96.10.in-addr.arpa", "web"),
        ("2.1.5.10.in-addr.arpa", "10-5-1-2.tasks.bare"),
    ):
        assert values(ask(address, "PTR")) == {f"{name}.{ZONE}."}
    answer = ask("9.9.5.10.in-addr.arpa", "PTR")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert str(answer.authority[0].name) == "5.10.in-addr.arpa."
    assert ask("5.0.96.10.in-addr.arpa", "A").rcode() == dns.rcode.NOERROR
    one = responder()
    one.records.update({"web": None, "bare": None})
    assert ask("5.0.96.10.in-addr.arpa", "PTR", one).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("address", ["::1", "fd05::", "10.5.1.2", "fd05::2"])
def test_the_label_of_an_address_is_a_label_of_a_host_name(address: str) -> None:
    assert label(address).strip("-") == label(address)
    assert "." not in label(address)


def test_what_is_not_ours_is_to_be_forwarded() -> None:
    for name in ("example.com", "internal", "xflatmesh.internal", "1.0.0.192.in-addr.arpa"):
        query = dns.message.make_query(name, "A")
        assert isinstance(responder().answer(query.to_wire(), stream=False), Question)


def test_an_answer_that_is_too_long_is_cut_off_and_comes_whole_by_tcp() -> None:
    many = tuple(NamedEndpoint((f"10.5.{n // 200}.{n % 200 + 1}",), {}) for n in range(300))
    one = responder(many=NamedService((), PORTS, many))
    for edns, limit in ((False, 512), (True, 1232)):
        answer = ask(f"many.{ZONE}", "A", one, edns=edns)
        assert answer.flags & dns.flags.TC
        assert len(answer.to_wire()) <= limit
        assert (answer.edns == 0) == edns
    assert len(values(ask(f"many.{ZONE}", "A", one, stream=True))) == 300


def test_until_the_services_are_known_nothing_is_said_about_them() -> None:
    one = responder()
    one.known = False
    assert ask(f"web.{ZONE}", "A", one).rcode() == dns.rcode.SERVFAIL


def test_queries_that_are_wrong_get_the_code_that_says_so() -> None:
    one = responder()
    notify = dns.message.make_query(f"web.{ZONE}", "A")
    notify.set_opcode(dns.opcode.NOTIFY)
    two = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    two = two[:4] + b"\0\2" + two[6:]
    version = dns.message.make_query(f"web.{ZONE}", "A", use_edns=1)
    transfer = dns.message.make_query(ZONE, "AXFR")
    chaos = dns.message.make_query("version.bind", "TXT", "CH")
    for wire, rcode in (
        (notify.to_wire(), dns.rcode.NOTIMP),
        (two, dns.rcode.FORMERR),
        (version.to_wire(), dns.rcode.BADVERS),
        (transfer.to_wire(), dns.rcode.REFUSED),
        (chaos.to_wire(), dns.rcode.REFUSED),
    ):
        found = one.answer(wire, stream=False)
        assert isinstance(found, Answer)
        assert found.rcode == rcode
        assert dns.message.from_wire(found.wire).id == int.from_bytes(wire[:2], "big")
    response = dns.message.make_response(dns.message.make_query("web", "A"))
    assert one.answer(response.to_wire(), stream=False) is None


@given(st.binary(max_size=80), st.booleans())
def test_no_bytes_raise(wire: bytes, stream: bool) -> None:
    responder().answer(wire, stream=stream)
    query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
    responder().answer(query[: len(query) - len(wire)] + wire, stream=stream)
