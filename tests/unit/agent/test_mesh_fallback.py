# SPDX-License-Identifier: Apache-2.0
"""Where the routing mesh can't be had: the host says so, and is sent no clients' packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from agent.controller import Dirty
from agent.controllers import mesh
from agent.services.judged import JudgedServices
from agent.services.members import peers
from hostnet.state import HostState
from ipam.lease import Lease
from services.model import Endpoint, Service, ServicePort
from services.served import ServedService
from tests.unit.agent.agent_inputs import inputs, lease
from tests.unit.agent.test_controllers import Untouchable

LACK = "the kernel has no VXLAN"
WEB = Service("web", ports=(ServicePort("http", "tcp", 80, 8080, 30080),))
SERVED = ServedService(WEB, (1, "web"), (Endpoint("web", "a", (ip_address("10.5.2.2"),)),))


def with_mesh(third: int) -> Lease:
    found = lease(third)
    return replace(found, attributes=replace(found.attributes, ingress=True))


def judged(service: Service) -> JudgedServices:
    return JudgedServices({"web": SERVED}, {"web": service}, known=True)


def test_a_host_whose_lease_does_not_offer_the_mesh_is_no_member() -> None:
    there = inputs(with_mesh(2), lease(3))
    assert [str(one.address) for one in peers(there, 4)] == ["192.168.64.12"]


def test_a_host_that_does_not_offer_it_wants_nothing_of_it() -> None:
    controller = mesh.MeshController(Untouchable(), judged(WEB))
    there = inputs(with_mesh(2))  # this host's own lease does not say it
    assert controller.desired(there, Dirty(whole=True)) == (None, HostState())


def test_status_names_what_is_missing_only_while_a_port_is_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mesh, "obstacle", lambda: LACK)
    controller = mesh.MeshController(Untouchable(), judged(WEB))
    said = controller.status()
    assert said is not None
    assert "translated, without the client's address" in said
    assert LACK in said
    inside = replace(WEB, ports=(replace(WEB.ports[0], published_port=0),))
    assert mesh.MeshController(Untouchable(), judged(inside)).status() is None
