# SPDX-License-Identifier: Apache-2.0
"""Leases as annotations of Nodes: what flannel writes and reads, byte for byte."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from ipam.lease import LeaseAttributes
from ipam.network import parse_config
from kube.annotations import annotation_names, format_attributes, overwritten, parse_attributes
from kube.errors import BrokenObjectError, KubeSettingsError
from kube.node_facts import lease_of, own_subnets, parse_node

NAMES = annotation_names("flannel.alpha.coreos.com")
PREFIX = "flannel.alpha.coreos.com/"
VXLAN = {"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"}
V4 = IPv4Address("192.168.64.3")
V6 = IPv6Address("fd00::3")
# As a node of kube-flannel 0.20.2 had them, for each backend.
FLANNELS: list[tuple[LeaseAttributes, dict[str, str]]] = [
    (
        LeaseAttributes(V4, None, "vxlan", VXLAN),
        {
            "kube-subnet-manager": "true",
            "backend-type": "vxlan",
            "backend-data": '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}',
            "public-ip": "192.168.64.3",
        },
    ),
    (
        LeaseAttributes(V4, None, "host-gw"),
        {
            "kube-subnet-manager": "true",
            "backend-type": "host-gw",
            "backend-data": "null",
            "public-ip": "192.168.64.3",
        },
    ),
    (
        LeaseAttributes(V4, None, "udp"),
        {
            "kube-subnet-manager": "true",
            "backend-type": "",
            "backend-data": "null",
            "public-ip": "192.168.64.3",
        },
    ),
    (
        LeaseAttributes(V4, V6, "wireguard", {"PublicKey": "a+/="}, {"PublicKey": "a+/="}),
        {
            "kube-subnet-manager": "true",
            "backend-type": "wireguard",
            "backend-data": '{"PublicKey":"a+/="}',
            "backend-v6-data": '{"PublicKey":"a+/="}',
            "public-ip": "192.168.64.3",
            "public-ipv6": "fd00::3",
        },
    ),
    (
        LeaseAttributes(None, V6, "vxlan", None, VXLAN),
        {
            "kube-subnet-manager": "true",
            "backend-type": "vxlan",
            "backend-v6-data": '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}',
            "public-ipv6": "fd00::3",
        },
    ),
]


def full(annotations: dict[str, str]) -> dict[str, str]:
    return {PREFIX + name: value for name, value in annotations.items()}


@pytest.mark.parametrize(("attributes", "annotations"), FLANNELS)
def test_they_are_written_as_flannel_writes_them(
    attributes: LeaseAttributes, annotations: dict[str, str]
) -> None:
    assert format_attributes(attributes, {}, NAMES) == full(annotations)


@pytest.mark.parametrize(("attributes", "annotations"), FLANNELS)
def test_they_are_read_as_they_are_written(
    attributes: LeaseAttributes, annotations: dict[str, str]
) -> None:
    families = tuple(a.version for a in attributes.addresses)
    found = parse_attributes(full(annotations), NAMES, families)
    assert found.addresses == attributes.addresses
    assert found.backend_data == attributes.backend_data
    assert found.backend_v6_data == attributes.backend_v6_data
    assert (found.backend_type or "udp") == attributes.backend_type


def test_an_address_that_the_operator_overwrites_is_published() -> None:
    there = {PREFIX + "public-ip-overwrite": "203.0.113.9"}
    attributes = LeaseAttributes(V4, None, "vxlan", VXLAN)
    assert format_attributes(attributes, there, NAMES)[PREFIX + "public-ip"] == "203.0.113.9"
    assert overwritten(attributes, there, NAMES).public_ip == IPv4Address("203.0.113.9")
    with pytest.raises(BrokenObjectError, match="public-ip-overwrite is 'banana'"):
        overwritten(attributes, {PREFIX + "public-ip-overwrite": "banana"}, NAMES)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/blue", "flannel.alpha.coreos.com/blue-backend-type"),
        ("flannel.alpha.coreos.com/blue-", "flannel.alpha.coreos.com/blue-backend-type"),
    ],
)
def test_the_prefix_follows_flannels_rules(prefix: str, name: str) -> None:
    assert annotation_names(prefix).backend_type == name


@pytest.mark.parametrize("prefix", ["flannel", "a.b/c/d", "Flannel.Com", "a.b/c d", ""])
def test_another_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(KubeSettingsError, match="kube-annotation-prefix"):
        annotation_names(prefix)


def node(annotations: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a",
            "annotations": annotations,
            "creationTimestamp": "2026-11-26T10:00:00Z",
        },
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


CONFIG = parse_config('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
MANAGED = full(FLANNELS[0][1])


@pytest.mark.parametrize(
    "spec",
    [
        {"podCIDR": "10.244.0.0/24"},
        {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]},
        {"podCIDRs": ["fd00:1::/64", "10.244.0.0/24"]},  # the cluster has no IPv6
    ],
)
def test_a_nodes_lease(spec: dict[str, Any]) -> None:
    lease = lease_of(parse_node(node(MANAGED, **spec), NAMES), CONFIG, NAMES)
    assert lease is not None
    assert lease.key == "10.244.0.0-24"
    assert lease.attributes == FLANNELS[0][0]
    assert lease.since == 1795687200


@pytest.mark.parametrize(
    "item",
    [
        node({}, podCIDR="10.244.0.0/24"),
        node({**MANAGED, PREFIX + "kube-subnet-manager": "false"}, podCIDR="10.244.0.0/24"),
        node(MANAGED),
        {"metadata": {"name": "a", "annotations": "none"}, "spec": None},
    ],
)
def test_a_node_that_is_no_peer(item: dict[str, Any]) -> None:
    assert lease_of(parse_node(item, NAMES), CONFIG, NAMES) is None


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        ("public-ip", "banana", "no IPv4 address"),
        ("public-ip", "fd00::1", "no IPv4 address"),
        ("public-ip", "", "no .*public-ip"),
        ("backend-data", "{", "not JSON"),
        ("backend-data", "[" * 8000, "not JSON"),
    ],
)
def test_broken_annotations_are_told(annotation: str, value: str, why: str) -> None:
    item = node({**MANAGED, PREFIX + annotation: value}, podCIDR="10.244.0.0/24")
    with pytest.raises(BrokenObjectError, match=why):
        lease_of(parse_node(item, NAMES), CONFIG, NAMES)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "node a has no IPv4 podCIDR: run kube-controller-manager with --allocate-node-cidrs"),
        ({"podCIDR": "10.5.0.0/24"}, "podCIDR 10.5.0.0/24 of node a lies outside of Network 10.2"),
    ],
)
def test_why_this_host_has_no_subnet(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(BrokenObjectError, match=why):
        own_subnets(parse_node(node({}, **spec), NAMES), CONFIG)


def test_the_first_subnet_of_the_network_is_a_nodes_too() -> None:
    found = own_subnets(parse_node(node({}, podCIDR="10.244.0.0/24"), NAMES), CONFIG)
    assert found == (ip_network("10.244.0.0/24"), None)
