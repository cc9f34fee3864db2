# SPDX-License-Identifier: Apache-2.0
"""What an operator can set. The flags of etcd are flatmeshd's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from etcd.connect import EtcdSettings
from etcd.flags import connection_options, take_settings

PREFIX = "/flatmesh-scheduler"
NETWORK_PREFIX = "/coreos.com/network"
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that `flatmesh-scheduler run` is told."""

    etcd: EtcdSettings
    """Its prefix is the scheduler's own."""
    network_prefix: str = NETWORK_PREFIX
    manager: bool = False
    worker: bool = False
    rebalance: bool = False
    """Whether running tasks move to nodes that have fewer."""
    node_id: str = ""
    hostname: str = ""
    address: str = ""
    label: tuple[str, ...] = ()
    runtime: str = "process"
    containerd_socket: str = ""
    socket: Path = Path("/run/flatmesh-scheduler/docker.sock")
    listen: str = ""
    metrics_listen: str = ""
    """HOST:PORT; empty: nowhere."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    state_dir: Path = Path("/var/lib/flatmesh-scheduler")
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dir: Path = Path("/opt/cni/bin")


def etcd_options(command: Command) -> Command:
    """Add the flags that say where etcd is, and where in it we are."""
    return connection_options(
        command,
        "http://127.0.0.1:2379",
        click.option("--prefix", default=PREFIX, help="Where the scheduler's state is in etcd."),
        click.option(
            "--network-prefix",
            envvar="FLANNELD_ETCD_PREFIX",
            default=NETWORK_PREFIX,
            help="Where the network's config, services and endpoints are in etcd.",
        ),
    )


def etcd_settings(flags: dict[str, Any]) -> EtcdSettings:
    """Take the etcd flags out of a command's arguments. Raises click.BadParameter."""
    flags["network_prefix"] = "/" + flags["network_prefix"].strip("/")
    return take_settings(flags, flags.pop("prefix"))
