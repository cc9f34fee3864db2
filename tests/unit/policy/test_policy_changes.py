# SPDX-License-Identifier: Apache-2.0
"""Whatever changes in whatever order: the table is that of who is told everything at once."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hostnet.nft.chain_table import ChainTable, changes
from policy.model import (
    EVERYTHING,
    Block,
    IPAddress,
    Namespace,
    Pod,
    PodGroup,
    Policy,
    PolicyChanges,
    Ports,
    Requirement,
    Rule,
    Selector,
)
from policy.table import PolicyTable
from tests.unit.policy.examples import block

SPACES, NAMES = ("x", "y"), ("a", "b", "c")
VALUES = st.sampled_from(("1", "2"))
LABELS = st.dictionaries(st.sampled_from(("k", "l")), VALUES)
SELECTORS = st.one_of(
    st.just(EVERYTHING),
    LABELS.map(lambda labels: Selector(tuple(sorted(labels.items())))),
    st.builds(
        lambda operator, value: Selector((), (Requirement("k", operator, frozenset(value)),)),
        st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist")),
        VALUES,
    ),
)
SPACE = st.sampled_from(SPACES)
PEERS: st.SearchStrategy[PodGroup | Block] = st.one_of(
    st.builds(PodGroup, SELECTORS, SPACE),
    st.builds(PodGroup, SELECTORS, st.just(""), SELECTORS),
    st.sampled_from((block("10.5.0.0/16", "10.5.1.4/30"), block("192.0.2.0/24"))),
)
PORTS = st.sampled_from((Ports("tcp", 80, 80), Ports("udp", 5, 9), Ports("tcp", name="http")))
RULES = st.builds(
    Rule,
    st.none() | st.lists(PEERS, max_size=2).map(tuple),
    st.none() | st.lists(PORTS, max_size=2).map(tuple),
)
SIDES = st.none() | st.lists(RULES, max_size=2).map(tuple)
ADDRESSES = st.sets(st.integers(2, 9), max_size=2).map(
    lambda found: tuple(IPv4Address(f"10.5.1.{n}") for n in sorted(found))
)
NODES = st.sampled_from(("here", "there"))
PODS = st.builds(
    lambda space, name, labels, addresses, node, number: Pod(
        space, name, labels, addresses, node, (("http", "tcp", number),)
    ),
    *(SPACE, st.sampled_from(NAMES), LABELS, ADDRESSES, NODES, st.sampled_from((80, 8080))),
)
POLICIES = st.builds(Policy, SPACE, st.sampled_from(NAMES), SELECTORS, SIDES, SIDES)
KEYS = st.builds(lambda space, name: f"{space}/{name}", SPACE, st.sampled_from(NAMES))
ATTACHED = st.dictionaries(
    st.integers(2, 9).map(lambda n: ip_address(f"10.5.1.{n}")), KEYS | st.just(""), max_size=3
)
STEPS = st.one_of(
    PODS.map(lambda pod: PolicyChanges(pods={pod.key: pod})),
    KEYS.map(lambda key: PolicyChanges(pods={key: None})),
    POLICIES.map(lambda policy: PolicyChanges(policies={policy.key: policy})),
    KEYS.map(lambda key: PolicyChanges(policies={key: None})),
    st.builds(lambda s, labels: PolicyChanges(namespaces={s: Namespace(s, labels)}), SPACE, LABELS),
    SPACE.map(lambda name: PolicyChanges(namespaces={name: None})),
    ATTACHED,
)


def same(one: ChainTable, other: ChainTable) -> bool:
    return changes(one, other) == [] and changes(other, one) == []


@settings(deadline=None, max_examples=200)
@given(st.lists(STEPS, max_size=12))
def test_changes_lead_where_the_whole_leads(steps: list[object]) -> None:
    followed = PolicyTable("here")
    policies: dict[str, Policy | None] = {}
    pods: dict[str, Pod | None] = {}
    namespaces: dict[str, Namespace | None] = {}
    attached: dict[IPAddress, str] = {}
    for step in steps:
        if isinstance(step, PolicyChanges):
            followed.take(step)
            policies |= step.policies
            pods |= step.pods
            namespaces |= step.namespaces
        elif isinstance(step, dict):
            attached = step
            followed.attach(attached)
        followed.wanted()
        followed.isolation()
    assume(not followed.ended)  # who is told everything at once does not know of these
    whole = PolicyTable("here")
    told = PolicyChanges(
        {key: one for key, one in policies.items() if one is not None},
        {key: one for key, one in pods.items() if one is not None},
        {key: one for key, one in namespaces.items() if one is not None},
        whole=True,
    )
    whole.take(told)
    whole.attach(attached)
    assert same(followed.wanted(), whole.wanted())
    assert followed.isolation() == whole.isolation()
    again = PolicyTable("here")
    again.attach(attached)  # the other way round
    again.take(told)
    assert same(followed.wanted(), again.wanted())
