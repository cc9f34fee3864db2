# SPDX-License-Identifier: Apache-2.0
"""Services over the other backends: every client reaches the endpoint, and is seen as itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.cluster import Lab
from tests.scenario.services.service_lab import Eventually, serve, servers, wrong_answers

BACKENDS: list[Any] = [
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
    {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"},
]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: str(backend["Type"]))
def test_every_client_reaches_the_endpoint_and_is_seen_under_its_own_address(
    make_lab: Callable[..., Lab], eventually: Eventually, backend: dict[str, Any]
) -> None:
    lab = make_lab(backend=backend, ipv6=True)
    with servers(lab) as web:
        serve(web, eventually)
        assert wrong_answers(web) == []
