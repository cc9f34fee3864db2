# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lease`: who owns which subnet."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import click

from base.command_line import explained
from base.errors import FlatmeshError
from base.output import Column, Output, output_option
from cli.cluster import cluster_options, with_registry
from etcd.client import Etcd
from ipam.etcd_origin import origin_of
from ipam.host_records import HostRecord, list_host_records
from ipam.lease import Lease, LeaseError, parse_key
from ipam.registry import Registry

AT_ONCE = 64  # calls to etcd that wait for an answer


class WhichLeaseError(FlatmeshError):
    """No lease, or several, fit what was asked for."""


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """One lease or reservation, as `lease list` tells of it."""

    subnet: str | None
    ipv6_subnet: str | None
    host: str | None
    public_ip: str | None
    public_ipv6: str | None
    backend: str
    reserved: bool
    expires_in: int | None
    version: str | None


def duration(seconds: int | None) -> str:
    """Seconds for people; only reservations never expire."""
    if seconds is None:
        return "reserved"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


COLUMNS = (
    Column("subnet", "The IPv4 subnet; null: it has none."),
    Column("ipv6_subnet", "The IPv6 subnet; null: it has none.", title="IPv6 subnet"),
    Column("host", "Name of the host; null: it has not said it (flanneld, a reservation)."),
    Column("public_ip", "The address that its tunnels end at, or null.", title="public IP"),
    Column("public_ipv6", "The same for IPv6, or null.", title="public IPv6"),
    Column("backend", "`Backend.Type` that the host uses.", wide=True),
    Column("reserved", "Whether it is a reservation, which never expires.", machine=True),
    Column(
        "expires_in",
        "Seconds until it expires unless its host renews it; null: reserved.",
        title="expires in",
        text=duration,
    ),
    Column("version", "The host's flatmesh, or null.", wide=True),
)


@click.group("lease")
def lease_group() -> None:
    """Who owns which subnet."""


@explained(
    "flatmesh lease list",
    "flatmesh lease list -o json | jq -r '.[] | select(.expires_in != null).host'",
)
@lease_group.command("list")
@output_option(COLUMNS)
@click.option("--json", "as_json", is_flag=True, hidden=True)
@cluster_options
def list_leases(output: Output, *, as_json: bool, **flags: Any) -> None:
    """List all leases and reservations, by the number of their subnet."""
    rows = with_registry(flags, rows_of_leases)
    if as_json:
        Output("json", COLUMNS).show(rows)
    elif output.machine:
        output.show(rows)
    else:
        filled = [one for one in COLUMNS if any(_has(row, one.field) for row in rows)]
        output.table(filled if rows else COLUMNS, rows)


def _has(row: LeaseRow, field: str) -> bool:
    return field == "expires_in" or getattr(row, field) is not None


async def rows_of_leases(registry: Registry) -> list[LeaseRow]:
    """All leases in the order of their subnets, with what their hosts say. Raises EtcdError."""
    leases, _ = await registry.leases()
    records = await list_host_records(registry.etcd, registry.prefix)
    ids = {origin_of(lease).etcd_lease for lease in leases.values()} - {0}
    left = await _time_left(registry.etcd, ids)
    return [
        _row(lease, records.get(lease.key), left.get(origin_of(lease).etcd_lease))
        for lease in sorted(leases.values(), key=_number)
    ]


def _number(lease: Lease) -> tuple[int, int]:
    """The first address of each family: 10.5.2.0 comes before 10.5.10.0."""
    v4, v6 = lease.subnet, lease.ipv6_subnet
    return (int(v4.network_address) if v4 else 0, int(v6.network_address) if v6 else 0)


async def _time_left(etcd: Etcd, ids: set[int]) -> dict[int, int]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(etcd_lease: int) -> tuple[int, int]:
        async with limit:
            return etcd_lease, await etcd.time_to_live(etcd_lease)

    return dict(await asyncio.gather(*map(one, ids)))


def _row(lease: Lease, record: HostRecord | None, left: int | None) -> LeaseRow:
    attributes = lease.attributes
    return LeaseRow(
        _text(lease.subnet),
        _text(lease.ipv6_subnet),
        (record and record.name) or None,
        _text(attributes.public_ip),
        _text(attributes.public_ipv6),
        attributes.backend_type or "udp",
        lease.reserved,
        left,
        (record and record.version) or None,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@explained("flatmesh lease reserve 10.5.76.0/24 --public-ip 192.168.64.7")
@lease_group.command()
@click.argument("subnet")
@click.option("--public-ip", required=True, help="The host it is kept for.")
@cluster_options
def reserve(subnet: str, public_ip: str, **flags: Any) -> None:
    """Keep SUBNET (10.5.76.0/24, dual stack: 10.5.76.0/24,fd05::/64) for one host, for good."""
    v4, v6 = subnets_of(subnet)
    with_registry(flags, lambda registry: registry.reserve(v4, v6, public_ip))
    click.echo(f"{subnet} is reserved for {public_ip}")


def subnets_of(text: str) -> tuple[IPv4Network | None, IPv6Network | None]:
    """The subnets that an operator wrote: `10.5.1.0/24` or `10.5.1.0-24`.

    Those of a dual stack lease are separated by `,` or `&`. Raises LeaseError.
    """
    parts = text.replace(",", "&").replace("/", "-").split("&")
    try:
        return parse_key("&".join(part.strip() for part in parts))
    except LeaseError as error:
        raise LeaseError(f"{text!r} is no subnet such as 10.5.1.0/24 ({error})") from None


@explained(
    "flatmesh lease release 10.5.76.0/24",
    "flatmesh lease release 10.5.76.0-24      # as the key in etcd is written",
    "flatmesh lease release --host node7",
    exits={1: "failed, or nobody holds it"},
)
@lease_group.command()
@click.argument("subnet", required=False)
@click.option("--host", metavar="NAME", help="The host that holds it: its name or address.")
@cluster_options
def release(subnet: str | None, host: str | None, **flags: Any) -> None:
    """Give SUBNET back, lease or reservation. Its host takes a new one if it is still there.

    Of a dual stack lease one of its two subnets is enough: both are given back.
    """
    if (subnet is None) == (host is None):
        raise click.UsageError("give a subnet, or --host NAME (flatmesh lease list shows both)")
    wanted = subnets_of(subnet) if subnet is not None else (None, None)

    async def work(registry: Registry) -> Lease | None:
        leases, _ = await registry.leases()
        if host is None:
            lease = lease_of_subnets(leases, *wanted)
        else:
            records = await list_host_records(registry.etcd, registry.prefix)
            lease = lease_of_host(leases, records, host)
        if lease is None or not await registry.release_subnet(lease.subnet, lease.ipv6_subnet):
            return None
        return lease

    lease = with_registry(flags, work)
    if lease is None:
        what = f"nobody holds {subnet}" if host is None else f"no lease of host {host}"
        click.echo(f"flatmesh: {what}: flatmesh lease list shows who holds what", err=True)
        sys.exit(1)
    click.echo(f"{', '.join(map(str, lease.subnets))} is free")


def lease_of_subnets(
    leases: Mapping[str, Lease], v4: IPv4Network | None, v6: IPv6Network | None
) -> Lease | None:
    """The lease that has each of the subnets that are given."""
    fitting = (
        lease
        for lease in leases.values()
        if (v4 is None or lease.subnet == v4) and (v6 is None or lease.ipv6_subnet == v6)
    )
    return next(fitting, None)


def lease_of_host(
    leases: Mapping[str, Lease], records: Mapping[str, HostRecord], host: str
) -> Lease | None:
    """The lease of a host, by its name or one of its addresses. Raises WhichLeaseError."""
    found = [
        lease
        for lease in sorted(leases.values(), key=_number)
        if host in (_name(records, lease), *map(str, lease.attributes.addresses))
    ]
    if len(found) > 1:
        subnets = ", ".join(str(lease.subnets[0]) for lease in found)
        raise WhichLeaseError(f"{len(found)} leases are of {host} ({subnets}): give the subnet")
    return found[0] if found else None


def _name(records: Mapping[str, HostRecord], lease: Lease) -> str | None:
    record = records.get(lease.key)
    return record.name if record is not None else None
