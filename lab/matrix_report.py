# SPDX-License-Identifier: Apache-2.0
"""The reachability matrix as an operator sees it: a table of round trips, and the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lab.cluster import Lab
from lab.matrix import MatrixEndpoint, PairResult, measure
from lab.spec import LabSpec

REACHABLE_TIMEOUT = 20.0  # seconds for the last routes to arrive
MOST_PAIRS = 20  # lines
WIDEST = 100_000  # columns


def lab_families(spec: LabSpec) -> list[int]:
    """Which IP families a lab's pods speak."""
    return [4] * spec.ipv4 + [6] * spec.ipv6


def show_matrix(console: Console, lab: Lab, family: int, *, whole: bool = False) -> bool:
    """Measure and print the matrix; returns whether every pair is reached without NAT."""
    pods, machines = lab.pod_endpoints(family), lab.host_endpoints(family)
    if not pods:
        console.print("no pods")
        return True
    results = measure_family(console, lab, family)
    return show_results(console, results, [*pods, *machines], pods, family, whole=whole)


def show_results(
    console: Console,
    results: list[PairResult],
    senders: list[MatrixEndpoint],
    receivers: list[MatrixEndpoint],
    family: int,
    *,
    whole: bool = False,
) -> bool:
    """Print the matrix; returns whether every pair is reached without NAT.

    A table that is wider than the screen is left out, unless it shall be the `whole`: the pairs
    that are not right are listed instead.
    """
    table = _table(results, senders, receivers, family)
    width = _width(table)
    if width <= console.width:
        console.print(table)
    elif whole:
        terminal = console.is_terminal
        Console(file=console.file, width=width, force_terminal=terminal).print(table)
    else:
        console.print("[dim]the table of all pairs is wider than the screen: see -o wide[/dim]")
        bad = [one for one in results if not one.good]
        for one in bad[:MOST_PAIRS]:
            console.print(f"[red]{one.sender} to {one.receiver}:[/red] {_result_text(one)}")
        if len(bad) > MOST_PAIRS:
            console.print(f"and {len(bad) - MOST_PAIRS} more")
    return _verdict(console, results, family)


def _width(table: Table) -> int:
    """Columns of the screen that it takes unfolded."""
    return Measurement.get(Console(width=WIDEST), Console(width=WIDEST).options, table).maximum


def measure_family(console: Console, lab: Lab, family: int) -> list[PairResult]:
    """Let every pod and host send to every pod; nothing where there are no pods."""
    pods, machines = lab.pod_endpoints(family), lab.host_endpoints(family)
    if not pods:
        return []
    total = len(machines) * len(pods) + len(pods) * (len(pods) - 1)
    with console.status("") as progress:
        done = 0

        def tick(result: PairResult) -> None:
            nonlocal done
            done += 1
            progress.update(f"{done} of {total}: {result.sender} to {result.receiver}")

        return measure([*pods, *machines], pods, REACHABLE_TIMEOUT, tick)


def _table(
    results: list[PairResult],
    senders: list[MatrixEndpoint],
    receivers: list[MatrixEndpoint],
    family: int,
) -> Table:
    table = Table(
        title=f"round trip in ms, IPv{family}",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    table.add_column("FROM", no_wrap=True)
    table.add_column("ADDRESS", no_wrap=True)
    for receiver in receivers:
        table.add_column(receiver.name, justify="right", no_wrap=True)
    by_pair = {(result.sender, result.receiver): result for result in results}
    for sender in senders:
        row = [by_pair.get((sender.name, receiver.name)) for receiver in receivers]
        table.add_row(sender.name, sender.addresses[0], *(_result_text(result) for result in row))
    return table


def _result_text(result: PairResult | None) -> str:
    if result is None:
        return "-"
    if result.nat:
        return f"[red]NAT: {result.seen}[/red]"
    return f"[green]{result.rtt * 1000:.2f}[/green]" if result.rtt else "[red]unreachable[/red]"


def _verdict(console: Console, results: list[PairResult], family: int) -> bool:
    bad = [result for result in results if not result.good]
    if not bad:
        console.print(
            f"[green]all {len(results)} pairs reach each other over IPv{family}; "
            f"every receiver saw the sender's own address: no NAT[/green]"
        )
        return True
    lost = sum(result.rtt is None for result in bad)
    console.print(
        f"[red]{len(bad)} of {len(results)} pairs are not right over IPv{family}: "
        f"{lost} unreachable, {sum(c.nat for c in bad)} translated[/red]"
    )
    return False
