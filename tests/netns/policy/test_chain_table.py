# SPDX-License-Identifier: Apache-2.0
"""A table of policies in a real kernel: read back, changed by its differences, mended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from hostnet.nft import chain_table
from hostnet.nft.chain_table import ChainTable, ChainTableSocket, changes
from policy.base_chains import PodNetwork
from policy.model import EVERYTHING, Policy, PolicyChanges, Ports, Rule
from policy.table import PolicyTable
from tests.unit.policy.examples import block, group, known, labels, pod

NETWORK = PodNetwork((ip_network("10.5.1.0/24"), ip_network("fd00:5:1::/64")))
PEERS = (
    group("shop", app="web"),
    group(namespaces=labels(team="b")),
    block("192.0.2.0/24", "192.0.2.128/25"),
    block("fd00::/16", "fd00:9::/32"),
)
PORTS = (Ports("tcp", 80, 80), Ports("udp", 53, 60), Ports("tcp", name="http"), Ports("sctp"))
REPLACED = "delete table inet flatmesh_policy; add table inet flatmesh_policy; "
ALLOWED = Rule(PEERS, PORTS)


def nft(netns: str, *words: str) -> str:
    command = ["ip", "netns", "exec", netns, "nft", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def policies() -> PolicyTable:
    table = PolicyTable("here", NETWORK)
    pods = [pod(f"shop/p{n}", f"10.5.1.{n} fd00:5:1::{n:x}", app="web") for n in range(2, 40)]
    policy = Policy("shop", "p", EVERYTHING, (ALLOWED,), (ALLOWED, Rule()))
    table.take(known(pods, [policy], shop={"team": "a"}, test={"team": "b"}))
    table.attach({ip_address("10.5.1.99"): "shop/new"})
    return table


@pytest.fixture
def kernel(netns: str) -> Iterator[ChainTableSocket]:
    opened = ChainTableSocket(netns)
    yield opened
    opened.close()


def mend(kernel: ChainTableSocket, wanted: ChainTable) -> int:
    """Make it so; how many transactions that took."""
    todo = changes(kernel.read(wanted), wanted)
    kernel.apply(todo)
    assert changes(kernel.read(wanted), wanted) == []
    return len(todo)


def test_what_was_written_is_read_back_and_listed(kernel: ChainTableSocket, netns: str) -> None:
    wanted = policies().wanted()
    assert kernel.read(wanted) is None
    assert mend(kernel, wanted) == 1
    listing = nft(netns, "list", "table", "inet", "flatmesh_policy")
    for words in (
        "udp dport 53-60 jump ingress_",
        "ip saddr 192.0.2.0/24 jump block_",
        "ip daddr . meta l4proto . tcp dport @ports4_",
        "10.5.1.99 : goto refused_ingress",
        'comment "shop: app=web"',
        "ip6 saddr . ip6 daddr @self6 accept",
        'counter name "refused_egress" drop',
    ):
        assert words in listing
    kernel.delete(*wanted.key)
    assert kernel.read(wanted) is None
    kernel.delete(*wanted.key)


def test_a_change_sends_only_what_differs(kernel: ChainTableSocket) -> None:
    table = policies()
    before = table.wanted()
    mend(kernel, before)
    table.take(known([pod("shop/p2", "10.5.1.2 fd00:5:1::2", app="other")]))
    after = table.wanted()
    (todo,) = changes(before, after)
    assert len(todo) == 2, "an element of each family's set"
    kernel.apply([todo])
    assert changes(kernel.read(after), after) == []
    table.take(PolicyChanges(policies={"shop/p": None}))
    last = table.wanted()
    kernel.apply(changes(after, last))
    assert changes(kernel.read(last), last) == []


@pytest.mark.parametrize(
    "command",
    [
        "delete table inet flatmesh_policy",
        "flush table inet flatmesh_policy",
        "flush chain inet flatmesh_policy egress",
        "flush map inet flatmesh_policy ingress4",
        "delete element inet flatmesh_policy ingress4 { 10.5.1.2 }",
        "add element inet flatmesh_policy self4 { 10.9.9.9 . 10.9.9.8 }",
        "insert rule inet flatmesh_policy ingress accept",
        "insert rule inet flatmesh_policy refused_ingress accept",
        "add chain inet flatmesh_policy other { type filter hook input priority 0; }",
        "add set inet flatmesh_policy other { type ipv4_addr; }",
        REPLACED
        + "add chain inet flatmesh_policy ingress { type filter hook forward priority 0; }",
        REPLACED + "add set inet flatmesh_policy self4 { type ipv6_addr; }",
    ],
)
def test_what_others_change_is_mended(kernel: ChainTableSocket, netns: str, command: str) -> None:
    wanted = policies().wanted()
    mend(kernel, wanted)
    for one in command.split("; a"):
        nft(netns, one if one.startswith(("delete", "flush", "add", "insert")) else f"a{one}")
    assert mend(kernel, wanted) == 1


def test_many_elements_go_in_several_transactions(
    kernel: ChainTableSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_table, "MAX_TRANSACTION", 20)
    assert mend(kernel, policies().wanted()) > 3
