# SPDX-License-Identifier: Apache-2.0
"""Network policies of pods that are ports of Open vSwitch, in each mesh, both families."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.scenario.policy.policy_lab import PolicyLab, alive, connection, receives_datagrams
from tests.scenario.services.echo_server import echo_server

Eventually = Callable[..., None]
DB, WEB, OTHER, FAR = "shop/db", "shop/web", "other/near", "other/far"
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
CLIENTS = (WEB, OTHER, FAR, "h1")


@pytest.fixture(scope="module", autouse=True)
def pods(switch_lab: PolicyLab) -> Iterator[None]:
    switch_lab.namespace("shop", team="a")
    switch_lab.namespace("other", team="b")
    switch_lab.make(1, DB, app="db")
    switch_lab.make(1, WEB, app="web")
    switch_lab.make(1, OTHER, app="web")
    switch_lab.make(2, FAR, app="web")
    with contextlib.ExitStack() as stack:
        for port in (8080, 8081):
            stack.enter_context(echo_server(switch_lab.netns(DB), port))
        stack.enter_context(echo_server(switch_lab.netns(FAR), 8080))
        yield


@pytest.fixture(autouse=True)
def no_policies(switch_lab: PolicyLab) -> Iterator[None]:
    yield
    for namespace in ("shop", "other"):
        switch_lab.remove_policies(namespace)


@pytest.mark.parametrize("mesh", ["flow", "static"])
def test_a_policy_is_enforced_in_each_mesh(
    switch_lab: PolicyLab, eventually: Eventually, mesh: str
) -> None:
    switch_lab.configure(Type="ovs", Tunnel="gre", Mesh=mesh, PodAttach="obr0")
    everybody = dict.fromkeys(CLIENTS, True)
    eventually(
        lambda: switch_lab.reach(DB, 8080, *CLIENTS) == everybody, "all reach it", timeout=60
    )
    by_team = {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}
    switch_lab.policy(
        "shop/db",
        podSelector={"matchLabels": {"app": "db"}},
        ingress=[
            {**FROM_WEB, "ports": [{"port": "http"}]},
            {**by_team, "ports": [{"port": 8081}]},
        ],
    )
    by_label = {WEB: True, OTHER: False, FAR: False, "h1": True}
    eventually(lambda: switch_lab.reach(DB, 8080, *CLIENTS) == by_label, "by label and name")
    by_namespace = {WEB: False, OTHER: True, FAR: True, "h1": True}
    eventually(lambda: switch_lab.reach(DB, 8081, *CLIENTS) == by_namespace, "by namespace")
    switch_lab.policy("other/out", policyTypes=["Egress"])
    eventually(lambda: switch_lab.blocked(DB, 8081, OTHER), "nothing goes out")
    replies = {DB: True, WEB: True}
    eventually(lambda: switch_lab.reach(FAR, 8080, DB, WEB) == replies, "replies go out")
    assert switch_lab.blocked(DB, 8081, FAR)


def test_an_open_connection_lives_as_long_as_it_is_allowed(
    switch_lab: PolicyLab, eventually: Eventually
) -> None:
    address = switch_lab.pods[DB].addresses[0]
    with (
        connection(switch_lab.netns(WEB), address, 8080) as near,
        connection(switch_lab.netns(FAR), address, 8080) as far,
    ):
        switch_lab.policy("shop/web", ingress=[FROM_WEB])
        eventually(lambda: switch_lab.blocked(DB, 8080, FAR), "the policy is in force")
        eventually(lambda: alive(near), "begun before the policy, and allowed by it")
        assert not alive(far), "not allowed any more"
        switch_lab.label(WEB, app="no")
        eventually(lambda: switch_lab.blocked(DB, 8080, WEB), "its label is another")
        assert not alive(near)
        switch_lab.label(WEB, app="web")
        eventually(lambda: not switch_lab.blocked(DB, 8080, WEB), "its label is back")


def test_a_new_pod_is_closed_before_its_first_packet(
    switch_lab: PolicyLab, eventually: Eventually
) -> None:
    switch_lab.policy("shop/deny", policyTypes=["Ingress", "Egress"])
    eventually(lambda: switch_lab.blocked(DB, 8080, WEB), "the policy is in force")
    switch_lab.declare(1, "shop/new", app="new")
    pod = switch_lab.attach(1, "shop/new")
    with echo_server(pod.netns, 8080):
        assert switch_lab.blocked("shop/new", 8080, OTHER)
        assert switch_lab.blocked(FAR, 8080, "shop/new")
        local = switch_lab.netns(OTHER), pod.netns, pod.addresses[0]
        assert not receives_datagrams(*local), "UDP"
        assert not receives_datagrams(*local, 4000), "in fragments"
        switch_lab.remove_policies("shop")
        eventually(lambda: not switch_lab.blocked("shop/new", 8080, OTHER), "it is open now")
        eventually(lambda: receives_datagrams(*local, 4000), "fragments arrive")


def test_policies_stay_while_the_daemon_starts_without_the_api_server(
    switch_lab: PolicyLab, eventually: Eventually
) -> None:
    switch_lab.policy("shop/web", ingress=[FROM_WEB])
    eventually(lambda: switch_lab.blocked(DB, 8080, FAR), "the policy is in force")
    switch_lab.server.stop()
    daemon = switch_lab.daemon(1)
    daemon.stop()
    daemon.start()
    expected = {WEB: True, OTHER: False, FAR: False}
    eventually(lambda: switch_lab.reach(DB, 8080, *expected) == expected, "as before")
    switch_lab.server.start()
    daemon.wait_ready()
    eventually(lambda: switch_lab.reach(DB, 8080, *expected) == expected, "as before")
    switch_lab.remove_policies("shop")
    eventually(lambda: not switch_lab.blocked(DB, 8080, FAR), "changes are heard again")
