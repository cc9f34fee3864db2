# SPDX-License-Identifier: Apache-2.0
"""What dockerd asks for with `--publish`, read and refused. Pure."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from docker_plugin.port_bindings import PortBinding, from_stored, read_bindings, table_body
from docker_plugin.request import Call, DockerCallError

V4, V6 = ip_address("10.5.1.2"), ip_address("fd05::2")


def asked(*entries: dict[str, Any]) -> list[Call]:
    return Call.parse(json.dumps({"Ports": entries}).encode()).objects("Ports")


def entry(**fields: Any) -> dict[str, Any]:
    return {"Proto": 6, "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080, **fields}


def test_all_addresses_means_both_families() -> None:
    found = read_bindings(asked(entry()), [V4, V6], ())
    assert found == [PortBinding("tcp", None, 8080, a, 80) for a in (V4, V6)]
    assert [from_stored(json.loads(json.dumps(one.stored()))) for one in found] == found


@pytest.mark.parametrize(
    ("host_ip", "family"), [("0.0.0.0", 4), ("::", 6), ("192.168.64.11", 4), ("fd00:1::11", 6)]
)
def test_an_address_means_its_family(host_ip: str, family: int) -> None:
    (found,) = read_bindings(asked(entry(HostIP=host_ip)), [V4, V6], ())
    assert found.container.version == family
    assert str(found.host_ip or host_ip) == host_ip


def test_a_range_gives_its_first_free_port() -> None:
    taken = [PortBinding("tcp", ip_address("192.168.64.11"), 8080, ip_address("10.5.1.9"), 1)]
    (found,) = read_bindings(asked(entry(HostPortEnd=8081)), [V4], taken)
    assert found.host_port == 8081


def test_the_same_port_of_another_address_or_protocol_is_free() -> None:
    taken = read_bindings(asked(entry(HostIP="192.168.64.11")), [V4], ())
    read_bindings(asked(entry(HostIP="192.168.64.12"), entry(Proto=17)), [V4], taken)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry(), entry(Port=81)], "port all addresses:8080/tcp is already published"),
        ([entry(HostPort=0, HostPortEnd=0)], "name the host's port, as --publish 8080:80"),
        ([entry(Proto=1)], "other than tcp, udp and sctp"),
        ([entry(Port=0)], "other than tcp, udp and sctp"),
        ([entry(Port=70000)], "from 0 to 65535"),
        ([entry(Port="80")], "a whole number"),
        ([entry(HostIP="banana")], "'banana' is no address of this host"),
        ([entry(HostIP="127.0.0.1")], "never reaches a container"),
        ([entry(HostIP="::1")], "never reaches a container"),
        ([entry(HostIP="fd00:1::11")], "has no address of that family"),
    ],
)
def test_what_can_not_be_published_is_one_line(entries: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(DockerCallError, match=why) as refused:
        read_bindings(asked(*entries), [V4], ())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [None, [], ["tcp"], ["tcp", "x", 1, "10.5.1.2", 2], [1] * 5])
def test_what_another_version_recorded_is_left_alone(value: Any) -> None:
    assert from_stored(value) is None


def test_a_table_has_only_the_families_in_use() -> None:
    body = table_body(read_bindings(asked(entry()), [V4], ()), {4: "10.5.1.0/24"})
    assert "ip6" not in body.replace("ip6 daddr ::1", "")
    assert "tcp . 8080 : 10.5.1.2 . 80" in body
