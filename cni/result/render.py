# SPDX-License-Identifier: Apache-2.0
"""A result as JSON, in the shape of the version that the request's config names.

    0.1.0, 0.2.0   `ip4`, `ip6`: one address each, with its routes
    0.3.0 - 0.4.0  `interfaces`, `ips` (each with `version`), `routes`
    1.0.0          `ips` without `version`
    1.1.0          `mtu`, `socketPath`, `pciID` of interfaces; `mtu`, `advmss`, `priority`,
                   `table`, `scope` of routes

(CNI SPEC 1.1.0, section 5; the older shapes are in the specification's own history.)
"""

from __future__ import annotations

from typing import Any

from cni import cidr, versions
from cni.result.model import CniResult, Dns, ResultAddress, ResultInterface, ResultRoute


def render_result(result: CniResult, version: str) -> dict[str, Any]:
    """The JSON object of a supported version; what the version has no key for is left out."""
    if not versions.at_least(version, "0.3.0"):
        return _render_02(result, version)
    modern = versions.at_least(version, "1.1.0")
    body: dict[str, Any] = {"cniVersion": version}
    if result.interfaces:
        body["interfaces"] = [_interface(each, modern=modern) for each in result.interfaces]
    if result.ips:
        old = not versions.at_least(version, "1.0.0")
        body["ips"] = [_address(each, with_version=old) for each in result.ips]
    if result.routes:
        body["routes"] = [_route(each, modern=modern) for each in result.routes]
    body["dns"] = _dns(result.dns)
    return body


def _render_02(result: CniResult, version: str) -> dict[str, Any]:
    """One address per family, with the routes of that family below it."""
    body: dict[str, Any] = {"cniVersion": version}
    for family in (4, 6):
        ip = next((ip for ip in result.ips if _family(ip.address) == family), None)
        if ip is None:
            continue
        part: dict[str, Any] = {"ip": ip.address}
        if ip.gateway:
            part["gateway"] = ip.gateway
        routes = [
            _route(route, modern=False)
            for route in result.routes
            if _family(route.destination) == family
        ]
        if routes:
            part["routes"] = routes
        body[f"ip{family}"] = part
    body["dns"] = _dns(result.dns)
    return body


def _family(text: str) -> int:
    return cidr.parse_cidr(text).family


def _interface(interface: ResultInterface, *, modern: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"name": interface.name}
    values: list[tuple[str, Any]] = [("mac", interface.mac)]
    if modern:
        values.append(("mtu", interface.mtu))
    values.append(("sandbox", interface.sandbox))
    if modern:
        values += [("socketPath", interface.socket_path), ("pciID", interface.pci_id)]
    body.update((name, value) for name, value in values if value)
    return body


def _address(ip: ResultAddress, *, with_version: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if with_version:
        body["version"] = str(_family(ip.address))
    if ip.interface is not None:
        body["interface"] = ip.interface
    body["address"] = ip.address
    if ip.gateway:
        body["gateway"] = ip.gateway
    return body


def _route(route: ResultRoute, *, modern: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"dst": route.destination}
    if route.gateway:
        body["gw"] = route.gateway
    if modern:
        numbers = (("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority))
        body.update((name, value) for name, value in numbers if value)
        optional = (("table", route.table), ("scope", route.scope))
        body.update((name, value) for name, value in optional if value is not None)
    return body


def _dns(dns: Dns) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if dns.nameservers:
        body["nameservers"] = list(dns.nameservers)
    if dns.domain:
        body["domain"] = dns.domain
    if dns.search:
        body["search"] = list(dns.search)
    if dns.options:
        body["options"] = list(dns.options)
    return body
