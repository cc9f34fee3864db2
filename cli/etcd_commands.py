# SPDX-License-Identifier: Apache-2.0
"""`flatmesh config`: reads and checked changes of the cluster config in etcd."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click

from agent.cluster_config.changes import changes
from agent.cluster_config.check import check_config
from agent.etcd_addresses import EtcdAddresses
from agent.leases.occupied import in_use
from base.command_line import explained
from base.output import Column, Output, output_option
from cli.cluster import cluster_options, cluster_settings, with_registry
from cli.config_text import keys_without_effect, read_config
from hostnet.kernel import Kernel
from ipam.lease_claims import address_in_use, network_conflicts
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.registry import Registry

KEYS = (
    Column("key", "Only in tables; JSON and YAML are the document itself (config-keys.md)."),
    Column("value", "Its value."),
)
CHANGES = (Column("change", "One line: a key that changes, or what happens on a host."),)


@click.group("config")
def config_group() -> None:
    """The cluster config in etcd."""


@explained("flatmesh config show", "flatmesh config show -o yaml")
@config_group.command("show")
@output_option(KEYS, default="json")
@cluster_options
def show_config(output: Output, **flags: Any) -> None:
    """Print the cluster config; fails with the reason when it is invalid."""
    text = with_registry(flags, lambda registry: registry.config_text())
    if output.format == "json":
        click.echo(text)  # as it is stored
    check_config(parse_config(text))
    if output.format == "yaml":
        output.write(json.loads(text))
    elif output.format != "json":
        output.show({"key": key, "value": value} for key, value in _flat(json.loads(text)))


@explained(
    'flatmesh config set \'{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}\'',
    "flatmesh config set --dry-run - < cluster.json",
)
@config_group.command("set")
@click.argument("config")
@click.option("--force", is_flag=True, help="Write it though it is refused beside what is there.")
@click.option("--dry-run", is_flag=True, help="Check it and show what changes; write nothing.")
@cluster_options
def set_config(config: str, *, force: bool, dry_run: bool, **flags: Any) -> None:
    """Check CONFIG (JSON, or - for stdin) and write it; daemons follow at once.

    Daemons check in the same way. Refused unless --force is given: a network that overlaps
    addresses or routes of this host, etcd's addresses or those of the hosts that have leases; and
    no Backend.Type where one was there, as that means udp.
    """
    wanted, document = read_config(config)
    etcd = EtcdAddresses(cluster_settings(dict(flags)).endpoints)

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
        return keys_without_effect(wanted, document)

    for line in with_registry(flags, write):
        click.echo(line)


@explained("flatmesh config diff - < cluster.json")
@config_group.command("diff")
@click.argument("config")
@output_option(CHANGES)
@cluster_options
def diff_config(config: str, output: Output, **flags: Any) -> None:
    """Show what CONFIG (JSON, or - for stdin) would change for the cluster; writes nothing."""
    wanted, _ = read_config(config)

    async def compare(registry: Registry) -> list[str]:
        before = await _config_there(registry)
        check_config(wanted, before)
        return changes(before, wanted, (await registry.leases())[0])

    lines = with_registry(flags, compare)
    if output.machine:
        output.show({"change": line} for line in lines)
    else:
        click.echo("\n".join(lines))


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Its keys with their values; those of an object within it as `Backend.Type`."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


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
