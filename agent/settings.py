# SPDX-License-Identifier: Apache-2.0
"""What an operator can set: flanneld's flags and environment names where they mean the same.

Each flag has an environment variable, `FLANNELD_` plus the flag in capitals (flanneld's
rule), so a unit file written for flanneld works unchanged; paths of our own have
`FLATMESH_` ones, shared with the CNI executables. Go's ways of writing flags are accepted: a single
dash before a long flag, and `--ip-masq=true`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

import click

from base import paths
from etcd.connect import EtcdSettings
from etcd.flags import connection_options, take_settings
from kube.settings import KubeSettings

GO_FLAG = re.compile(r"-([a-z][a-z0-9_-]+(=.*)?|[a-z]=.*)", re.DOTALL)
Command = TypeVar("Command", bound=Callable[..., Any])

ENDPOINTS = "http://127.0.0.1:4001,http://127.0.0.1:2379"
"""Where flanneld looks for etcd."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the daemon is told."""

    host_name: str = ""
    """How other hosts name this one; empty: by the machine's name."""
    iface: tuple[str, ...] = ()
    iface_regex: tuple[str, ...] = ()
    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    subnet_file: Path = Path(paths.SUBNET_FILE)
    run_dir: Path = Path(paths.RUN_DIR)
    state_dir: Path = Path(paths.STATE_DIR)
    host_local_dir: Path = Path(paths.HOST_LOCAL_DIR)
    ip_masq: bool = False
    docker_plugin: Path | None = None
    """Where dockerd finds our drivers; None: they are not served."""
    docker_bridge: bool = False
    """Whether kbr0 is made before the first pod, and kept."""
    forward_rules: bool = True
    """Whether the cluster's networks are let through iptables' FORWARD and firewalld."""
    resolv_conf: Path = Path(paths.RESOLV_CONF)
    """Names the resolvers that answer pods what is not a service's name."""
    healthz_ip: str = "127.0.0.1"
    healthz_port: int = 0
    resync: float = 300.0
    """Seconds between two comparisons of everything when nothing seems to happen."""
    lease_source: str = "etcd"
    """A key of `agent.lease_sources.SOURCES`."""
    etcd: EtcdSettings | None = None
    """For the lease source `etcd` only."""
    kube: KubeSettings | None = None
    """For the lease source `kubernetes` only."""
    network_policy: bool = False
    """Whether network policies are enforced."""
    lease_ttl: int = 86400
    """Seconds that a lease lives when nobody renews it; flanneld's is a day. For `etcd` only."""


def go_flags(arguments: Sequence[str]) -> list[str]:
    """Turn Go's `-iface=eth0` into `--iface=eth0`, `-v=5` into `--v=5`; everything else stays."""
    return [f"-{a}" if GO_FLAG.fullmatch(a) else a for a in arguments]


def boolean(*names: str, default: bool = False, **more: Any) -> Callable[[Command], Command]:
    """Declare a flag that is true alone and takes Go's `=true` and `=false`."""
    return click.option(
        *names, is_flag=False, flag_value="true", type=click.BOOL, default=default, **more
    )


class AddressType(click.ParamType[IPv4Address | IPv6Address]):
    """An IP address of one family, as a flag's value."""

    name = "address"

    def __init__(self, kind: type[IPv4Address | IPv6Address]) -> None:
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Address | IPv6Address:
        """Raise click.BadParameter for anything else."""
        try:
            return self.kind(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AnyAddressType(click.ParamType[str]):
    """An IP address of either family, or localhost, as text."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raise click.BadParameter for anything else: a name would be asked of name servers."""
        try:
            return str(ip_address("127.0.0.1" if value == "localhost" else value))
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


def etcd_options(
    command: Command, endpoints_help: str = "Comma-separated URLs of the etcd members."
) -> Command:
    """Add the flags that say where etcd is; used by the daemon and the operator's command."""
    prefix = click.option(
        "--etcd-prefix",
        envvar="FLANNELD_ETCD_PREFIX",
        default="/coreos.com/network",
        show_default=True,
        help="Where the cluster's config and leases are.",
    )
    return connection_options(command, ENDPOINTS, prefix, endpoints_help=endpoints_help)


def etcd_settings(flags: dict[str, Any]) -> EtcdSettings:
    """Take the etcd flags out of a command's arguments. Raises click.BadParameter."""
    return take_settings(flags, flags.pop("etcd_prefix"))
