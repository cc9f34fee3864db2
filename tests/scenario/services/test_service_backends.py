# SPDX-License-Identifier: Apache-2.0
"""Services over the other backends: every client reaches the endpoint, and is seen as itself.

Then the host that clients ask dies, in the same lab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.cluster import Lab
from tests.scenario.services.open_connections import (
    led_into_the_mesh,
    lost_in_a_failover,
    published_echo,
)
from tests.scenario.services.service_lab import Eventually, serve, servers, wrong_answers

CONNECTIONS = 50  # of each family
BACKENDS: list[Any] = [
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
    {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"},
]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: str(backend["Type"]))
def test_every_client_is_seen_under_its_own_address_and_outlives_the_host_that_it_asked(
    make_lab: Callable[..., Lab],
    on: Callable[..., str],
    eventually: Eventually,
    backend: dict[str, Any],
) -> None:
    lab = make_lab(backend=backend, ipv6=True)
    with servers(lab) as web, published_echo(web):
        serve(web, eventually)
        assert wrong_answers(web) == []
        led_into_the_mesh(web, on, eventually, "h2")
        assert lost_in_a_failover(web, on, CONNECTIONS) == []
