"""`flatmesh config` and `flatmesh lease`: reads and checked changes of what is in etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from agent.cluster_config.changes import changes
from agent.cluster_config.check import check_config, without_effect
from agent.etcd_addresses import EtcdAddresses
from agent.leases.occupied import in_use
from agent.settings import etcd_options, etcd_settings
from etcd.connect import connect
from hostnet.kernel import Kernel
from ipam.lease import parse_key
from ipam.lease_claims import address_in_use, network_conflicts
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.registry import Registry

Answer = TypeVar("Answer")
console = Console(highlight=False)


def with_registry(flags: dict[str, Any], work: Callable[[Registry], Awaitable[Answer]]) -> Answer:
    """Run work with a registry on a connection that the flags describe."""
    settings = etcd_settings(flags)

    async def run() -> Answer:
        async with connect(settings) as etcd:
            return await work(Registry(etcd, settings.prefix))

    return asyncio.run(run())


@click.group("config")
def config_group() -> None:
    """The cluster config in etcd."""


@config_group.command("show")
@etcd_options
def show_config(**flags: Any) -> None:
    """Print the cluster config; fails with the reason when it is invalid."""
    text = with_registry(flags, lambda registry: registry.config_text())
    click.echo(text)
    check_config(parse_config(text))


@config_group.command("set")
@click.argument("config")
@click.option("--force", is_flag=True, help="Write it though it is refused beside what is there.")
@click.option("--dry-run", is_flag=True, help="Check it and show what changes; write nothing.")
@etcd_options
def set_config(config: str, *, force: bool, dry_run: bool, **flags: Any) -> None:
    """Check CONFIG (JSON, or - for stdin) and write it; daemons follow at once.

    Daemons check in the same way. Refused unless --force is given: a network that overlaps
    addresses or routes of this host, etcd's addresses or those of the hosts that have leases; and
    no Backend.Type where one was there, as that means udp.
    """
    wanted, document = _read_config(config)
    etcd = EtcdAddresses(etcd_settings(dict(flags)).endpoints)

    async def write(registry: Registry) -> list[str]:
        before = await _config_there(registry)
        if force and not wanted.names_backend:
            name = next((key for key in document if key.lower() == "backend"), "Backend")
            document[name] = {**(document.get(name) or {}), "Type": wanted.backend_type}
        else:
            check_config(wanted, before)
        if not force:
            await _require_free(registry, before, wanted, etcd)
        if dry_run:
            return changes(before, wanted, (await registry.leases())[0])
        await registry.set_config(json.dumps(document, separators=(",", ":")))
        return [f"! Backend.{name} is no key: it has no effect" for name in without_effect(wanted)]

    for line in with_registry(flags, write):
        click.echo(line)


@config_group.command("diff")
@click.argument("config")
@etcd_options
def diff_config(config: str, **flags: Any) -> None:
    """Show what CONFIG (JSON, or - for stdin) would change for the cluster; writes nothing."""
    wanted, _ = _read_config(config)

    async def compare(registry: Registry) -> list[str]:
        before = await _config_there(registry)
        check_config(wanted, before)
        return changes(before, wanted, (await registry.leases())[0])

    for line in with_registry(flags, compare):
        click.echo(line)


def _read_config(text: str) -> tuple[NetworkConfig, dict[str, Any]]:
    """The config, and its document. Raises ConfigError."""
    text = sys.stdin.read() if text == "-" else text
    wanted = parse_config(text)
    check_config(wanted)
    return wanted, json.loads(text)


async def _config_there(registry: Registry) -> NetworkConfig | None:
    """The config that is in etcd, None when there is none that can be read."""
    with contextlib.suppress(ConfigError):
        return (await registry.config())[0]
    return None


async def _require_free(
    registry: Registry, there: NetworkConfig | None, wanted: NetworkConfig, etcd: EtcdAddresses
) -> None:
    """Raise ConfigError when the networks are new and in use."""
    networks = wanted.network, wanted.ipv6_network
    if there is not None and (there.network, there.ipv6_network) == networks:
        return
    leases, _ = await registry.leases()
    with Kernel() as kernel:
        used = in_use(kernel, etcd.addresses(again=True))
    for lease in leases.values():
        for address in lease.attributes.addresses:
            used.append(address_in_use(address, f"host {address} of lease {lease.key}"))
    conflicts = network_conflicts(wanted, used)
    if conflicts:
        raise ConfigError(f"{conflicts[0]}: choose another network, or write it with --force")


@click.group("lease")
def lease_group() -> None:
    """Who owns which subnet."""


@lease_group.command("list")
@etcd_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_leases(*, as_json: bool, **flags: Any) -> None:
    """List all leases and reservations."""
    leases, _ = with_registry(flags, lambda registry: registry.leases())
    rows = [
        {
            "subnet": lease.key.replace("-", "/"),
            "public_ip": str(lease.attributes.public_ip or lease.attributes.public_ipv6 or ""),
            "backend": lease.attributes.backend_type or "udp",
            "reserved": lease.reserved,
        }
        for _, lease in sorted(leases.items())
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("subnet", "host", "backend", "expires")
    for row in rows:
        expires = "never: reserved" if row["reserved"] else "unless renewed"
        table.add_row(str(row["subnet"]), str(row["public_ip"]), str(row["backend"]), expires)
    console.print(table)


@lease_group.command()
@click.argument("subnet")
@click.option("--public-ip", required=True, help="The host it is kept for.")
@etcd_options
def reserve(subnet: str, public_ip: str, **flags: Any) -> None:
    """Keep SUBNET (10.5.76.0/24, dual stack: 10.5.76.0/24,fd05::/64) for one host, for good."""
    v4, v6 = parse_key("&".join(part.replace("/", "-") for part in subnet.split(",")))
    with_registry(flags, lambda registry: registry.reserve(v4, v6, public_ip))
    click.echo(f"{subnet} is reserved for {public_ip}")


@lease_group.command()
@click.argument("subnet")
@etcd_options
def release(subnet: str, **flags: Any) -> None:
    """Give SUBNET back, lease or reservation. Its host takes a new one if it is still there."""
    v4, v6 = parse_key("&".join(part.replace("/", "-") for part in subnet.split(",")))

    async def work(registry: Registry) -> bool:
        return await registry.release_subnet(v4, v6)

    if not with_registry(flags, work):
        click.echo(f"flatmesh: nobody holds {subnet}", err=True)
        sys.exit(1)
    click.echo(f"{subnet} is free")
