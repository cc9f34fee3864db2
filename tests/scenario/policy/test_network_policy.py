# SPDX-License-Identifier: Apache-2.0
"""Network policies of a real API server, enforced on real packets of both families."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from tests.scenario.policy.policy_lab import (
    PolicyLab,
    alive,
    answers,
    connection,
    receives_datagrams,
)
from tests.scenario.services.echo_server import echo_server

Eventually = Callable[..., None]
On = Callable[..., str]
BACKENDS: list[dict[str, Any]] = [
    {"Type": "vxlan"},
    {"Type": "host-gw"},
    {"Type": "udp"},
    {"Type": "wireguard"},
    {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"},
]
DB, WEB, OTHER, FAR = "shop/db", "shop/web", "other/near", "other/far"
FROM_WEB = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}
CLIENTS = (WEB, OTHER, FAR, "h1", "h2")


@pytest.fixture(scope="module", autouse=True)
def pods(policy_lab: PolicyLab) -> Iterator[None]:
    for number in (1, 2):  # a host that wants no bridge tracked: those of pods are all the same
        for program in ("iptables", "ip6tables"):
            host = policy_lab.lab.names.host(number)
            setting = Path(f"/proc/sys/net/bridge/bridge-nf-call-{program}")
            run_in(NETNS_DIR / host, partial(setting.write_text, "0"))
    policy_lab.namespace("shop", team="a")
    policy_lab.namespace("other", team="b")
    policy_lab.make(1, DB, app="db")
    policy_lab.make(1, WEB, app="web")
    policy_lab.make(1, OTHER, app="web")
    policy_lab.make(2, FAR, app="web")
    with contextlib.ExitStack() as stack:
        for port in (8080, 8081):
            stack.enter_context(echo_server(policy_lab.netns(DB), port))
        stack.enter_context(echo_server(policy_lab.netns(FAR), 8080))
        yield


@pytest.fixture(autouse=True)
def no_policies(policy_lab: PolicyLab) -> Iterator[None]:
    yield
    for namespace in ("shop", "other"):
        policy_lab.remove_policies(namespace)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda one: one["Type"])
def test_a_policy_is_enforced_on_each_backend(
    policy_lab: PolicyLab, eventually: Eventually, backend: dict[str, Any]
) -> None:
    policy_lab.configure(**backend)
    kind = backend["Type"].replace("udp", "")
    eventually(
        lambda: {policy_lab.backend_of(n) for n in (1, 2)} == {kind}, "both say it", timeout=60
    )
    everybody = dict.fromkeys(CLIENTS, True)
    eventually(
        lambda: policy_lab.reach(DB, 8080, *CLIENTS) == everybody, "all reach it", timeout=60
    )
    # one rule by a label in the pod's namespace, one by a namespace's label and another port
    by_team = {"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}
    policy_lab.policy(
        "shop/db",
        podSelector={"matchLabels": {"app": "db"}},
        ingress=[
            {**FROM_WEB, "ports": [{"port": "http"}]},
            {**by_team, "ports": [{"port": 8081}]},
        ],
    )
    by_label = {WEB: True, OTHER: False, FAR: False, "h1": True, "h2": False}
    eventually(lambda: policy_lab.reach(DB, 8080, *CLIENTS) == by_label, "by label and name")
    by_namespace = {WEB: False, OTHER: True, FAR: True, "h1": True, "h2": False}
    eventually(lambda: policy_lab.reach(DB, 8081, *CLIENTS) == by_namespace, "by namespace")
    # what pods send, on the same bridge and to another host
    policy_lab.policy("other/out", policyTypes=["Egress"])
    eventually(lambda: policy_lab.blocked(DB, 8081, OTHER), "nothing goes out")
    replies = {DB: True, WEB: True}
    eventually(lambda: policy_lab.reach(FAR, 8080, DB, WEB) == replies, "replies go out")
    assert policy_lab.blocked(DB, 8081, FAR)


def test_an_open_connection_lives_as_long_as_it_is_allowed(
    policy_lab: PolicyLab, eventually: Eventually
) -> None:
    address = policy_lab.pods[DB].addresses[0]
    with (
        connection(policy_lab.netns(WEB), address, 8080) as near,
        connection(policy_lab.netns(FAR), address, 8080) as far,
    ):
        policy_lab.policy("shop/web", ingress=[FROM_WEB])
        eventually(lambda: policy_lab.blocked(DB, 8080, FAR), "the policy is in force")
        eventually(lambda: alive(near), "begun before the policy, and allowed by it")
        assert not alive(far), "not allowed any more"
        policy_lab.label(FAR, app="web", more="1")
        policy_lab.policy("shop/more", ingress=[{"ports": [{"port": 8081}]}])
        eventually(lambda: not policy_lab.blocked(DB, 8081, FAR), "another policy")
        eventually(lambda: alive(near), "as before")
        policy_lab.label(WEB, app="no")
        eventually(lambda: policy_lab.blocked(DB, 8080, WEB), "its label is another")
        assert not alive(near)
        policy_lab.label(WEB, app="web")
        eventually(lambda: not policy_lab.blocked(DB, 8080, WEB), "its label is back")


def test_a_new_pod_is_closed_before_its_first_packet(
    policy_lab: PolicyLab, eventually: Eventually, on: On
) -> None:
    policy_lab.policy("shop/deny", policyTypes=["Ingress", "Egress"])
    eventually(lambda: policy_lab.blocked(DB, 8080, WEB), "the policy is in force")
    policy_lab.declare(1, "shop/new", app="new")
    pod = policy_lab.attach(1, "shop/new")  # its addresses are nowhere but on its host
    listing = on(policy_lab.lab.names.host(1), "nft list map inet flatmesh_policy ingress4")
    assert f"{pod.addresses[0]} : goto pods_ingress_" in listing, "when the ADD has ended"
    assert policy_lab.blocked(DB, 8080, "shop/new")
    # one that the API server has not told of is closed in time, and not for ever
    unknown = policy_lab.attach(2, "shop/late")
    listing = on(policy_lab.lab.names.host(2), "nft list map inet flatmesh_policy egress4")
    assert f"{unknown.addresses[0]} : goto refused_egress" in listing
    policy_lab.declare(2, "shop/late", app="late")
    policy_lab.remove_policies("shop")
    eventually(lambda: policy_lab.reach(DB, 8080, "shop/late")["shop/late"], "it is open now")


@pytest.mark.parametrize("way", ["broadcast", "multicast", "multicast6", "link-local"])
def test_a_policy_holds_for_packets_that_do_not_name_the_pod(
    policy_lab: PolicyLab, eventually: Eventually, on: On, way: str
) -> None:
    sender, receiver = policy_lab.netns(OTHER), policy_lab.netns(DB)
    local = on(receiver, "ip -6 -br addr show dev eth0 scope link").split()[2].partition("/")[0]
    target = {
        "broadcast": "255.255.255.255",
        "multicast": "224.0.0.1",
        "multicast6": "ff02::1%eth0",
        "link-local": f"{local}%eth0",
    }[way]
    large = policy_lab.pods[DB].addresses["6" in way or way == "link-local"]
    eventually(lambda: receives_datagrams(sender, receiver, target), "it arrives without a policy")
    eventually(lambda: receives_datagrams(sender, receiver, large, 4000), "so do fragments")
    policy_lab.policy("shop/deny")
    eventually(lambda: policy_lab.blocked(DB, 8080, OTHER), "the policy is in force")
    assert not receives_datagrams(sender, receiver, target)
    assert not receives_datagrams(sender, receiver, large, 4000), "in fragments"


def test_a_service_is_asked_about_by_its_endpoint(
    policy_lab: PolicyLab, eventually: Eventually, on: On
) -> None:
    host, (v4, v6) = policy_lab.lab.names.host(1), policy_lab.pods[DB].addresses
    services = {"10.96.0.1": f"ip to {v4}:8080", "fd96::1": f"ip6 to [{v6}]:8080"}
    on(host, "nft add table inet kube")  # as kube-proxy translates
    on(host, "nft add chain inet kube pre { type nat hook prerouting priority -100; }")
    on(host, "nft add chain inet kube post { type nat hook postrouting priority 100; }")
    for ip, address in zip(("ip", "ip6"), services, strict=True):
        to = f"{ip} daddr {address} tcp dport 80"
        on(host, f"nft add rule inet kube pre {to} dnat {services[address]}")
        own = policy_lab.pods[DB].addresses[ip == "ip6"]
        on(host, f"nft add rule inet kube post {ip} saddr {own} {ip} daddr {own} masquerade")

    def reached(client: str) -> set[bool]:
        return {answers(policy_lab.netns(client), address, 80) for address in services}

    try:
        for client in (DB, WEB, OTHER):
            eventually(lambda one=client: reached(one) == {True}, f"{client} without a policy")
        policy_lab.policy("shop/web", ingress=[{**FROM_WEB, "ports": [{"port": 8080}]}])
        eventually(lambda: reached(OTHER) == {False}, "the policy is in force")
        eventually(lambda: reached(WEB) == {True}, "the endpoint's port is allowed")
        eventually(lambda: reached(DB) == {True}, "a pod reaches itself")
    finally:
        on(host, "nft delete table inet kube")


def test_a_policy_holds_on_another_bridge(policy_lab: PolicyLab, eventually: Eventually) -> None:
    for key in ("shop/server", "shop/client"):
        policy_lab.declare(1, key, app=key.partition("/")[2])
        policy_lab.attach(1, key, bridge="br7", isGateway=False, isDefaultGateway=False)
    with echo_server(policy_lab.netns("shop/server"), 8080):
        reached = partial(policy_lab.reach, "shop/server", 8080, "shop/client")
        eventually(lambda: all(reached().values()), "open")
        policy_lab.policy("shop/deny", podSelector={"matchLabels": {"app": "server"}})
        eventually(lambda: policy_lab.blocked("shop/server", 8080, "shop/client"), "closed")


def test_a_pod_that_is_made_without_the_daemon_is_closed_until_it_runs(
    policy_lab: PolicyLab, eventually: Eventually
) -> None:
    daemon = policy_lab.daemon(1)
    daemon.stop()
    policy_lab.declare(1, "shop/alone", app="alone")
    policy_lab.attach(1, "shop/alone")
    assert policy_lab.blocked(FAR, 8080, "shop/alone")
    daemon.start()
    eventually(lambda: policy_lab.reach(FAR, 8080, "shop/alone")["shop/alone"], "open", timeout=60)
    daemon.wait_ready()


def test_what_others_take_from_the_table_comes_back(
    policy_lab: PolicyLab, eventually: Eventually, on: On
) -> None:
    policy_lab.policy("shop/deny")
    eventually(lambda: policy_lab.blocked(DB, 8080, WEB), "the policy is in force")
    host = policy_lab.lab.names.host(1)
    for command in (
        "nft delete table inet flatmesh_policy",
        "nft insert rule inet flatmesh_policy ingress accept",
        "nft flush map inet flatmesh_policy ingress4",
    ):
        on(host, command)
        eventually(lambda: policy_lab.blocked(DB, 8080, WEB), f"mended after {command}")
    listing = on(host, "nft list chain inet flatmesh_policy ingress")
    assert "\t\taccept\n" not in listing


def test_policies_stay_while_the_api_server_or_the_daemon_is_away(
    policy_lab: PolicyLab, eventually: Eventually
) -> None:
    policy_lab.policy("shop/web", ingress=[FROM_WEB])
    eventually(lambda: policy_lab.blocked(DB, 8080, FAR), "the policy is in force")
    policy_lab.server.stop()
    daemon = policy_lab.daemon(1)
    daemon.stop()
    expected = {WEB: True, OTHER: False, FAR: False}
    eventually(lambda: policy_lab.reach(DB, 8080, *expected) == expected, "without both")
    daemon.start()
    eventually(lambda: policy_lab.reach(DB, 8080, *expected) == expected, "no policy is known yet")
    policy_lab.server.start()
    daemon.wait_ready()
    policy_lab.remove_policies("shop")
    eventually(lambda: not policy_lab.blocked(DB, 8080, FAR), "changes are heard again")
