# SPDX-License-Identifier: Apache-2.0
"""What an operator can set. The flags of etcd are flatmeshd's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from etcd.connect import EtcdSettings

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
    for option in reversed(
        (
            click.option(
                "--etcd-endpoints",
                envvar="FLANNELD_ETCD_ENDPOINTS",
                default="http://127.0.0.1:2379",
                help="Comma-separated URLs of the etcd members.",
            ),
            click.option(
                "--prefix", default=PREFIX, help="Where the scheduler's state is in etcd."
            ),
            click.option(
                "--network-prefix",
                envvar="FLANNELD_ETCD_PREFIX",
                default=NETWORK_PREFIX,
                help="Where the network's config, services and endpoints are in etcd.",
            ),
            _file("--etcd-keyfile", "Our private key (PEM), for TLS client authentication."),
            _file("--etcd-certfile", "Our certificate (PEM)."),
            _file("--etcd-cafile", "The CA that signed etcd's certificate (PEM)."),
            click.option(
                "--etcd-username", envvar="FLANNELD_ETCD_USERNAME", help="For etcd's own users."
            ),
            click.option(
                "--etcd-password",
                envvar="FLANNELD_ETCD_PASSWORD",
                help="Every local user can read it in the list of processes: better a file.",
            ),
            click.option(
                "--etcd-password-file",
                "etcd_passwordfile",
                envvar="FLATMESH_ETCD_PASSWORD_FILE",
                help="File with the password.",
            ),
        )
    ):
        command = option(command)
    return command


def _file(name: str, text: str) -> Callable[[Command], Command]:
    variable = "FLANNELD_" + name.strip("-").replace("-", "_").upper()
    return click.option(name, envvar=variable, help=text)


def etcd_settings(flags: dict[str, Any]) -> EtcdSettings:
    """Take the etcd flags out of a command's arguments. Raises click.BadParameter."""
    urls = tuple(u.strip() for u in flags.pop("etcd_endpoints").split(",") if u.strip())
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s]+:\d+/?", url):
            raise click.BadParameter(
                f"{url!r} is not http(s)://HOST:PORT", param_hint="--etcd-endpoints"
            )
    if not urls:
        raise click.BadParameter("no URL given", param_hint="--etcd-endpoints")
    names = ("keyfile", "certfile", "cafile", "username", "password", "passwordfile")
    rest = {name: flags.pop(f"etcd_{name}") for name in names}
    for name in ("keyfile", "certfile", "cafile", "passwordfile"):
        if rest[name] and not Path(rest[name]).is_file():
            flag = name.replace("passwordfile", "password-file")
            raise click.BadParameter(f"no file {rest[name]!r}", param_hint=f"--etcd-{flag}")
    flags["network_prefix"] = "/" + flags["network_prefix"].strip("/")
    return EtcdSettings(urls, "/" + flags.pop("prefix").strip("/"), **rest)
