# SPDX-License-Identifier: Apache-2.0
"""The gateway of each of a pod's addresses, and the pod's default routes."""

from __future__ import annotations

from cni import cidr
from cni.config.bridge_config import BridgeConfig
from cni.result.model import ResultAddress, ResultRoute

Addresses = tuple[ResultAddress, ...]
Routes = tuple[ResultRoute, ...]


def with_gateways(ips: Addresses, routes: Routes, config: BridgeConfig) -> tuple[Addresses, Routes]:
    """Addresses and routes completed as the config wants them.

    `isGateway` gives every address a gateway, the first host of its subnet where IPAM named
    none; `isDefaultGateway` adds a default route for each family that has none yet.
    """
    if config.is_gateway:
        ips = tuple(ip if ip.gateway else ip._replace(gateway=_first_host(ip)) for ip in ips)
    if not config.is_default_gateway:
        return ips, routes
    for ip in ips:
        family = cidr.parse_cidr(ip.address).family
        default = str(cidr.default_network(family))
        if ip.gateway and not any(r.destination == default for r in routes):
            routes = (*routes, ResultRoute(default, ip.gateway))
    return ips, routes


def gateway_addresses(ips: Addresses) -> list[cidr.Cidr]:
    """The addresses that the bridge needs to be the gateway of these."""
    gateways = []
    for ip in ips:
        family, value = cidr.parse_address(ip.gateway)
        gateways.append(cidr.Cidr(family, value, cidr.parse_cidr(ip.address).length))
    return gateways


def _first_host(ip: ResultAddress) -> str:
    network = cidr.parse_cidr(ip.address).network
    return cidr.to_text(network.family, network.value + 1)
