# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy, Pod and Namespace as values of `policy.model`: no more of them is kept.

Source: kubernetes.io/docs, networking.k8s.io/v1 NetworkPolicy and v1 Pod.

A policy that can't be understood isolates all pods that it selects, and allows nothing: to leave it
out would open what somebody meant to close.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from kube.client import Json
from kube.errors import BrokenObjectError
from kube.follow import metadata_of
from policy.model import (
    EVERYTHING,
    MAX_PORT,
    PROTOCOLS,
    Block,
    IPAddress,
    IPNetwork,
    Namespace,
    Pod,
    PodGroup,
    Policy,
    Ports,
    Requirement,
    Rule,
    Selector,
)

POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
RUNNING = {"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"}
"""Of pods: those that have ended have no address any more."""
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")

log = logging.getLogger("kube.policy")


def parse_namespace(item: Json) -> Namespace:
    """Read a Namespace."""
    return Namespace(_name(item), _labels(metadata_of(item)))


def parse_pod(item: Json) -> Pod:
    """Read a Pod. Raises BrokenObjectError."""
    about, spec, status = metadata_of(item), _object(item, "spec"), _object(item, "status")
    addresses: tuple[IPAddress, ...] = ()
    if spec.get("hostNetwork") is not True:
        told = [one.get("ip") for one in _objects(status, "podIPs")] or [status.get("podIP")]
        addresses = tuple(_address(one) for one in told if one)
    return Pod(
        sys.intern(str(about.get("namespace") or "")),
        _name(item),
        _labels(about),
        addresses,
        sys.intern(str(spec.get("nodeName") or "")),
        tuple(dict.fromkeys(_named_ports(spec))),
    )


def parse_policy(item: Json) -> Policy:
    """Read a NetworkPolicy. Raises BrokenObjectError where even its pods can't be read."""
    spec = _object(item, "spec")
    namespace = str(metadata_of(item).get("namespace") or "")
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    found: dict[str, tuple[Rule, ...] | None] = {"Ingress": None, "Egress": None}
    for kind, peers in (("Ingress", "from"), ("Egress", "to")):
        if kind not in types:
            continue
        try:
            rules = _objects(spec, kind.lower())
            found[kind] = tuple(_rule(one, peers, namespace) for one in rules)
        except (BrokenObjectError, ValueError) as error:
            log.warning(
                "network policy %s/%s: %s: it allows no %s", namespace, _name(item), error, kind
            )
            found[kind] = ()
    try:
        subjects = _selector(spec.get("podSelector"))
    except BrokenObjectError as error:
        log.warning(
            "network policy %s/%s: %s: it isolates all pods of its namespace",
            *(namespace, _name(item), error),
        )
        subjects, found = EVERYTHING, dict.fromkeys(found, ())
    return Policy(namespace, _name(item), subjects, found["Ingress"], found["Egress"])


def _rule(item: Json, direction: str, namespace: str) -> Rule:
    peers = tuple(_peer(one, namespace) for one in _objects(item, direction))
    ports = tuple(_ports(one) for one in _objects(item, "ports"))
    return Rule(peers or None, ports or None)


def _peer(item: Json, namespace: str) -> PodGroup | Block:
    if item.get("ipBlock") is not None:
        block = _object(item, "ipBlock")
        excepts = block.get("except") or ()
        if not isinstance(excepts, list | tuple):
            raise BrokenObjectError("ipBlock.except is no list")
        return Block(_network(block.get("cidr")), tuple(_network(one) for one in excepts))
    pods, namespaces = item.get("podSelector"), item.get("namespaceSelector")
    if pods is None and namespaces is None:
        raise BrokenObjectError("a peer that is none of podSelector, namespaceSelector, ipBlock")
    if namespaces is None:
        return PodGroup(_selector(pods), namespace)
    return PodGroup(_selector(pods), "", _selector(namespaces))


def _ports(item: Json) -> Ports:
    protocol = str(item.get("protocol") or "TCP").lower()
    if protocol not in PROTOCOLS:
        raise BrokenObjectError(f"protocol {protocol[:20]!r}")
    port, end = item.get("port"), item.get("endPort")
    if port is None:
        return Ports(protocol)
    if isinstance(port, str):
        return Ports(protocol, name=port[:63])
    last = end if end is not None else port
    if not all(isinstance(one, int) and 0 < one <= MAX_PORT for one in (port, last)) or last < port:
        raise BrokenObjectError(f"port {str(port)[:20]} to {str(last)[:20]}")
    return Ports(protocol, port, last)


def _selector(item: Any) -> Selector:
    """A label selector; one that is missing or empty selects everything."""
    if item is None:
        return EVERYTHING
    if not isinstance(item, dict):
        raise BrokenObjectError("a selector that is no object")
    labels = item.get("matchLabels") or {}
    if not isinstance(labels, dict):
        raise BrokenObjectError("matchLabels is no object")
    requirements = []
    for one in _objects(item, "matchExpressions"):
        operator, values = one.get("operator"), one.get("values") or []
        if operator not in OPERATORS or not isinstance(values, list):
            raise BrokenObjectError(f"operator {str(operator)[:20]!r} of a selector")
        key = str(one.get("key"))
        requirements.append(Requirement(key, operator, frozenset(map(str, values))))
    return Selector(tuple(sorted((str(k), str(v)) for k, v in labels.items())), tuple(requirements))


def _named_ports(spec: Json) -> Iterator[tuple[str, str, int]]:
    """Of containers, and of those that start before them and stay (sidecars)."""
    sidecars = [o for o in _objects(spec, "initContainers") if o.get("restartPolicy") == "Always"]
    for container in [*_objects(spec, "containers"), *sidecars]:
        for one in _objects(container, "ports"):
            name, number = one.get("name"), one.get("containerPort")
            protocol = str(one.get("protocol") or "TCP").lower()
            if not isinstance(number, int) or not 0 < number <= MAX_PORT:
                continue
            if name and protocol in PROTOCOLS:
                yield sys.intern(str(name)), sys.intern(protocol), number


def _labels(about: Json) -> dict[str, str]:
    """Labels; the same few words are in thousands of pods."""
    labels = about.get("labels")
    if not isinstance(labels, dict):
        return {}
    return {sys.intern(str(key)): sys.intern(str(value)) for key, value in labels.items()}


def _name(item: Json) -> str:
    return str(metadata_of(item).get("name") or "")


def _object(item: Json, name: str) -> Mapping[str, Any]:
    found = item.get(name)
    return found if isinstance(found, dict) else {}


def _objects(item: Json, name: str) -> Sequence[Mapping[str, Any]]:
    """A list of objects; none where it is missing. Raises BrokenObjectError for anything else."""
    found = item.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BrokenObjectError(f"{name} is no list of objects")
    return found


def _address(text: object) -> IPAddress:
    try:
        return ip_address(str(text))
    except ValueError:
        raise BrokenObjectError(f"{str(text)[:60]!r} is no address") from None


def _network(text: object) -> IPNetwork:
    try:
        return ip_network(str(text), strict=False)
    except ValueError:
        raise BrokenObjectError(f"{str(text)[:60]!r} is no network") from None
