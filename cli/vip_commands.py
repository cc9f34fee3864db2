# SPDX-License-Identifier: Apache-2.0
"""`flatmesh vip`: floating addresses, each on one of a list of hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click

from base.command_line import explained
from base.output import Column, Output, output_option
from cli.cluster import cluster_options, with_registry
from ipam.registry import Registry
from services.model import ServiceError
from services.vip.model import LEASE_SECONDS, Vip, VipKeys
from services.vip.registry import VipRegistry, VipState

Answer = TypeVar("Answer")
MOVE_TIMEOUT = LEASE_SECONDS + 5.0
"""Seconds that a move is waited for."""
VIPS = (
    Column("name", "The floating address's name."),
    Column("addresses", "The address of each family."),
    Column("holder", "Address of the host that holds it; empty: none does."),
    Column("hosts", "Hosts that may hold it, the preferred one first."),
)


def with_vips(flags: dict[str, Any], work: Callable[[VipRegistry], Awaitable[Answer]]) -> Answer:
    """Run work with the floating addresses of the cluster that the flags describe."""

    async def run(registry: Registry) -> Answer:
        keys = VipKeys(registry.prefix.rstrip("/"))
        return await work(VipRegistry(registry.etcd, keys))

    return with_registry(flags, run)


@click.group("vip")
def vip_group() -> None:
    """Floating addresses: each on one of a list of hosts."""


@explained("flatmesh vip list", "flatmesh vip list -o json")
@vip_group.command("list")
@output_option(VIPS)
@cluster_options
def list_vips(output: Output, **flags: Any) -> None:
    """List all floating addresses, and who holds them."""
    output.show([_row(one) for one in with_vips(flags, lambda vips: vips.all())])


@explained("flatmesh vip show web")
@vip_group.command("show")
@click.argument("name")
@output_option(VIPS)
@cluster_options
def show_vip(name: str, output: Output, **flags: Any) -> None:
    """Show the floating address NAME."""
    output.show([_row(with_vips(flags, lambda vips: vips.get(name)))])


@explained("flatmesh vip set web --address 192.168.64.100 --host h1 --host h2")
@vip_group.command("set")
@click.argument("name")
@click.option(
    "--address", "addresses", multiple=True, required=True, help="IPv4, IPv6 or both. Repeatable."
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    required=True,
    help="A host that may hold it, by the address in its lease or its name; repeatable, in order.",
)
@cluster_options
def set_vip(name: str, addresses: Sequence[str], hosts: Sequence[str], **flags: Any) -> None:
    """Make the floating address NAME, or replace it."""
    vip = Vip(name, tuple(addresses), tuple(hosts))
    with_vips(flags, lambda vips: vips.set(vip))
    click.echo(f"floating address {name}: {' '.join(addresses)}")


@explained("flatmesh vip move web 192.168.64.12")
@vip_group.command("move")
@click.argument("name")
@click.argument("host")
@cluster_options
def move_vip(name: str, host: str, **flags: Any) -> None:
    """Have HOST, one of its hosts, take over the floating address NAME."""
    holder = with_vips(flags, lambda vips: vips.move(name, host, MOVE_TIMEOUT))
    click.echo(f"floating address {name}: held by {holder or 'nobody'}")


@explained("flatmesh vip remove web")
@vip_group.command("remove")
@click.argument("name")
@cluster_options
def remove_vip(name: str, **flags: Any) -> None:
    """Remove the floating address NAME from its host and from etcd."""
    if not with_vips(flags, lambda vips: vips.remove(name)):
        raise ServiceError(f"there is no floating address {name}: flatmesh vip list")
    click.echo(f"floating address {name} is removed")


def _row(one: VipState) -> dict[str, Any]:
    return {
        "name": one.vip.name,
        "addresses": list(one.vip.addresses),
        "holder": one.holder,
        "hosts": list(one.vip.hosts),
    }
