# SPDX-License-Identifier: Apache-2.0
"""Services and endpoints as JSON: what is written is read the same; what is wrong is one line."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.codec import format_endpoint, format_service, parse_endpoint, parse_service
from services.keys import Keys
from services.model import Endpoint, Service, ServiceError, ServicePort
from services.virtual_addresses import free_address, with_addresses

WEB = Service(
    "web",
    (ip_address("10.96.0.5"), ip_address("fd96::5")),
    (ServicePort("http", "tcp", 80, 8080, 30080), ServicePort("dns", "udp", 53, 53)),
    affinity=True,
    drain_seconds=30,
    sources=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
)


def test_a_service_is_read_as_it_was_written() -> None:
    assert parse_service("web", format_service(WEB)) == WEB


def test_an_endpoint_is_read_as_it_was_written() -> None:
    addresses = (ip_address("10.5.1.2"), ip_address("fd05::2"))
    one = Endpoint("web", "a.1", addresses, {"http": 8081}, "192.168.64.11", True, 5)
    assert parse_endpoint("web", "a.1", format_endpoint(one)) == one
    assert one.port(WEB.ports[0]) == 8081
    assert one.port(WEB.ports[1]) == 53


def test_defaults() -> None:
    service = parse_service("web", b'{"ports":[{"port":80}]}')
    assert service == Service("web", ports=(ServicePort("80-tcp", "tcp", 80, 80),))
    endpoint = parse_endpoint("web", "a", b'{"address":"10.5.1.2"}')
    assert (endpoint.draining, endpoint.weight, endpoint.host) == (False, 1, "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "service web: it is not JSON"),
        ("[]", "service web: it is not a JSON object"),
        ("{}", "service web: it has 0 ports; give 1 to 32"),
        ('{"Ports":[{}]}', "service web: Ports[1].Port is null; it must be from 1 to 65535"),
        ('{"Ports":[{"Port":0}]}', "service web: Ports[1].Port is 0; it must be from 1 to 65535"),
        ('{"Ports":[{"Port":80},{"Port":80,"Name":"b"}]}', "two ports have the port tcp/80"),
        (
            '{"Ports":[{"Port":80,"PublishedPort":9},{"Port":81,"PublishedPort":9}]}',
            "two ports have the published port tcp/9",
        ),
        ('{"Ports":[{"Port":80,"Protocol":"icmp"}]}', "it must be one of tcp, udp, sctp"),
        ('{"Ports":[{"Port":80,"Name":"A B"}]}', "Ports[1].Name"),
        ('{"Ports":[{"Port":80}],"VirtualIP":"127.0.0.1"}', "VirtualIP"),
        ('{"Ports":[{"Port":80}],"VirtualIP":"fd00::1"}', "it must be an IPv4 address"),
        ('{"Ports":[{"Port":80}],"Sources":["10.0.0.1/8"]}', "Sources"),
        ('{"Ports":[{"Port":80}],"Sources":[7]}', "Sources"),
        ('{"Ports":[{"Port":80}],"Affinity":true,"Selection":"random"}', "Affinity"),
        ('{"Ports":[{"Port":80}],"Afinity":true}', "did you mean Affinity?"),
        ('{"Ports":[{"Port":80}],"DrainSeconds":-1}', "from 0 to 86400"),
        ("[" * 100_000, "service web: "),
        (json.dumps({"Ports": [{"Port": 80}], "x": "y" * 70_000}), "at most 65536 are read"),
    ],
)
def test_a_wrong_service_is_one_line(value: str, message: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_service("web", value.encode())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        '{"Address":"0.0.0.0"}',
        '{"Address":"224.0.0.1"}',
        '{"Address":"169.254.1.1"}',
        '{"AddressV6":"::1"}',
        '{"AddressV6":"::ffff:10.5.1.2"}',
        '{"AddressV6":"fe80::1%eth0"}',
        '{"Address":"10.5.1.2","State":"gone"}',
        '{"Address":"10.5.1.2","Weight":0}',
        '{"Address":"10.5.1.2","Ports":{"http":0}}',
        '{"Address":"10.5.1.2","Ports":[]}',
        '{"Address":"10.5.1.2","Host":"h1"}',
        '{"Address":17}',
    ],
)
def test_a_wrong_endpoint_is_one_line(value: str) -> None:
    with pytest.raises(ServiceError) as caught:
        parse_endpoint("web", "a", value.encode())
    assert "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_value_of_a_key_is_a_fault(value: object) -> None:
    for key in ("VirtualIP", "VirtualIPv6", "Ports", "Affinity", "Selection", "Sources"):
        text = json.dumps({"Ports": [{"Port": 80}], key: value}).encode()
        try:
            parse_service("web", text)
        except ServiceError:
            continue
    for key in ("Address", "AddressV6", "Ports", "Host", "State", "Weight"):
        try:
            parse_endpoint("web", "a", json.dumps({"Address": "10.5.1.2", key: value}).encode())
        except ServiceError:
            continue


def test_keys() -> None:
    keys = Keys("/p")
    assert keys.claims(WEB) == {
        "/p/service-claims/address/10.96.0.5",
        "/p/service-claims/address/fd96::5",
        "/p/service-claims/port/tcp/30080",
    }
    assert keys.claim_text("/p/service-claims/port/tcp/30080") == "published port tcp/30080"
    assert keys.endpoint_name("/p/endpoints/web/a.1") == ("web", "a.1")
    for wrong in (
        "/p/endpoints/web",
        "/p/endpoints/web/",
        "/p/endpoints/We/a",
        "/p/endpoints/w/a/b",
    ):
        with pytest.raises(ServiceError):
            keys.endpoint_name(wrong)
    for wrong in ("/p/services/", "/p/services/-a", "/p/services/a/b", "/p/services/" + "a" * 64):
        with pytest.raises(ServiceError):
            keys.service_name(wrong)


def test_a_free_address_is_found_as_long_as_there_is_one() -> None:
    network = ip_network("10.96.0.0/29")
    taken = {ip_address("10.96.0.3")}
    while len(taken) < 6:
        address = free_address(network, taken)
        assert address not in taken
        assert address in network
        assert address not in (network[0], network[-1])
        taken.add(address)
    with pytest.raises(ServiceError, match="all 6 virtual addresses"):
        free_address(network, taken)


def test_a_service_keeps_its_address_unless_the_network_changed() -> None:
    networks = [ip_network("10.96.0.0/16"), ip_network("fd96::/112")]
    plain = Service("web", ports=WEB.ports)
    assert with_addresses(plain, WEB, networks, ()).addresses == WEB.addresses
    moved = with_addresses(plain, WEB, [ip_network("10.97.0.0/16")], ())
    assert moved.addresses[0] in ip_network("10.97.0.0/16")
    assert with_addresses(plain, WEB, [], ()).addresses == ()
    with pytest.raises(ServiceError, match="without ServiceNetwork in the cluster config"):
        with_addresses(WEB, None, [], ())
    with pytest.raises(ServiceError, match=r"not within ServiceNetwork 10\.97\.0\.0/16"):
        with_addresses(WEB, None, [ip_network("10.97.0.0/16"), networks[1]], ())


@pytest.mark.parametrize("host", ["", "192.168.64.11", "fd00:1::11", "FD00:1::B", "127.0.0.1", "x"])
@pytest.mark.parametrize(
    "address",
    [
        *("10.5.1.2", "0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "10.5.1.02", "10.5.1", "1.2.3.4.5", "256.1.1.1"),
    ],
)
def test_an_endpoint_is_the_same_however_it_is_read(address: str, host: str) -> None:
    fields = {"Address": address, **({"Host": host} if host else {}), "State": "ready"}
    plain = json.dumps(fields, separators=(",", ":")).encode()

    def read(value: bytes) -> object:
        try:
            return parse_endpoint("web", "a", value)
        except ServiceError as error:
            return str(error)

    assert read(plain) == read(plain + b" ")  # which is read field by field


PORTS = '"Ports":[{"Name":"http","Protocol":"tcp","Port":80,"TargetPort":8080}]'


@pytest.mark.parametrize("address", ["10.96.0.5", "127.0.0.1", "10.96.0.05", "300.1.1.1"])
@pytest.mark.parametrize(
    "rest",
    [
        PORTS,
        f'{PORTS},"Affinity":true,"DrainSeconds":3,"Unknown":1',
        f'{PORTS},"VirtualIP":"10.96.0.6"',
        f'{PORTS},"virtualip":"10.96.0.6"',
        f'{PORTS},"VirtualIPv6":"fd96::5"',
        f'{PORTS},"Afinity":true',
        '"Ports":[]',
        '"Ports":[',
        PORTS.replace("80,", "0,"),
    ],
)
def test_a_service_is_the_same_however_it_is_read(address: str, rest: str) -> None:
    value = f'{{"VirtualIP":"{address}",{rest}}}'.encode()

    def read(value: bytes) -> object:
        try:
            return parse_service("web", value)
        except ServiceError as error:
            return str(error)

    assert read(value) == read(value + b"\n")  # which is read field by field
