# SPDX-License-Identifier: Apache-2.0
"""What `flatmesh lab status` shows fits a screen of 80 columns, with many hosts, too."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from base.output import make_table
from lab.listings import HOSTS, HostRow
from lab.matrix import MatrixEndpoint, PairResult
from lab.matrix_report import MOST_PAIRS, show_results

SCREEN = 80


def screen() -> Console:
    return Console(file=io.StringIO(), width=SCREEN)


def text_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("ipv6", [False, True])
def test_twenty_hosts_fit_the_screen(ipv6: bool) -> None:
    families = 1 + ipv6
    rows = [
        HostRow(
            f"h{number}",
            f"192.168.64.{10 + number}",
            1234567 if number % 2 else None,
            [f"10.5.1{number}.1/24", f"fd05:0:0:1{number}::1/64"][:families],
            [
                {
                    "name": f"h{number}-p{pod}",
                    "addresses": [f"10.5.1{number}.{pod}", f"fd05:0:0:1{number}::{pod}"][
                        : 1 + ipv6
                    ],
                }
                for pod in (1, 2)
            ],
        )
        for number in range(1, 21)
    ]
    console = screen()
    console.print(make_table(HOSTS, rows))
    lines = text_of(console)
    assert max(map(len, lines)) <= SCREEN
    assert ipv6 or len(lines) == 1 + 2 * 20, "a pod is a line"


def results(count: int, bad: int) -> tuple[list[PairResult], list[MatrixEndpoint]]:
    pods = [MatrixEndpoint(f"h{n}-p1", "", (f"10.5.{n}.2",)) for n in range(1, count + 1)]
    names = [pod.name for pod in pods]
    pairs = [(one, other) for one in names for other in names if one != other]
    found = [
        PairResult(one, other, None if number < bad else 0.001, "10.5.1.2")
        for number, (one, other) in enumerate(pairs)
    ]
    return found, pods


def test_a_small_matrix_is_a_table() -> None:
    console = screen()
    found, pods = results(3, bad=0)
    assert show_results(console, found, pods, pods, 4)
    assert "h3-p1" in "".join(text_of(console))


def test_the_default_labs_matrix_fits_the_screen_with_ipv6_too() -> None:
    console = screen()
    pods = [
        MatrixEndpoint(f"h{host}-p{pod}", "", (f"fd05:0:0:12{host}0::{pod}",))
        for host in (1, 2, 3)
        for pod in (1, 2)
    ]
    found = [PairResult(a.name, b.name, 0.0123, "") for a in pods for b in pods if a is not b]
    assert show_results(console, found, pods, pods, 6)
    lines = text_of(console)
    assert any(pods[0].addresses[0] in line and "12.30" in line for line in lines)
    assert max(map(len, lines)) <= SCREEN


def test_of_a_large_matrix_the_bad_pairs_are_listed() -> None:
    console = screen()
    found, pods = results(20, bad=MOST_PAIRS + 5)
    assert not show_results(console, found, pods, pods, 4)
    lines = text_of(console)
    assert max(map(len, lines)) <= SCREEN
    assert "h1-p1 to h2-p1: unreachable" in lines
    assert "and 5 more" in lines
    assert len(lines) < MOST_PAIRS + 6


def test_the_whole_matrix_is_shown_when_asked_for() -> None:
    console = screen()
    found, pods = results(20, bad=0)
    assert show_results(console, found, pods, pods, 4, whole=True)
    assert max(map(len, text_of(console))) > SCREEN
