# SPDX-License-Identifier: Apache-2.0
"""`flatmesh service`: ports as they are typed."""

from __future__ import annotations

import pytest

from cli.service_commands import _ports
from services.model import ServicePort


def test_ports_as_they_are_typed() -> None:
    assert _ports(["80", "web=443:8443", "53/udp"], ["8443:443", "5353:53/udp"]) == [
        ServicePort("80-tcp", "tcp", 80, 80),
        ServicePort("web", "tcp", 443, 8443, 8443),
        ServicePort("53-udp", "udp", 53, 53, 5353),
    ]


@pytest.mark.parametrize(
    ("ports", "published"),
    [(["x"], []), (["80/icmp"], []), (["80"], ["8080"]), (["80"], ["8080:80/udp"])],
)
def test_what_is_no_port_is_refused(ports: list[str], published: list[str]) -> None:
    with pytest.raises(ValueError, match=r"write|there is no such"):
        _ports(ports, published)
