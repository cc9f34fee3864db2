# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster config can be used: the same check for its writer and for every daemon.

`ipam.network.parse_config` reads what concerns all backends; here are the backend's own keys, and
what only shows beside the config that was in force before. What depends on a host (a part that
isn't compiled there, a port in use) is checked by its daemon alone: `agent.cluster_config.choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from base.fields import nearest
from ipam.network import ConfigError, NetworkConfig

MIN_MTU = 576
"""Bytes that every IPv4 host takes (RFC 791, 3.1)."""


def _vxlan(config: NetworkConfig) -> None:
    from flannel.vxlan import VxlanBackend  # noqa: PLC0415 - only the one in use is loaded

    VxlanBackend.from_config(config, Path(), Path())


def _udp(config: NetworkConfig) -> None:
    from flannel.udp.options import UdpOptions  # noqa: PLC0415

    UdpOptions.of(config)


def _host_gw(config: NetworkConfig) -> None:
    del config  # it has no keys


def _wireguard(config: NetworkConfig) -> None:
    from flannel.wireguard.config import WireguardConfig  # noqa: PLC0415

    WireguardConfig.of(config)


def _ovs(config: NetworkConfig) -> None:
    from ovs_mesh.config import RULE_KEYS, OvsConfig  # noqa: PLC0415

    for rule in config.options.objects("Peers", '{"CIDR":"10.0.0.0/8"}'):
        rule.refuse_misspelt(RULE_KEYS)
    OvsConfig.of(config)


@dataclass(frozen=True, slots=True)
class BackendCheck:
    """One backend's part of the check."""

    read: Callable[[NetworkConfig], None]
    """Reads all its keys, with nothing of the host asked. Raises ConfigError."""
    keys: tuple[str, ...]
    """The keys it reads; those of flanneld that have no effect here are among them."""


CHECKS: Mapping[str, BackendCheck] = {
    "vxlan": BackendCheck(
        _vxlan, ("VNI", "Port", "MTU", "DirectRouting", "Learning", "GBP", "MacPrefix")
    ),
    "host-gw": BackendCheck(_host_gw, ()),
    "udp": BackendCheck(_udp, ("Port", "MTU", "Queues", "SinglePacket")),
    "wireguard": BackendCheck(
        _wireguard,
        ("ListenPort", "ListenPortV6", "PSK", "PersistentKeepaliveInterval", "MTU", "Mode"),
    ),
    "ovs": BackendCheck(
        _ovs,
        ("Mesh", "Tunnel", "Key", "Port", "Datapath", "PodAttach", "MTU", "Peers", "SpanningTree"),
    ),
}


def check_config(config: NetworkConfig, before: NetworkConfig | None = None) -> None:
    """Raise ConfigError for a config that no host may follow; `before` is the one in force."""
    check = CHECKS.get(config.backend_type)
    if check is None:
        meant = nearest(config.backend_type, tuple(CHECKS))
        mend = f"did you mean {meant}?" if meant else f"use one of {', '.join(CHECKS)}"
        raise ConfigError(
            f"cluster config: Backend.Type {config.backend_type!r} is unknown; {mend}"
        )
    if before is not None and before.names_backend and not config.names_backend:
        raise ConfigError(
            "cluster config: Backend.Type is missing, which means udp; it was "
            f'{before.backend_type}: write "Backend":{{"Type":"{before.backend_type}"}}, '
            'or "udp" if you mean it'
        )
    options = config.options
    options.refuse_misspelt(("Type", *check.keys))
    if "MTU" in check.keys and 0 < options.number("MTU", 0) < MIN_MTU:
        raise options.problem("MTU", f"0 for the device's, or at least {MIN_MTU}")
    check.read(config)


def without_effect(config: NetworkConfig) -> list[str]:
    """The keys of the Backend object that its backend doesn't know."""
    known = {"type", *(key.lower() for key in CHECKS[config.backend_type].keys)}
    return [name for name in config.backend if name.lower() not in known]
