# SPDX-License-Identifier: Apache-2.0
"""The drivers on their socket, and what is looked at every few seconds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from base.errors import FlatmeshError, one_line
from cni.concurrency_limit import ConcurrencyLimit
from cni.host import PluginHost
from docker_plugin.http_server import Answer, DockerSocket
from docker_plugin.ipam_driver import IpamDriver
from docker_plugin.network_driver import NetworkDriver
from docker_plugin.published_ports import PublishedPorts
from docker_plugin.request import Call
from docker_plugin.sweep import sweep

log = logging.getLogger("docker")
SWEEP_INTERVAL, LOOK_INTERVAL = 30.0, 5.0
"""Seconds between two looks for what dockerd lost, and at the table of published ports."""


def answers(host: PluginHost, ports: PublishedPorts) -> dict[str, Answer]:
    """Every call of the protocol that is served. Others are answered 404, as dockerd expects."""
    network, ipam = NetworkDriver(host, ports), IpamDriver(host)

    def activate(call: Call) -> Mapping[str, object]:
        del call
        return {"Implements": ["NetworkDriver", "IpamDriver"]}

    return {
        "/Plugin.Activate": activate,
        "/NetworkDriver.GetCapabilities": network.capabilities,
        "/NetworkDriver.CreateNetwork": network.create_network,
        "/NetworkDriver.DeleteNetwork": network.nothing,
        "/NetworkDriver.CreateEndpoint": network.create_endpoint,
        "/NetworkDriver.DeleteEndpoint": network.delete_endpoint,
        "/NetworkDriver.EndpointOperInfo": network.endpoint_info,
        "/NetworkDriver.Join": network.join,
        "/NetworkDriver.Leave": network.nothing,
        "/NetworkDriver.ProgramExternalConnectivity": network.publish,
        "/NetworkDriver.RevokeExternalConnectivity": network.withdraw,
        "/NetworkDriver.DiscoverNew": network.nothing,
        "/NetworkDriver.DiscoverDelete": network.nothing,
        "/IpamDriver.GetCapabilities": ipam.capabilities,
        "/IpamDriver.GetDefaultAddressSpaces": ipam.address_spaces,
        "/IpamDriver.RequestPool": ipam.request_pool,
        "/IpamDriver.ReleasePool": ipam.release_pool,
        "/IpamDriver.RequestAddress": ipam.request_address,
        "/IpamDriver.ReleaseAddress": ipam.release_address,
        "/IpamDriver.DiscoverNew": network.nothing,
        "/IpamDriver.DiscoverDelete": network.nothing,
    }


@contextlib.contextmanager
def serve_docker(path: Path, host: PluginHost) -> Iterator[None]:
    """Serve dockerd inside the block. Raises OSError.

    The socket's file stays at the end: dockerd waits for a driver whose socket is there, while the
    daemon is restarted.
    """
    own = replace(host, concurrency=ConcurrencyLimit())  # its slots are of the CNI server's workers
    ports = PublishedPorts(own)
    table = answers(own, ports)
    server = DockerSocket(path, table)
    closing = threading.Event()
    threading.Thread(target=server.serve_forever, name="docker", daemon=True).start()
    sweeper = threading.Thread(
        target=_sweep, args=(own, ports, closing), name="docker-sweep", daemon=True
    )
    sweeper.start()
    log.info("Docker's drivers are served on %s", path)
    try:
        yield
    finally:
        closing.set()
        server.shutdown()
        server.server_close()


def _sweep(host: PluginHost, ports: PublishedPorts, closing: threading.Event) -> None:
    """Put right what others changed, at once and every few seconds."""
    said, swept = "", time.monotonic()
    while True:
        try:
            lines = ports.restore()
            if time.monotonic() > swept + SWEEP_INTERVAL:
                swept = time.monotonic()
                lines += sweep(host)
            for line in lines:
                log.info("sweep: %s", line)
            said = ""
        except (FlatmeshError, OSError) as error:
            if said != (said := one_line(error)):
                log.warning("sweep: %s", said)
        if closing.wait(LOOK_INTERVAL):
            return
