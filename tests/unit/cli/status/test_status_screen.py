# SPDX-License-Identifier: Apache-2.0
"""What `flatmesh status`, `pods` and `peers` print: within 80 columns, with 20 hosts, too."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from agent.status.advice import advice
from agent.status.model import (
    ControllerState,
    Endpoint,
    HostReport,
    Peer,
    Pod,
    decode,
    encode,
)
from base.output import Output
from cli.status.columns import PEERS, PODS, peer_rows, pod_rows, short_time
from cli.status.commands import SECTIONS, show_cluster, show_host

STYLE = re.compile(r"\x1b\[[0-9;]*m")
LONG = "node-in-the-cellar-of-the-third-house.example.net"


def host(number: int, **more: object) -> Peer:
    values: dict[str, object] = {
        "name": f"node{number}",
        "subnets": (f"10.250.{number}.0/24", f"fd05:0:0:{number:x}::/64"),
        "addresses": (f"192.168.164.{number}", f"fd00:1::{number:x}"),
        "backend": "wireguard",
        "version": "0.1.0",
        "started": 1_700_000_000,
        "round_trip": 12.345,
        "underlay_round_trip": 0.5,
        "probed": True,
        "ready": True,
    }
    return Peer(**{**values, **more})  # type: ignore[arg-type]


def report(hosts: int = 20) -> HostReport:
    return HostReport(
        "daemon",
        LONG,
        "0.1.0",
        "0123abcd-dirty",
        1234,
        1_700_000_000,
        networks=("10.250.0.0/16", "fd05::/48"),
        subnets=("10.250.0.0/24", "fd05::/64"),
        expires_in=86000.0,
        backend="vxlan",
        pod_mtu=1430,
        underlay="enp0s31f6",
        underlay_addresses=("192.168.164.1", "fd00:1:2:3:4:5:6:7"),
        underlay_mtu=1500,
        prefix="/coreos.com/network",
        endpoints=tuple(
            Endpoint(f"https://etcd-{n}.example.net:2379", problem="no answer within 0.7 s")
            for n in range(3)
        ),
        peers=(
            host(0, own=True, probed=False),
            *(host(n) for n in range(1, hosts - 2)),
            host(98, name=LONG, round_trip=None, underlay_round_trip=None, ready=None),
            host(99, name="", round_trip=None, problem="x" * 200),
        ),
        pods=tuple(
            Pod(
                f"kube-system/coredns-5d78c9869d-{n:05}",
                f"{n:064x}",
                "pods",
                "eth0",
                (f"10.250.0.{n}", f"fd05::{n:x}"),
                "ready",
                "veth0123456789a",
                "/var/run/netns/cni-x",
                n != 3,
            )
            for n in range(2, 6)
        ),
        controllers=(
            ControllerState("overlay", "failing", 1.7e9, "overlay: " + "no device " * 20),
            ControllerState("publish", "ok", 1.7e9),
        ),
        problems=("a problem: " + "with many words " * 20,),
    )


SCREENS: dict[str, Callable[[Output], object]] = {
    "status": lambda output: show_host(output, report()),
    "cluster": lambda output: show_cluster(output, report()),
    "peers": lambda output: Output(output.format, PEERS).show(peer_rows(report().peers)),
    "pods": lambda output: Output(output.format, PODS).show(pod_rows(report().pods)),
}


@pytest.mark.parametrize("name", SCREENS)
def test_every_screen_fits_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    SCREENS[name](Output())
    text = STYLE.sub("", capsys.readouterr().out)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "node17" in text or name == "pods"
    assert text.count("\n") < 120


def test_programs_get_every_field_with_its_documented_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_host(Output("json"), report())
    found = json.loads(capsys.readouterr().out)
    for section, columns in SECTIONS.items():
        assert [*found[section][0]] == [column.field for column in columns]
    assert found["subnets"] == ["10.250.0.0/24", "fd05::/64"]
    show_cluster(Output("yaml"), report())
    assert "round_trip: 12.345" in capsys.readouterr().out


def test_a_report_survives_the_socket_and_another_version_s_does_no_harm() -> None:
    assert decode(HostReport, json.loads(json.dumps(encode(report())))) == report()
    strange = {"name": 7, "pid": "x", "peers": [{"name": "a", "new": 1}, 5], "pods": "no"}
    read = decode(HostReport, strange)
    assert (read.name, read.pid, read.pods) == ("", None, ())
    assert read.peers == (Peer(name="a"), Peer())
    others: tuple[object, ...] = (None, [], "x", 7)
    for other in others:
        assert decode(HostReport, other) == HostReport()


def test_what_is_wrong_is_told_once_with_the_mend() -> None:
    lines = "\n".join(advice(report(), ["no lease"]))
    assert lines.startswith("no lease\n")
    assert "etcd https://etcd-0.example.net:2379: no answer within 0.7 s" in lines
    assert "start etcd, or let this host reach it" in lines
    assert "no answer, neither at 192.168.164.98 nor in 10.250.98.0/24" in lines
    assert "ping 192.168.164.98" in lines
    assert "192.168.164.99 answers, 10.250.99.0/24, fd05:0:0:63::/64 does not" in lines
    assert "pod kube-system/coredns-5d78c9869d-00003: its interface veth0123456789a" in lines
    many = HostReport(peers=tuple(host(n, round_trip=None) for n in range(1, 50)))
    assert len(advice(many)) == 11
    assert "39 more peers" in advice(many)[-1]
    assert advice(HostReport(subnets=("10.5.0.0/24",))) == ()


def test_hosts_are_listed_by_number() -> None:
    rows = peer_rows([host(10), host(9), host(2, name=""), host(1)])
    assert [row["host"] for row in rows] == ["node1", "node9", "node10", None]


def test_times_are_one_number() -> None:
    shown = [short_time(n) for n in (0, 119, 120, 7199, 7200, 172799, 172800, None, -3)]
    assert shown == ["0s", "119s", "2min", "119min", "2h", "47h", "2d", "-", "0s"]


def test_what_another_host_says_cannot_control_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = host(1, name="a\x1b[2J", problem="b\x1b[2J")
    show_cluster(Output(), HostReport(name="me\x1b[2J", peers=(evil,), problems=("p\x1b[2J",)))
    assert "\x1b[2J" not in capsys.readouterr().out
