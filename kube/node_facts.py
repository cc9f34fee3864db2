# SPDX-License-Identifier: Apache-2.0
"""What is read of a Node, and the lease that it makes.

A Node's pod subnets are `spec.podCIDRs` (the first of each family), given by
kube-controller-manager (--allocate-node-cidrs); older ones write `spec.podCIDR` alone. The lease
lives as long as the Node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ipam.host_records import HostRecord
from ipam.lease import Lease
from ipam.network import NetworkConfig
from kube.annotations import AnnotationNames, parse_attributes
from kube.client import Json
from kube.errors import BrokenObjectError
from kube.follow import metadata_of

NODES = "/api/v1/nodes"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One Node, as far as it concerns the network."""

    name: str
    pod_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Those below the prefix."""
    created: int = 0
    """Seconds since 1970."""
    ready: bool = False
    """Whether its kubelet says so (condition Ready)."""
    network_unavailable: str = ""
    """Status of the condition NetworkUnavailable: True, False, Unknown, or empty."""

    def pod_cidr(self, family: int) -> Any:
        """The first one of a family; None where it has none."""
        return next((one for one in self.pod_cidrs if one.version == family), None)


def parse_node(item: Json, names: AnnotationNames) -> NodeFacts:
    """Read a Node. Raises BrokenObjectError."""
    about, spec, status = metadata_of(item), _object(item, "spec"), _object(item, "status")
    annotations = about.get("annotations")
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    if not isinstance(cidrs, list):
        raise BrokenObjectError("spec.podCIDRs is no list")
    conditions = _conditions(status)
    return NodeFacts(
        str(about.get("name") or ""),
        tuple(_subnet(one) for one in cidrs[:2]),
        names.of(annotations if isinstance(annotations, dict) else {}),
        _seconds(about.get("creationTimestamp")),
        conditions.get("Ready") == "True",
        conditions.get("NetworkUnavailable", ""),
    )


def lease_of(node: NodeFacts, config: NetworkConfig, names: AnnotationNames) -> Lease | None:
    """The lease that a Node is, in the families of the cluster; None: it has none.

    Raises BrokenObjectError.
    """
    if node.annotations.get(names.managed) != "true":
        return None
    families = tuple(n.version for n in config.networks)
    subnets = {family: node.pod_cidr(family) for family in families}
    if not any(subnets.values()):
        return None
    attributes = parse_attributes(node.annotations, names, families)
    return Lease(subnets.get(4), subnets.get(6), attributes, origin=node.name, since=node.created)


def record_of(node: NodeFacts) -> HostRecord:
    """What is known of the host beside its lease."""
    problem = "" if node.ready else "the kubelet of its node is not ready"
    return HostRecord(node.name[:64], started=node.created, ready=node.ready, problem=problem)


def own_subnets(
    node: NodeFacts, config: NetworkConfig
) -> tuple[IPv4Network | None, IPv6Network | None]:
    """This host's subnets. Raises BrokenObjectError: it lacks one, or one lies elsewhere."""
    found: dict[int, Any] = {4: None, 6: None}
    for network in config.networks:
        family = network.version
        subnet = node.pod_cidr(family)
        if subnet is None:
            raise BrokenObjectError(
                f"node {node.name} has no IPv{family} podCIDR: run kube-controller-manager with "
                f"--allocate-node-cidrs and --cluster-cidr {network}"
            )
        if not subnet.subnet_of(network):
            raise BrokenObjectError(
                f"podCIDR {subnet} of node {node.name} lies outside of Network {network}: make "
                "Network in net-conf.json the --cluster-cidr of kube-controller-manager"
            )
        found[family] = subnet
    return found[4], found[6]


def _conditions(status: Mapping[str, Any]) -> dict[str, str]:
    there = status.get("conditions")
    return {
        str(one.get("type")): str(one.get("status"))
        for one in (there if isinstance(there, list) else ())
        if isinstance(one, dict)
    }


def _object(item: Json, name: str) -> Mapping[str, Any]:
    found = item.get(name)
    return found if isinstance(found, dict) else {}


def _subnet(text: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(text))
    except ValueError as error:
        raise BrokenObjectError(f"podCIDR {str(text)[:100]!r}: {error}") from None


def _seconds(text: object) -> int:
    try:
        return int(datetime.fromisoformat(str(text)).timestamp())
    except ValueError:
        return 0
