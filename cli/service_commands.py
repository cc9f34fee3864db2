# SPDX-License-Identifier: Apache-2.0
"""`flatmesh service` and `flatmesh endpoint`: services in etcd, as schedulers write them, too."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import click

from base.command_line import Choice, explained
from base.output import Column, Output, output_option
from cli.cluster import cluster_options, with_registry
from ipam.registry import Registry
from services.model import (
    MAX_SECONDS,
    MAX_WEIGHT,
    PROTOCOLS,
    Endpoint,
    Service,
    ServiceError,
    ServicePort,
)
from services.registry import ServiceRegistry

Answer = TypeVar("Answer")
_PROTOCOL = f"(?:/(?P<protocol>{'|'.join(PROTOCOLS)}))?"
_PORT = re.compile(
    rf"(?:(?P<name>[^=]+)=)?(?P<port>\d{{1,5}})(?::(?P<target>\d{{1,5}}))?{_PROTOCOL}", re.ASCII
)
_PUBLISH = re.compile(rf"(?P<published>\d{{1,5}}):(?P<port>\d{{1,5}}){_PROTOCOL}", re.ASCII)
SERVICES = (
    Column("name", "The service's name."),
    Column("addresses", "Its virtual addresses."),
    Column("ports", "Its ports: `PORT:TARGET/PROTOCOL`."),
    Column("published", "Published ports: `PUBLISHED:PORT/PROTOCOL`."),
    Column("ready", "Endpoints that take new connections."),
    Column("draining", "Endpoints that take none.", wide=True),
    Column("affinity", "Whether a client stays with one endpoint.", wide=True),
    Column("selection", "How an endpoint is chosen: `hash` or `random`.", wide=True),
    Column("drain_seconds", "How long a draining endpoint is waited for.", wide=True),
    Column("sources", "Networks that may use published ports; empty: all.", wide=True),
)
ENDPOINTS = (
    Column("service", "The service's name."),
    Column("id", "The endpoint's id."),
    Column("addresses", "Its addresses."),
    Column("host", "Address of its host; empty: not told."),
    Column("state", "`ready` or `draining`."),
    Column("weight", "Its share of new connections.", wide=True),
    Column("ports", "Target ports by name, where they differ from the service's.", wide=True),
)


def with_services(
    flags: dict[str, Any], work: Callable[[ServiceRegistry], Awaitable[Answer]]
) -> Answer:
    """Run work with the services of the cluster that the flags describe."""

    async def run(registry: Registry) -> Answer:
        config, _ = await registry.config()
        return await work(ServiceRegistry(registry.etcd, registry.prefix, config.service_networks))

    return with_registry(flags, run)


@click.group("service")
def service_group() -> None:
    """Services: one address or published port for many endpoints."""


@explained(
    "flatmesh service list",
    "flatmesh service list -o json",
)
@service_group.command("list")
@output_option(SERVICES)
@cluster_options
def list_services(output: Output, **flags: Any) -> None:
    """List all services."""

    async def work(services: ServiceRegistry) -> tuple[list[Service], list[Endpoint]]:
        found = await services.services()
        return [found[name] for name in sorted(found)], await services.endpoints()

    services, endpoints = with_services(flags, work)
    output.show(_rows(services, endpoints))


@explained(
    "flatmesh service show web",
)
@service_group.command("show")
@click.argument("name")
@output_option(sections={"service": SERVICES, "endpoints": ENDPOINTS})
@cluster_options
def show_service(name: str, output: Output, **flags: Any) -> None:
    """Show the service NAME and its endpoints."""

    async def work(services: ServiceRegistry) -> tuple[Service, list[Endpoint]]:
        return await services.service(name), await services.endpoints(name)

    service, endpoints = with_services(flags, work)
    row, rows = _rows([service], endpoints)[0], list(map(_endpoint_row, endpoints))
    if output.machine:
        output.write({"service": row, "endpoints": rows})
        return
    output.table(SERVICES, [row])
    if rows:
        output.table(ENDPOINTS, rows, title="endpoints")


@explained(
    "flatmesh service set web --port http=80:8080",
    "flatmesh service set web --port 80:8080 --publish 8088:80 --affinity",
)
@service_group.command("set")
@click.argument("name")
@click.option(
    "--port",
    "ports",
    multiple=True,
    required=True,
    metavar="[NAME=]PORT[:TARGET][/PROTOCOL]",
    help="A port at the virtual addresses, and the endpoints' port; tcp, udp or sctp. Repeatable.",
)
@click.option(
    "--publish",
    "published",
    multiple=True,
    metavar="PUBLISHED:PORT[/PROTOCOL]",
    help="Serve a port of --port at PUBLISHED on every host, too. Repeatable.",
)
@click.option(
    "--address", "addresses", multiple=True, help="A virtual address; default: a free one."
)
@click.option("--affinity", is_flag=True, help="A client's connections go to one endpoint.")
@click.option(
    "--selection",
    type=Choice(["hash", "random"]),
    default="hash",
    show_default=True,
    help="How an endpoint is chosen for a connection.",
)
@click.option(
    "--drain",
    type=click.IntRange(0, MAX_SECONDS),
    default=0,
    show_default=True,
    help="Seconds that a scheduler should let connections to a draining endpoint go on.",
)
@click.option(
    "--service-source",
    "sources",
    multiple=True,
    help="A network that may use published ports; default: all. Repeatable.",
)
@cluster_options
def set_service(
    name: str,
    ports: Sequence[str],
    published: Sequence[str],
    addresses: Sequence[str],
    *,
    affinity: bool,
    selection: str,
    drain: int,
    sources: Sequence[str],
    **flags: Any,
) -> None:
    """Make the service NAME, or replace it; it keeps its virtual addresses and endpoints."""
    try:
        service = Service(
            name,
            tuple(sorted(map(ip_address, addresses), key=lambda one: one.version)),
            tuple(_ports(ports, published)),
            affinity,
            selection,
            drain,
            tuple(map(ip_network, sources)),
        )
    except ValueError as error:
        raise ServiceError(f"service {name}: {error}") from None
    stored = with_services(flags, lambda services: services.set_service(service))
    where = " ".join(map(str, stored.addresses)) or "no virtual address"
    click.echo(f"service {name}: {where}")


@explained(
    "flatmesh service remove web",
)
@service_group.command("remove")
@click.argument("name")
@cluster_options
def remove_service(name: str, **flags: Any) -> None:
    """Remove the service NAME and its endpoints."""
    if not with_services(flags, lambda services: services.remove_service(name)):
        raise ServiceError(f"there is no service {name}")
    click.echo(f"service {name} is removed")


@click.group("endpoint")
def endpoint_group() -> None:
    """Endpoints: the servers behind services."""


@explained(
    "flatmesh endpoint list web",
)
@endpoint_group.command("list")
@click.argument("service", required=False)
@output_option(ENDPOINTS)
@cluster_options
def list_endpoints(service: str | None, output: Output, **flags: Any) -> None:
    """List all endpoints, or those of SERVICE."""
    found = with_services(flags, lambda services: services.endpoints(service))
    output.show(map(_endpoint_row, found))


@explained(
    "flatmesh endpoint set web web-1 --address 10.5.1.2",
    "flatmesh endpoint set web web-1 --address 10.5.1.2 --state draining",
)
@endpoint_group.command("set")
@click.argument("service")
@click.argument("endpoint_id", metavar="ID")
@click.option(
    "--address", "addresses", multiple=True, required=True, help="IPv4, IPv6 or both. Repeatable."
)
@click.option("--host", default="", help="Address of the host that it runs on.")
@click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="NAME=PORT",
    help="Where it serves a port, if not at the service's target. Repeatable.",
)
@click.option(
    "--state",
    type=Choice(["ready", "draining"]),
    default="ready",
    show_default=True,
    help="A draining endpoint gets no new connections.",
)
@click.option(
    "--weight",
    type=click.IntRange(1, MAX_WEIGHT),
    default=1,
    show_default=True,
    help="Its share of connections, beside the other endpoints'.",
)
@cluster_options
def set_endpoint(
    service: str,
    endpoint_id: str,
    addresses: Sequence[str],
    host: str,
    ports: Sequence[str],
    state: str,
    weight: int,
    **flags: Any,
) -> None:
    """Add the endpoint ID to SERVICE, or replace it."""
    where = f"endpoint {service}/{endpoint_id}"
    try:
        found = tuple(sorted(map(ip_address, addresses), key=lambda one: one.version))
        targets = {name: int(port) for name, _, port in (one.partition("=") for one in ports)}
    except ValueError as error:
        raise ServiceError(f"{where}: {error}") from None
    if len({one.version for one in found}) != len(found):
        raise ServiceError(f"{where}: give one address of a family at most")
    endpoint = Endpoint(service, endpoint_id, found, targets, host, state == "draining", weight)
    with_services(flags, lambda services: services.set_endpoint(endpoint))
    click.echo(f"{where} is {state}")


@explained(
    "flatmesh endpoint remove web web-1",
)
@endpoint_group.command("remove")
@click.argument("service")
@click.argument("endpoint_id", metavar="ID")
@cluster_options
def remove_endpoint(service: str, endpoint_id: str, **flags: Any) -> None:
    """Remove the endpoint ID of SERVICE."""
    done = with_services(flags, lambda services: services.remove_endpoint(service, endpoint_id))
    if not done:
        raise ServiceError(f"there is no endpoint {service}/{endpoint_id}")
    click.echo(f"endpoint {service}/{endpoint_id} is removed")


def _ports(ports: Sequence[str], published: Sequence[str]) -> list[ServicePort]:
    publish: dict[tuple[str, int], int] = {}
    for text in published:
        match = _PUBLISH.fullmatch(text)
        if match is None:
            raise ValueError(f"--publish {text}: write PUBLISHED:PORT[/PROTOCOL], as 8080:80/tcp")
        publish[match["protocol"] or "tcp", int(match["port"])] = int(match["published"])
    found = []
    for text in ports:
        match = _PORT.fullmatch(text)
        if match is None:
            raise ValueError(f"--port {text}: write [NAME=]PORT[:TARGET][/PROTOCOL], as 80:8080")
        protocol, port = match["protocol"] or "tcp", int(match["port"])
        name = match["name"] or f"{port}-{protocol}"
        target = int(match["target"] or port)
        found.append(ServicePort(name, protocol, port, target, publish.pop((protocol, port), 0)))
    for protocol, port in publish:
        raise ValueError(f"--publish of port {port}/{protocol}: there is no such --port")
    return found


def _rows(services: Sequence[Service], endpoints: Sequence[Endpoint]) -> list[dict[str, object]]:
    counts = Counter((one.service, one.draining) for one in endpoints)
    return [
        {
            "name": one.name,
            "addresses": list(map(str, one.addresses)),
            "ports": [f"{p.port}:{p.target_port}/{p.protocol}" for p in one.ports],
            "published": [
                f"{p.published_port}:{p.port}/{p.protocol}" for p in one.ports if p.published_port
            ],
            "ready": counts[one.name, False],
            "draining": counts[one.name, True],
            "affinity": one.affinity,
            "selection": one.selection,
            "drain_seconds": one.drain_seconds,
            "sources": list(map(str, one.sources)),
        }
        for one in services
    ]


def _endpoint_row(endpoint: Endpoint) -> dict[str, object]:
    return {
        "service": endpoint.service,
        "id": endpoint.id,
        "addresses": list(map(str, endpoint.addresses)),
        "host": endpoint.host,
        "state": "draining" if endpoint.draining else "ready",
        "weight": endpoint.weight,
        "ports": dict(endpoint.ports),
    }
