# SPDX-License-Identifier: Apache-2.0
"""Which packets policies let through: one row for each sentence of Kubernetes' description."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from policy.base_chains import PodNetwork
from policy.model import EVERYTHING, Policy, PolicyChanges, Ports, Requirement, Rule, Selector
from policy.rules import MAX_RULES
from policy.table import PolicyTable
from tests.unit.policy.examples import (
    Packet,
    block,
    group,
    known,
    labels,
    passes,
    passes_switch,
    pod,
)

DB, WEB, OTHER, FAR = "10.5.1.2", "10.5.1.3", "10.5.1.4", "10.5.2.2"
PODS = [
    pod("shop/db", f"{DB} fd00:5:1::2", app="db"),
    pod("shop/web", f"{WEB} fd00:5:1::3", app="web"),
    pod("test/other", f"{OTHER} fd00:5:1::4", app="web"),
    pod("test/far", f"{FAR} fd00:5:2::2", node="there", app="far"),
]
NETWORK = PodNetwork((ip_network("10.5.1.0/24"), ip_network("fd00:5:1::/64")))
ANY = EVERYTHING


def table(*policies: Policy) -> PolicyTable:
    made = PolicyTable("here", NETWORK)
    made.take(known(PODS, policies, shop={"team": "a"}, test={"team": "b"}))
    return made


def ingress(*rules: Rule, subjects: Selector | None = None, namespace: str = "shop") -> Policy:
    return Policy(namespace, "p", labels(app="db") if subjects is None else subjects, rules)


def egress(*rules: Rule) -> Policy:
    return Policy("shop", "p", labels(app="web"), None, rules)


def peers(*some: object) -> Rule:
    return Rule(some)  # type: ignore[arg-type]


def ports(*some: Ports) -> Rule:
    return Rule(None, some)


CASES: dict[str, tuple[Policy, dict[Packet, bool]]] = {
    "not selected, open": (
        ingress(subjects=labels(app="nobody")),
        {Packet(OTHER, DB): True, Packet("192.0.2.1", DB): True},
    ),
    "default deny ingress": (
        ingress(subjects=ANY),
        {Packet(OTHER, DB): False, Packet("192.0.2.1", WEB): False, Packet(DB, FAR): True},
    ),
    "a policy is of its namespace alone": (
        ingress(subjects=ANY, namespace="test"),
        {Packet(OTHER, DB): True, Packet(DB, OTHER): False},
    ),
    "default deny egress": (
        egress(),
        {Packet(WEB, DB): False, Packet(WEB, "192.0.2.1"): False, Packet(OTHER, WEB): True},
    ),
    "podSelector is of the policy's namespace": (
        ingress(peers(group("shop", app="web"))),
        {
            Packet(WEB, DB): True,
            Packet(OTHER, DB): False,
            Packet("fd00:5:1::3", "fd00:5:1::2"): True,
        },
    ),
    "namespaceSelector is all of its pods": (
        ingress(peers(group(namespaces=labels(team="b")))),
        {Packet(OTHER, DB): True, Packet(FAR, DB): True, Packet(WEB, DB): False},
    ),
    "both are one condition": (
        ingress(peers(group(namespaces=labels(team="b"), app="web"))),
        {Packet(OTHER, DB): True, Packet(FAR, DB): False, Packet(WEB, DB): False},
    ),
    "two peers are two ways": (
        ingress(peers(group("shop", app="web"), group(namespaces=labels(team="b")))),
        {Packet(OTHER, DB): True, Packet(FAR, DB): True, Packet(WEB, DB): True},
    ),
    "ipBlock less a part of it": (
        ingress(peers(block("192.0.2.0/24", "192.0.2.64/26", "192.0.2.1/32"))),
        {
            Packet("192.0.2.2", DB): True,
            Packet("192.0.2.1", DB): False,
            Packet("192.0.2.65", DB): False,
            Packet("192.0.2.128", DB): True,
            Packet("198.51.100.1", DB): False,
        },
    ),
    "a block that excepts what another has": (
        ingress(peers(block("192.0.2.0/24", "192.0.2.64/26"), block("192.0.2.65/32"))),
        {Packet("192.0.2.65", DB): True, Packet("192.0.2.66", DB): False},
    ),
    "ipBlock of IPv6": (
        ingress(peers(block("2001:db8::/32", "2001:db8:1::/48"))),
        {
            Packet("2001:db8::1", "fd00:5:1::2"): True,
            Packet("2001:db8:1::1", "fd00:5:1::2"): False,
            Packet("192.0.2.1", DB): False,
        },
    ),
    "everything": (ingress(Rule()), {Packet("192.0.2.1", DB): True, Packet(OTHER, DB): True}),
    "nobody": (ingress(Rule(())), {Packet("192.0.2.1", DB): False}),
    "a port by number": (
        ingress(ports(Ports("tcp", 80, 80))),
        {Packet(OTHER, DB): True, Packet(OTHER, DB, "udp"): False, Packet(WEB, DB, port=81): False},
    ),
    "a range of ports": (
        ingress(ports(Ports("udp", 1000, 2000))),
        {
            Packet(OTHER, DB, "udp", 1000): True,
            Packet(OTHER, DB, "udp", 2000): True,
            Packet(OTHER, DB, "udp", 2001): False,
            Packet(OTHER, DB, "tcp", 1500): False,
        },
    ),
    "a protocol": (
        ingress(ports(Ports("sctp"))),
        {Packet(OTHER, DB, "sctp", 9): True, Packet(OTHER, DB): False},
    ),
    "a port by name is the subject's": (
        ingress(ports(Ports("tcp", name="http"))),
        {Packet(OTHER, DB, port=8080): True, Packet(OTHER, DB, port=80): False},
    ),
    "a port by name is the peer's on the way out": (
        egress(Rule((group("shop", app="db"),), (Ports("tcp", name="http"),))),
        {Packet(WEB, DB, port=8080): True, Packet(WEB, OTHER, port=8080): False},
    ),
    "a port by name of nobody": (
        ingress(ports(Ports("tcp", name="gone"))),
        {Packet(OTHER, DB, port=8080): False},
    ),
    "peers and ports are one condition": (
        ingress(Rule((group("shop", app="web"),), (Ports("tcp", 80, 80), Ports("udp", 53, 53)))),
        {
            Packet(WEB, DB): True,
            Packet(WEB, DB, "udp", 53): True,
            Packet(WEB, DB, port=443): False,
            Packet(OTHER, DB): False,
        },
    ),
    "egress to a group": (
        egress(peers(group("shop", app="db"))),
        {Packet(WEB, DB): True, Packet(WEB, FAR): False, Packet(DB, WEB): True},
    ),
    "a pod reaches itself": (ingress(subjects=ANY), {Packet(DB, DB): True}),
    "expressions": (
        ingress(
            peers(
                group(
                    namespaces=Selector(
                        (),
                        (
                            Requirement("team", "In", frozenset(("b", "c"))),
                            Requirement("team", "Exists"),
                            Requirement("gone", "DoesNotExist"),
                            Requirement("gone", "NotIn", frozenset("x")),
                        ),
                    )
                )
            )
        ),
        {Packet(OTHER, DB): True, Packet(WEB, DB): False},
    ),
    "too large a policy allows nothing": (
        ingress(peers(*(block(f"192.0.2.{n % 256}/32") for n in range(MAX_RULES + 1)))),
        {Packet("192.0.2.1", DB): False},
    ),
    "an address of the host's subnet that nobody is known to have": (
        ingress(subjects=labels(app="nobody")),
        {Packet(WEB, "10.5.1.99"): False, Packet("10.5.1.99", FAR): False, Packet(WEB, FAR): True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_selection(name: str) -> None:
    policy, packets = CASES[name]
    wanted = table(policy).wanted()
    assert {packet: passes(wanted, packet) for packet in packets} == packets


@pytest.mark.parametrize("name", [name for name in CASES if "host's subnet" not in name])
def test_selection_for_a_switch_is_the_same(name: str) -> None:
    policy, packets = CASES[name]
    made = table(policy)
    made.wanted()
    found = made.isolation()
    assert {packet: passes_switch(found, packet) for packet in packets} == packets


def test_policies_add_up() -> None:
    one = Policy("shop", "a", ANY, (peers(group("shop", app="web")),))
    other = Policy("shop", "b", labels(app="db"), (peers(block("192.0.2.0/24")),))
    wanted = table(one, other).wanted()
    assert passes(wanted, Packet(WEB, DB))
    assert passes(wanted, Packet("192.0.2.1", DB))
    assert not passes(wanted, Packet("192.0.2.1", WEB))
    assert not passes(wanted, Packet(OTHER, DB))


def test_what_changes_later_is_as_what_was_so_from_the_begin() -> None:
    policy = ingress(peers(group(namespaces=labels(team="b"), app="web")))
    made = table(policy)
    assert not passes(made.wanted(), Packet(WEB, DB))

    def after(changes: PolicyChanges, packet: Packet) -> bool:
        made.take(changes)
        return passes(made.wanted(), packet)

    assert after(known([], shop={"team": "b"}), Packet(WEB, DB)), "the namespace's label"
    assert not after(known([], shop={"team": "a"}), Packet(WEB, DB))
    assert after(known([pod("test/far", FAR, "there", app="web")]), Packet(FAR, DB)), "a pod's"
    assert not after(PolicyChanges(pods={"test/far": None}), Packet(FAR, DB)), "a pod is gone"
    assert not after(PolicyChanges(namespaces={"test": None}), Packet(OTHER, DB))
    assert after(known([], test={"team": "b"}), Packet(OTHER, DB))
    assert after(known([pod("shop/db", DB, app="no")]), Packet(FAR, DB)), "not selected any more"
    assert not after(known([pod("shop/db", DB, app="db")]), Packet(FAR, DB))
    assert after(PolicyChanges(policies={policy.key: None}), Packet(FAR, DB)), "the policy is gone"


def test_a_pod_that_was_made_here_is_closed_until_it_is_known() -> None:
    made = table(ingress(peers(group("shop", app="new"))))
    new, foreign = "10.5.1.9", "10.5.1.10"
    attached = {ip_address(new): "shop/new", ip_address(foreign): ""}
    made.attach(attached)
    wanted = made.wanted()
    assert not passes(wanted, Packet(FAR, new))
    assert not passes(wanted, Packet(new, FAR))
    assert passes(wanted, Packet(FAR, foreign)), "no pod of the source's"
    assert not passes(wanted, Packet(new, DB))
    made.take(known([pod("shop/new", "", app="new")]))
    wanted = made.wanted()
    assert passes(wanted, Packet(FAR, new))
    assert passes(wanted, Packet(new, DB)), "its address is known before the source tells it"


def test_a_pod_that_the_source_has_removed_keeps_its_policies_until_it_is_gone_here() -> None:
    policy = ingress(peers(group("shop", app="web")))
    made = table(policy)
    made.attach({ip_address(DB): "shop/db", ip_address(WEB): "shop/web"})
    made.take(PolicyChanges(pods={"shop/db": None}))
    wanted = made.wanted()
    assert passes(wanted, Packet(WEB, DB))
    assert not passes(wanted, Packet(OTHER, DB))
    made.take(PolicyChanges(policies={policy.key: None}))
    assert passes(made.wanted(), Packet(OTHER, DB)), "policies are followed all the same"
    made.take(known([], [policy]))
    made.take(PolicyChanges(pods={"shop/web": None}))
    assert not passes(made.wanted(), Packet(WEB, DB)), "it is nobody's peer"
    made.attach({})
    assert not made.ended
    assert not passes(made.wanted(), Packet(FAR, DB)), "an address that nobody has"


def test_an_address_is_the_pods_that_was_made_with_it_last() -> None:
    made = table(ingress(peers(group("shop", app="web"))))
    made.attach({ip_address(WEB): "shop/new"})
    made.take(known([pod("shop/new", "", app="other")]))
    assert not passes(made.wanted(), Packet(WEB, DB)), "shop/web had it, and has ended"


def test_equal_groups_share_one_set_and_names_are_the_same_in_every_process() -> None:
    rule = peers(group("shop", app="web"))
    wanted = table(ingress(rule), Policy("shop", "q", ANY, (rule,))).wanted()
    names = {one.name for one in wanted.sets}
    assert names == {"self4", "self6", "pods4_7f7d6ecbe50e", "pods6_7f7d6ecbe50e"}
