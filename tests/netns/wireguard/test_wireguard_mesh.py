"""Hosts reach each other's pods through WireGuard, in every mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("mode", ["separate", "auto", "ipv4", "ipv6"])
def test_three_hosts_dual_stack(make_mesh: Callable[..., Any], mode: str) -> None:
    mesh = make_mesh(3, ipv6=True, Mode=mode)
    mesh.turn()
    mesh.assert_all_reach_all()
    assert mesh.turn() == [[], [], []]
