# SPDX-License-Identifier: Apache-2.0
"""The backends there are, by the `Type` of the cluster config.

A factory imports its backend when it is called: a daemon loads the one backend it runs (udp
loads its C extension, ovs the OVSDB client). Each returns a `Backend`, so that mypy compares
the class with the protocol here: a method renamed on either side is an error of this file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from backend.protocol import Backend, DataPlane
from ipam.network import ConfigError, NetworkConfig

log = logging.getLogger("agent")

Factory = Callable[[NetworkConfig, Path, Path], Backend]
"""Called with the cluster config, the state directory and the run directory.

Raises ConfigError for a bad key or a part that isn't built here."""


def _vxlan(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    from flannel.vxlan import VxlanBackend  # noqa: PLC0415

    return VxlanBackend.from_config(config, state_dir, run_dir)


def _host_gw(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    from flannel.host_gw import HostGwBackend  # noqa: PLC0415

    return HostGwBackend.from_config(config, state_dir, run_dir)


def _udp(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    from flannel.udp.backend import UdpBackend  # noqa: PLC0415

    return UdpBackend.from_config(config, state_dir, run_dir)


def _wireguard(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    from flannel.wireguard.backend import WireguardBackend  # noqa: PLC0415

    return WireguardBackend.from_config(config, state_dir, run_dir)


def _ovs(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    from ovs_mesh.backend import OvsBackend  # noqa: PLC0415

    return OvsBackend.from_config(config, state_dir, run_dir)


BACKENDS: Mapping[str, Factory] = {
    "vxlan": _vxlan,
    "host-gw": _host_gw,
    "udp": _udp,
    "wireguard": _wireguard,
    "ovs": _ovs,
}


def make_backend(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    """Make the backend that the cluster config names.

    Raises ConfigError for an unknown type, a bad key, or a part that isn't built here.
    """
    factory = BACKENDS.get(config.backend_type)
    if factory is None:
        raise ConfigError(
            f"Backend.Type {config.backend_type!r} in the cluster config is unknown; "
            f"use one of {', '.join(BACKENDS)}"
        )
    try:
        return factory(config, state_dir, run_dir)
    except ImportError as error:
        raise ConfigError(f"backend {config.backend_type} can't be loaded: {error}") from None


def data_planes_here(state_dir: Path, run_dir: Path) -> list[DataPlane]:
    """The data planes that may have left traces on this host, for `--cleanup`.

    Which backend ran last is nowhere written down for sure, so each that can be loaded is
    asked to clean up; a backend that never ran finds nothing.
    """
    planes = []
    for kind in BACKENDS:
        config = NetworkConfig(backend_type=kind, backend={"Type": kind})
        try:
            plane = make_backend(config, state_dir, run_dir).data_plane()
        except (ConfigError, OSError) as problem:
            log.debug("%s", problem)
            continue
        if plane is not None:
            planes.append(plane)
    return planes
