# SPDX-License-Identifier: Apache-2.0
"""Everything that ADD and CHECK of `flatmesh` read from a config, as one value."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cni.config.bridge_config import BridgeConfig, parse_bridge_config
from cni.config.ipam_config import (
    OwnIpamConfig,
    delegated_ipam_type,
    parse_own_ipam_config,
    parse_subnet_file,
    uses_own_addresses,
)
from cni.config.request import CniRequest
from cni.result.model import CniResult, Dns
from cni.result.read import read_dns

LARGEST_KEPT = 16 << 10
"""Bytes of a config whose values are kept for the next pod."""


class PodConfig(NamedTuple):
    """How a pod is attached, and where its addresses come from."""

    bridge: BridgeConfig
    own_ipam: OwnIpamConfig | None
    """None: a delegated plugin gives the addresses, or the pod gets none."""
    delegate: str
    """The type of the delegated IPAM plugin; empty: none."""
    dns: Dns
    """For the result, where no delegated plugin says otherwise."""
    subnet_file: Path | None
    """Where subnet.env is; None: where the host has it."""
    previous: CniResult | None
    """The result of the plugins before us in the chain."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that the values follow from, beside the files that the config names."""

    stdin: bytes
    mac: str
    ips: str
    """Of CNI_ARGS these two alone are read (`cni.config.runtime_values`)."""
    request: CniRequest = field(compare=False)


def parse_pod_config(request: CniRequest) -> PodConfig:
    """Read it all. Raises CniError (6, 7).

    The pods of a network have one config, which is read and checked once.
    """
    if len(request.call.stdin) > LARGEST_KEPT or _names_a_file(request):
        return _parse(request)
    arguments = request.arguments or {}
    asked = _Asked(request.call.stdin, arguments.get("MAC", ""), arguments.get("IP", ""), request)
    return _parse_once(asked)


def _names_a_file(request: CniRequest) -> bool:
    return request.config.optional_section("ipam").value("resolvConf") is not None


@functools.lru_cache(maxsize=64)
def _parse_once(asked: _Asked) -> PodConfig:
    return _parse(asked.request)


def _parse(request: CniRequest) -> PodConfig:
    own = parse_own_ipam_config(request) if uses_own_addresses(request) else None
    return PodConfig(
        parse_bridge_config(request),
        own,
        delegated_ipam_type(request),
        own.dns if own is not None else read_dns(request.config),
        parse_subnet_file(request),
        request.previous(),
    )
