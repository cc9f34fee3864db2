"""The backends there are, by the `Type` of the cluster config.

Modules are named, not imported: a daemon loads the one backend it runs (udp pulls in its C
extension, ovs the OVSDB client).
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import cast

from backend.protocol import Backend, DataPlane
from ipam.network import ConfigError, NetworkConfig

log = logging.getLogger("agent")
BACKENDS = {
    "vxlan": "flannel.vxlan:VxlanBackend",
    "host-gw": "flannel.host_gw:HostGwBackend",
    "udp": "flannel.udp.backend:UdpBackend",
    "wireguard": "flannel.wireguard.backend:WireguardBackend",
    "ovs": "ovs_mesh.backend:OvsBackend",
}


def make_backend(config: NetworkConfig, state_dir: Path, run_dir: Path) -> Backend:
    """Make the backend that the cluster config names.

    Raises ConfigError for an unknown type, a bad key, or a part that isn't built here.
    """
    try:
        module, name = BACKENDS[config.backend_type].split(":")
    except KeyError:
        raise ConfigError(
            f"Backend.Type {config.backend_type!r} in the cluster config is unknown; "
            f"use one of {', '.join(BACKENDS)}"
        ) from None
    try:
        factory = getattr(import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"backend {config.backend_type} can't be loaded: {error}") from None
    return cast("Backend", factory.from_config(config, state_dir, run_dir))


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
