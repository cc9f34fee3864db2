# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import select
import subprocess
import sys
import threading
from typing import Any

import pytest

from hostnet.apply import plan_full, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.nft_table import NftTable
from hostnet.nft import tables as nftables
from hostnet.nft.counters import read_counters
from hostnet.nft.sets import NftElement, NftSet
from hostnet.state import HostState

BODY = """
set pods {
    type ipv4_addr
}
chain forward {
    type filter hook forward priority filter; policy accept;
    ip saddr 10.5.0.0/16 counter accept
    ip daddr 10.5.0.0/16 accept
}
chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 == 0x4000 return
    ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 oifname != "kbr0" masquerade fully-random
}
"""
TABLE = NftTable("inet", "flatmesh", BODY)
WANTED = HostState(tables=frozenset([TABLE]))


def nft(netns: str, command: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, "nft", command], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_table_is_made_once_and_recognised_afterwards(netns: str) -> None:
    with Kernel(netns) as kernel:
        assert reconcile(WANTED, kernel).failures == []
        assert reconcile(WANTED, kernel).changes == 0
    with Kernel(netns) as restarted:
        assert plan_full(WANTED, restarted).lines() == []
    assert "masquerade fully-random" in nft(netns, "list table inet flatmesh")


@pytest.mark.parametrize(
    "sabotage",
    [
        "delete table inet flatmesh",
        "flush chain inet flatmesh postrouting",
        "add rule inet flatmesh forward drop",
        "add element inet flatmesh pods { 10.5.76.2 }",
        "add chain inet flatmesh other",
        "add chain inet flatmesh forward { policy drop; }",
    ],
)
def test_drift_of_any_kind_is_put_right(netns: str, sabotage: str) -> None:
    with Kernel(netns) as kernel:
        reconcile(WANTED, kernel)
        nft(netns, sabotage)
        (line,) = plan_full(WANTED, kernel).lines()
        assert line.startswith("nft add table inet flatmesh ; flush table inet flatmesh ; table")
        assert reconcile(WANTED, kernel).failures == []
        assert plan_full(WANTED, kernel).lines() == []


def test_counters_are_no_drift(netns: str) -> None:
    with Kernel(netns) as kernel:
        table = NftTable(
            "inet",
            "flatmesh",
            "chain o {\n type filter hook output priority 0;\n counter packets 5 bytes 9\n}",
        )
        wanted = HostState(tables=frozenset([table]))
        reconcile(wanted, kernel)
        subprocess.run(
            ["ip", "netns", "exec", netns, "ping", "-c1", "-W1", "127.0.0.1"],
            capture_output=True,
            check=True,
        )
        assert "packets 5 " not in nft(netns, "list table inet flatmesh")
        assert plan_full(wanted, kernel).lines() == []


def test_unwanted_table_goes_and_those_of_others_stay(netns: str) -> None:
    nft(netns, "add table inet kube-proxy")
    nft(netns, "add table ip flatmesh")
    with Kernel(netns) as kernel:
        reconcile(WANTED, kernel)
        assert reconcile(HostState(), kernel).lines() == ["nft delete table inet flatmesh"]
    assert nftables.list_tables(netns) == {("inet", "kube-proxy"), ("ip", "flatmesh")}


def test_a_refused_table_leaves_the_old_one_and_says_why(netns: str) -> None:
    with Kernel(netns) as kernel:
        reconcile(WANTED, kernel)
        before = nft(netns, "list ruleset")
        broken = HostState(tables=frozenset([NftTable("inet", "flatmesh", "chain a { no such }")]))
        (failure,) = reconcile(broken, kernel).failures
    assert "syntax error" in str(failure)
    assert "\n" not in str(failure)
    assert nft(netns, "list ruleset") == before


PODS = NftSet("inet", "flatmesh", "pods", ("ipv4_addr",))
WITH_SET = HostState(
    [PODS],
    [NftElement(PODS, bytes([10, 5, 76, last])) for last in (2, 3)],
    [
        NftTable(
            "inet",
            "flatmesh",
            "chain forward {\n\ttype filter hook forward priority 0; policy accept;\n"
            "\tip saddr @pods accept\n}",
        )
    ],
)


def test_elements_are_added_and_deleted_singly_and_twice_is_no_change(netns: str) -> None:
    with Kernel(netns) as kernel:
        assert reconcile(WITH_SET, kernel).failures == []
        assert "10.5.76.2, 10.5.76.3" in nft(netns, "list set inet flatmesh pods")
        assert plan_full(WITH_SET, kernel).lines() == []
        (gone,) = {one for one in WITH_SET.of(NftElement) if one.element[3] == 2}
        fewer = WITH_SET.replacing(NftElement, WITH_SET.of(NftElement) - {gone})
        assert plan_full(fewer, kernel).lines() == [
            "nft delete element inet flatmesh pods { 10.5.76.2 }"
        ]
        part = HostState([gone])
        assert reconcile(HostState(), kernel, delta_of=part).failures == []
        listed = nft(netns, "list set inet flatmesh pods")
        assert "10.5.76.2" not in listed
        assert "10.5.76.3" in listed
        assert reconcile(HostState(), kernel, delta_of=part).failures == []  # gone already
        assert reconcile(part, kernel, delta_of=HostState()).failures == []
        assert plan_full(WITH_SET, kernel).lines() == []


@pytest.mark.parametrize(
    "sabotage",
    [
        "flush chain inet flatmesh forward",
        "add chain inet flatmesh other",
        "add set inet flatmesh others { type ipv4_addr; }",
        "add element inet flatmesh pods { 10.5.76.9 }",
        "delete element inet flatmesh pods { 10.5.76.2 }",
        "flush set inet flatmesh pods",
    ],
)
def test_a_table_with_a_set_is_put_right(netns: str, sabotage: str) -> None:
    with Kernel(netns) as kernel:
        reconcile(WITH_SET, kernel)
        nft(netns, sabotage)
        assert plan_full(WITH_SET, kernel).lines() != []
        assert reconcile(WITH_SET, kernel).failures == []
        assert plan_full(WITH_SET, kernel).lines() == []


def test_a_set_keeps_its_elements_while_its_table_is_replaced(netns: str) -> None:
    """Listeners are told of each change: no element is among them."""
    other = NftTable("inet", "flatmesh", "chain input { ip saddr @pods drop; }")
    monitor = subprocess.Popen(
        ["ip", "netns", "exec", netns, "nft", "monitor"], stdout=subprocess.PIPE, text=True
    )
    assert monitor.stdout is not None
    with Kernel(netns) as kernel, monitor:
        reconcile(WITH_SET, kernel)
        number = 0
        while not select.select([monitor.stdout], [], [], 0.1)[0]:  # until it listens
            number += 1
            nft(netns, f"add table inet start{number}")
        nft(netns, "add table inet before")
        assert reconcile(WITH_SET.replacing(NftTable, [other]), kernel).failures == []
        nft(netns, "add table inet after")
        told = []
        for line in monitor.stdout:
            told.append(line)
            if "inet after" in line:
                break
        monitor.terminate()
        after = told[next(n for n, line in enumerate(told) if "inet before" in line) :]
    assert any("chain inet flatmesh input" in line for line in after)
    assert not [line for line in after if "element" in line or " set " in line]


def test_a_set_of_another_type_is_made_anew_with_its_elements(netns: str) -> None:
    with Kernel(netns) as kernel:
        nft(netns, "add table inet flatmesh")
        nft(netns, "add set inet flatmesh pods { type inet_service; }")
        assert reconcile(WITH_SET, kernel).failures == []
        assert "10.5.76.2, 10.5.76.3" in nft(netns, "list set inet flatmesh pods")


def test_all_of_it_goes_with_its_owner(netns: str) -> None:
    with Kernel(netns) as kernel:
        reconcile(WITH_SET, kernel)
        assert reconcile(HostState(), kernel).failures == []
        assert nft(netns, "list ruleset") == ""


def test_many_threads_write_to_their_own_namespaces(make_netns: Any) -> None:
    names = [make_netns() for _ in range(3)]
    wrong: list[str] = []

    def work(name: str) -> None:
        for number in range(20):
            table = NftTable("inet", "flatmesh", f"chain {name}-{number} {{ }}")
            nftables.replace_table(table.family, table.name, table.body, name)
            found = nftables.list_table("inet", "flatmesh", name)
            if found is None or f"chain {name}-{number} " not in found:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_libnftables_all_else_is_done_and_the_error_tells_what_to_install(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ctypes.CDLL

    def missing(name: str | None, *args: Any, **options: Any) -> Any:
        if name == nftables.LIBRARY:
            raise OSError(name)
        return real(name, *args, **options)

    nftables._library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    try:
        with Kernel(host) as kernel:
            assert reconcile(HostState(), kernel).ok
            (failure,) = reconcile(WANTED, kernel).failures
    finally:
        nftables._library.cache_clear()
    assert "libnftables.so.1 is not installed: install it" in str(failure)


VXLAN = NftSet("inet", "flatmesh", "inner", ("ipv4_addr", "vxlan_ipv4_saddr"))
VXLAN6 = NftSet("inet", "flatmesh", "inner6", ("ipv6_addr", "vxlan_ipv6_saddr"))


def filtered(*more: str) -> HostState:
    """A table that looks inner sources up, with a counter for each reason."""
    counters = "".join(f"counter {name} {{\n}}\n" for name in ("wrong", *more))
    rules = (
        "udp dport 8472 ip saddr . @th,336,32 & 0xffffff00 @inner accept\n"
        f"udp dport 8472 ip6 saddr . @th,304,128 & {(1 << 128) - (1 << 64):#x} @inner6 accept\n"
        "udp dport 8472 counter name wrong drop\n"
    )
    chain = f"chain input {{\ntype filter hook input priority 0; policy accept;\n{rules}}}"
    return HostState(
        [VXLAN, VXLAN6],
        [
            NftElement(VXLAN, bytes([192, 168, 64, 12, 10, 5, 2, 0])),
            NftElement(VXLAN6, b"\xfd".ljust(16, b"\0") + b"\xfd\x05".ljust(16, b"\0")),
        ],
        [NftTable("inet", "flatmesh", counters + chain)],
    )


def test_sets_of_inner_sources_are_declared_read_back_and_looked_up(netns: str) -> None:
    with Kernel(netns) as kernel:
        assert reconcile(filtered(), kernel).failures == []
        assert "192.168.64.12 . 0xa050200" in nft(netns, "list set inet flatmesh inner")
        assert plan_full(filtered(), kernel).lines() == []
        nft(netns, "flush set inet flatmesh inner")
        assert reconcile(filtered(), kernel).lines() == [
            "nft add element inet flatmesh inner { 192.168.64.12 . 0x0a050200 }"
        ]


def test_a_counter_goes_on_counting_when_the_text_is_replaced(netns: str) -> None:
    with Kernel(netns) as kernel:
        reconcile(filtered("old"), kernel)
        assert read_counters("inet", "flatmesh", netns) == {"wrong": 0, "old": 0}
        send = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.sendto(bytes(99), ('127.0.0.1', 8472))"
        )
        subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "netns", "exec", netns, sys.executable, "-c", send], check=True)
        assert read_counters("inet", "flatmesh", netns) == {"wrong": 1, "old": 0}
        assert reconcile(filtered("new"), kernel).failures == []
        assert read_counters("inet", "flatmesh", netns) == {"wrong": 1, "new": 0}
        assert plan_full(filtered("new"), kernel).lines() == []


def test_a_missing_table_has_no_counters(netns: str) -> None:
    assert read_counters("inet", "flatmesh", netns) == {}
