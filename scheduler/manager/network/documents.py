# SPDX-License-Identifier: Apache-2.0
"""Our services and tasks as the network's services and endpoints. Pure.

flatmesh.ports          label: ports at the virtual address that are not published, as
                        [NAME=]PORT[:TARGET][/PROTOCOL], comma-separated
flatmesh.drain-seconds  label: how long a task is left alone between draining and its stop
flatmesh.affinity       label: true: a client's connections go to one task
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from scheduler.manager.network.view import IPNetwork, NetworkView
from scheduler.model.service import Service
from scheduler.model.task import Task, TaskStatus

OWNER = "SchedulerService"
"""Key of a network service that is ours: the id of our service."""
PORTS_LABEL = "flatmesh.ports"
DRAIN_LABEL = "flatmesh.drain-seconds"
AFFINITY_LABEL = "flatmesh.affinity"
PORT = re.compile(r"(?:([a-z0-9-]+)=)?(\d{1,5})(?::(\d{1,5}))?(?:/(tcp|udp|sctp))?")
SETTLED = 1.0  # seconds; by then every host has seen that an endpoint is draining
AUTOMATIC = range(30000, 32768)
"""Where published ports are from that the user did not choose."""


def network_name(service: Service) -> str:
    """The service's name as a label of a DNS name."""
    return re.sub(r"[^a-z0-9-]+", "-", service.name.lower()).strip("-")[:63]


def has_endpoints(service: Service) -> bool:
    """Whether the network balances connections to the service."""
    return bool(list(_ports(service))) and not service.is_job


def drain_seconds(service: Service) -> float:
    """Seconds between draining and the stop of a task; 0: it has no endpoint."""
    if not has_endpoints(service):
        return 0.0
    try:
        asked = float(service.spec.labels.get(DRAIN_LABEL, "0"))
    except ValueError:
        asked = 0.0
    return SETTLED + min(max(asked, 0.0), 86400.0)


def service_document(service: Service, view: NetworkView) -> dict[str, Any]:
    """The network's service, with the addresses and automatic ports that it has already."""
    before = view.document(network_name(service))
    if before.get(OWNER) != service.id:
        before = {}
    found: dict[str, Any] = {OWNER: service.id}
    if service.spec.endpoint_spec.mode != "dnsrr":
        for family, key in ((4, "VirtualIP"), (6, "VirtualIPv6")):
            network = view.networks.get(family)
            if network is not None:
                found[key] = _address(before.get(key), network, view.claims)
    kept = {
        (port.get("Protocol"), port.get("TargetPort")): port.get("PublishedPort", 0)
        for port in before.get("Ports", ())
        if isinstance(port, dict)
    }
    ports, taken = [], set[str]()
    for port in _ports(service):
        if port.get("PublishedPort") == 0:
            free = kept.get((port["Protocol"], port["TargetPort"])) or _free_port(
                port["Protocol"], view.claims, taken
            )
            taken.add(f"port/{port['Protocol']}/{free}")
            ports.append({**port, "PublishedPort": free})
        else:
            ports.append(port)
    found["Ports"] = ports
    if service.spec.labels.get(AFFINITY_LABEL) == "true":
        found["Affinity"] = True
    drain = int(drain_seconds(service) - SETTLED)
    if drain:
        found["DrainSeconds"] = drain
    return found


def claims_of(document: Mapping[str, Any]) -> set[str]:
    """What a network service must have for itself."""
    found = {f"address/{document[key]}" for key in ("VirtualIP", "VirtualIPv6") if key in document}
    for port in document.get("Ports", ()):
        if isinstance(port, dict) and port.get("PublishedPort"):
            found.add(f"port/{port.get('Protocol', 'tcp')}/{port['PublishedPort']}")
    return found


def endpoint_value(
    task: Task, status: TaskStatus | None, host: str, *, reachable: bool
) -> bytes | None:
    """A task's endpoint; None: it is none."""
    if status is None or not task.node or not reachable:
        return None
    stopping = task.draining or task.desired.name != "RUNNING"
    if not status.serves and not (stopping and not status.state.ended):
        return None
    document: dict[str, Any] = {}
    for text in status.addresses:
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:
            continue
        document.setdefault("Address" if address.version == 4 else "AddressV6", str(address))
    if not document:
        return None
    if host:
        document["Host"] = host
    document["State"] = "draining" if stopping else "ready"
    return dumps(document)


def dumps(document: Mapping[str, Any]) -> bytes:
    """JSON without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


def _ports(service: Service) -> Iterator[dict[str, Any]]:
    """The ports at the virtual address; published ones have PublishedPort, 0: choose one."""
    seen = set[tuple[str, int]]()
    dnsrr = service.spec.endpoint_spec.mode == "dnsrr"
    for port in service.spec.endpoint_spec.ports:
        if port.publish_mode != "ingress" or (port.protocol, port.target_port) in seen:
            continue
        seen.add((port.protocol, port.target_port))
        yield {
            "Name": port.name or f"{port.target_port}-{port.protocol}",
            "Protocol": port.protocol,
            "Port": port.target_port,
            "TargetPort": port.target_port,
            "PublishedPort": port.published_port,
        }
    for text in filter(None, service.spec.labels.get(PORTS_LABEL, "").split(",")):
        match = PORT.fullmatch(text.strip())
        if match is None or dnsrr:
            continue
        name, number, target, protocol = match.groups()
        protocol = protocol or "tcp"
        if (protocol, int(number)) not in seen and 0 < int(number) < 65536:
            seen.add((protocol, int(number)))
            yield {
                "Name": name or f"{number}-{protocol}",
                "Protocol": protocol,
                "Port": int(number),
                "TargetPort": int(target or number),
            }


def _address(before: Any, network: IPNetwork, claims: Collection[str]) -> str:
    """The address that it has, else a free one: random, as old answers of DNS live on."""
    try:
        if before and ip_address(before) in network:
            return str(before)
    except ValueError:
        pass
    usable = network.num_addresses - 2
    start = secrets.randbelow(usable)
    for step in range(usable):
        address = network[1 + (start + step) % usable]
        if f"address/{address}" not in claims:
            return str(address)
    return str(network[1 + start])  # all are taken: the claim will be refused


def _free_port(protocol: str, claims: Collection[str], taken: Collection[str]) -> int:
    for number in AUTOMATIC:
        claim = f"port/{protocol}/{number}"
        if claim not in claims and claim not in taken:
            return number
    return AUTOMATIC[0]
