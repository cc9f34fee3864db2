# SPDX-License-Identifier: Apache-2.0
"""What a check concludes from the ends' results, and what it takes from other hosts."""

from __future__ import annotations

import os
import re
import socket

import pytest

from agent.check.echo import Prober, Responder, udp_socket
from agent.check.keys import (
    MAX_HOSTS,
    MAX_MTU,
    Arrived,
    End,
    Results,
    Sent,
    Targets,
    gateways,
    key_of,
    parse_check_key,
    read,
    usable,
    write,
)
from agent.check.verdict import LARGE, LOST, TRANSLATED, Verdict, judge
from cli.check_command import show

TOKEN = b"8 bytes!"
STYLE = re.compile(r"\x1b\[[0-9;]*m")


def end(number: int, name: str = "") -> End:
    return End(
        f"10.5.{number}.0-24&fd05:0:0:{number:x}::-64",
        name or f"node{number}",
        (f"10.5.{number}.9", f"fd05:0:0:{number:x}::9"),
        (f"192.168.64.{number}", f"10.5.{number}.1"),
        1430,
    )


A, B = end(1, "a"), end(2, "b")
GOOD = Sent(1, "pod", "pod", 4, 0.2, "10.5.1.9", large=True)


def faults(*sent: Sent, arrived: tuple[Arrived, ...] = ()) -> list[tuple[str, str, str]]:
    verdict = judge([A, B], {0: Results(sent), 1: Results(arrived=arrived)}, {})
    assert verdict.good == (not verdict.bad)
    return [(one.sender, one.receiver, one.fault) for one in verdict.bad]


def test_the_direction_follows_from_what_arrived() -> None:
    lost = Sent(1, "pod", "pod", 4)
    assert faults(GOOD) == []
    assert faults(lost) == [("a", "b", LOST)]
    assert faults(lost, arrived=(Arrived(0, "pod", 4),)) == [("b", "a", LOST)]
    assert faults(lost, arrived=(Arrived(0, "host", 4), Arrived(0, "pod", 6))) == [("a", "b", LOST)]
    small = Sent(1, "pod", "pod", 4, 0.2, "10.5.1.9", large=False)
    assert faults(small) == [("a", "b", LARGE)]
    assert faults(small, arrived=(Arrived(0, "pod", 4, large=True),)) == [("b", "a", LARGE)]


def test_a_translated_address_is_told() -> None:
    assert faults(Sent(1, "pod", "pod", 4, 0.2, "192.168.64.1")) == [("a", "b", TRANSLATED)]
    assert faults(Sent(1, "host", "pod", 4, 0.2, "192.168.64.1")) == []
    assert faults(Sent(1, "host", "pod", 4, 0.2, "192.168.64.7")) == [("a", "b", TRANSLATED)]
    assert faults(Sent(1, "pod", "host", 4, 0.2)) == []
    assert faults(Sent(7, "pod", "pod", 4)) == []  # no such end


def test_what_other_hosts_write_is_bounded() -> None:
    foreign = End(A.key, "a", ("10.5.1.9", "8.8.8.8", "10.5.2.9", "x", "fd05:0:0:2::1"), mtu=10**9)
    assert usable([foreign])[0].addresses == ()  # one that is no address spoils the rest
    foreign = End(A.key, "a", ("10.5.1.9", "8.8.8.8", "10.5.2.9"), mtu=10**9)
    assert (usable([foreign])[0].addresses, usable([foreign])[0].mtu) == (("10.5.1.9",), MAX_MTU)
    assert usable([End("nonsense", addresses=("10.5.1.9",))])[0].addresses == ()
    assert len(usable([A] * 500)) == MAX_HOSTS
    assert read(Targets, write(Targets((A, B)))) == Targets((A, B))
    for broken in (b"", b"[]", b"{", b"\xff", b'{"ends":[1,{"name":2}]}', b"1" * (2 << 20)):
        read(Targets, broken)
    assert gateways(A) == {4: "10.5.1.1", 6: "fd05:0:0:1::1"}


def test_keys_are_taken_apart() -> None:
    key = key_of("/net", "c1", "pod", A.key)
    parsed = parse_check_key("/net", key)
    assert parsed == ("c1", "pod", A.key)
    for other in ("/net/subnets/10.5.1.0-24", "/net/check/", "/net/check/x", "/net/check/a/b/c/d"):
        assert parse_check_key("/net", other) is None


def results(hosts: int) -> dict[int, Results]:
    return {
        number: Results(
            tuple(
                Sent(other, "pod", "pod", family, 0.1 * other or None, "", large=None)
                for other in range(hosts)
                for family in (4, 6)
                if other != number
            )
        )
        for number in range(hosts)
    }


@pytest.mark.parametrize("hosts", [2, 6, 20])
def test_every_screen_fits_80_columns(hosts: int, capsys: pytest.CaptureFixture[str]) -> None:
    ends = [end(n, f"node-in-the-cellar-{n}.example.net" if n % 2 else "") for n in range(hosts)]
    show(judge(ends, results(hosts), {}))
    text = STYLE.sub("", capsys.readouterr().out)
    tables = [line for line in text.splitlines() if not line.startswith("!")]
    assert max(map(len, tables)) <= 80
    assert f"{hosts} hosts" in text


def test_a_host_that_took_no_part_makes_a_bad_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = judge([A, B], {0: Results((GOOD,)), 1: Results()}, {"c": "took no part"})
    assert not verdict.good
    assert isinstance(verdict, Verdict)
    show(verdict)
    assert "!           c: took no part" in capsys.readouterr().out


@pytest.mark.parametrize("family", [4, 6])
def test_a_responder_tells_the_source_and_answers_its_own_check_only(family: int) -> None:
    loopback = "127.0.0.1" if family == 4 else "::1"
    server = udp_socket(family)
    port = server.getsockname()[1]
    responder = Responder({family: server}, TOKEN)
    try:
        with udp_socket(family) as client:
            client.settimeout(0.3)
            for noise in (b"", b"x", os.urandom(3000), b"FMC1" + b"wrong!!!" + bytes(40)):
                client.sendto(noise, (loopback, port))
            with pytest.raises(TimeoutError):
                client.recv(100)
            client.setblocking(False)
            prober = Prober(client, family, TOKEN, 3, "host")
            found = prober.probe([loopback], 1400, port)[loopback]
        assert (found.seen, found.large) == (loopback, True)
        assert found.milliseconds is not None
        assert {(one.sender, one.origin, one.large) for one in responder.arrivals} == {
            (3, "host", False),
            (3, "host", True),
        }
    finally:
        responder.close()
    assert server.fileno() == -1
    assert socket.has_ipv6
