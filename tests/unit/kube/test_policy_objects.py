# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy, Pod and Namespace, as the API server writes them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kube.errors import BrokenObjectError
from kube.policy_objects import parse_namespace, parse_pod, parse_policy
from policy.model import EVERYTHING, Block, PodGroup, Ports, Requirement, Rule, Selector

WEB = Selector((("app", "web"),))


def policy(**spec: Any) -> Any:
    about = {"namespace": "shop", "name": "p"}
    return parse_policy({"metadata": about, "spec": {"podSelector": {}, **spec}})


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        ({"policyTypes": ["Ingress"]}, (), None),
        ({"policyTypes": ["Egress"]}, None, ()),
        ({"egress": [{}]}, (), (Rule(),)),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"ingress": [{"from": [], "ports": []}]}, (Rule(),), None),
    ],
)
def test_the_directions_that_a_policy_is_about(spec: Any, ingress: Any, egress: Any) -> None:
    found = policy(**spec)
    assert (found.ingress, found.egress) == (ingress, egress)


PEERS: list[tuple[Any, Any]] = [
    ({"podSelector": {}}, PodGroup(EVERYTHING, "shop")),
    ({"podSelector": {"matchLabels": {"app": "web"}}}, PodGroup(WEB, "shop")),
    ({"namespaceSelector": {}}, PodGroup(EVERYTHING, "", EVERYTHING)),
    (
        {"namespaceSelector": {"matchLabels": {"app": "web"}}, "podSelector": {}},
        PodGroup(EVERYTHING, "", WEB),
    ),
    (
        {
            "podSelector": {
                "matchExpressions": [
                    {"key": "a", "operator": "NotIn", "values": ["x", "y"]},
                    {"key": "b", "operator": "Exists"},
                ]
            }
        },
        PodGroup(
            Selector((), (Requirement("a", "NotIn", frozenset("xy")), Requirement("b", "Exists"))),
            "shop",
        ),
    ),
    (
        {"ipBlock": {"cidr": "192.0.2.1/24", "except": ["192.0.2.128/25"]}},
        Block(ip_network("192.0.2.0/24"), (ip_network("192.0.2.128/25"),)),
    ),
    ({"ipBlock": {"cidr": "2001:db8::/32"}}, Block(ip_network("2001:db8::/32"))),
]


@pytest.mark.parametrize(("item", "peer"), PEERS)
def test_peers(item: Any, peer: Any) -> None:
    assert policy(ingress=[{"from": [item]}]).ingress == (Rule((peer,)),)
    assert policy(policyTypes=["Egress"], egress=[{"to": [item]}]).egress == (Rule((peer,)),)


@pytest.mark.parametrize(
    ("item", "ports"),
    [
        ({}, Ports("tcp")),
        ({"protocol": "SCTP"}, Ports("sctp")),
        ({"port": 80}, Ports("tcp", 80, 80)),
        ({"port": 80, "endPort": 90, "protocol": "UDP"}, Ports("udp", 80, 90)),
        ({"port": "http"}, Ports("tcp", name="http")),
    ],
)
def test_ports(item: Any, ports: Ports) -> None:
    assert policy(ingress=[{"ports": [item]}]).ingress == (Rule(None, (ports,)),)


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{}]},
        {"from": [{"ipBlock": {"cidr": "x"}}]},
        {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]},
        {"from": "everybody"},
        {"ports": [{"port": 80, "endPort": 79}]},
        {"ports": [{"protocol": "ICMP"}]},
    ],
)
def test_a_rule_that_is_not_understood_opens_nothing(rule: Any) -> None:
    assert policy(ingress=[{}, rule]).ingress == ()


def test_a_policy_whose_pods_are_not_understood_isolates_all_of_its_namespace() -> None:
    found = policy(podSelector={"matchLabels": 1}, ingress=[{}])
    assert (found.subjects, found.ingress, found.egress) == (EVERYTHING, (), ())


def test_pods() -> None:
    item: dict[str, Any] = {
        "metadata": {"namespace": "shop", "name": "web", "labels": {"app": "web"}},
        "spec": {
            "nodeName": "n1",
            "containers": [
                {"ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]},
                {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            ],
        },
        "status": {"podIP": "10.5.1.2", "podIPs": [{"ip": "10.5.1.2"}, {"ip": "fd00::2"}]},
    }
    found = parse_pod(item)
    assert (found.key, found.labels, found.node) == ("shop/web", {"app": "web"}, "n1")
    assert found.addresses == (ip_address("10.5.1.2"), ip_address("fd00::2"))
    assert found.ports == (("http", "tcp", 80), ("dns", "udp", 53))
    del item["status"]["podIPs"]
    assert parse_pod(item).addresses == (ip_address("10.5.1.2"),)
    item["spec"]["hostNetwork"] = True
    assert parse_pod(item).addresses == (), "its address is its host's"
    item["spec"]["hostNetwork"], item["status"]["podIP"] = False, "x"
    with pytest.raises(BrokenObjectError, match="'x' is no address"):
        parse_pod(item)


def test_namespaces() -> None:
    found = parse_namespace({"metadata": {"name": "shop", "labels": {"team": "a"}}})
    assert (found.name, found.labels) == ("shop", {"team": "a"})
