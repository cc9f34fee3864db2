# SPDX-License-Identifier: Apache-2.0
"""Inputs that unit tests of the agent share: one host of a vxlan cluster, and its peers."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from pathlib import Path

from agent.backends import make_backend
from agent.controller import Dirty
from agent.inputs import HostInputs, ReconcileInputs
from hostnet.underlay import Underlay
from ipam import lease as codec
from ipam.lease import Lease
from ipam.network import parse_config

NOWHERE = Path("/nonexistent")
UNDERLAY = Underlay(
    "eth0", 1500, IPv4Address("192.168.64.11"), None, (ip_interface("192.168.64.11/24"),)
)
WHOLE = Dirty(whole=True)


def lease(third: int, *, backend: str = "vxlan") -> Lease:
    """The lease of host `third`: 10.5.THIRD.0/24, reached at 192.168.64.(10 + THIRD)."""
    value = {
        "PublicIP": f"192.168.64.{10 + third}",
        "BackendType": backend,
        "BackendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{third:02x}"},
    }
    return codec.parse(f"10.5.{third}.0-24", json.dumps(value))


def by_key(*leases: Lease) -> dict[str, Lease]:
    return {one.key: one for one in leases}


def host(*, ip_masq: bool = False, **config: object) -> HostInputs:
    """Host 1; `config` are more keys of the cluster config."""
    text = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}, **config})
    parsed = parse_config(text)
    backend = make_backend(parsed, NOWHERE, NOWHERE)
    return HostInputs(backend, parsed, lease(1), UNDERLAY, ip_masq)


def inputs(*leases: Lease) -> ReconcileInputs:
    """Host 1 and these leases, its own included."""
    return ReconcileInputs(host(), by_key(lease(1), *leases))


def with_leases(before: ReconcileInputs, *leases: Lease) -> ReconcileInputs:
    """The same host, other leases."""
    return replace(before, leases=by_key(lease(1), *leases))
