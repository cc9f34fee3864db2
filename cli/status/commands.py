# SPDX-License-Identifier: Apache-2.0
"""`flatmesh status`, `flatmesh pods`, `flatmesh peers`.

They ask this host's daemon by its socket, and answer within two seconds whatever hangs. Where
no daemon answers, they tell what files and the kernel tell, and say so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import click

from agent.status.model import HostReport, encode
from agent.status.report import PARTS
from base.command_line import explained
from base.output import Output, documents, output_option
from cli.status.columns import (
    CONTROLLERS,
    ENDPOINTS,
    PEERS,
    PODS,
    controller_rows,
    endpoint_rows,
    peer_rows,
    pod_rows,
)
from cli.status.fetch import fetch
from cli.status.screen import show_line, show_problems, show_status

WATCH_INTERVAL = 2.0
"""Seconds between two screens of --watch."""
CLEAR = "\x1b[H\x1b[2J"
"""To the top left corner, and erase the screen (ECMA-48)."""
SECTIONS = {"peers": PEERS, "pods": PODS, "controllers": CONTROLLERS, "endpoints": ENDPOINTS}
NOT_WELL = {1: "something is not as it should be: the lines that begin with ! say what"}


@explained(
    "flatmesh status",
    "flatmesh status --cluster --watch",
    "flatmesh status -o json",
    exits=NOT_WELL,
)
@click.command("status")
@click.option("--cluster", is_flag=True, help="All hosts of the cluster, one line each.")
@click.option("--watch", "-w", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@output_option(sections=SECTIONS)
def status(output: Output, *, cluster: bool, watch: bool) -> None:
    """How this host is: its daemon, lease, etcd, peers and pods, what is wrong, and the mend.

    Without a daemon it tells what files and the kernel tell. It answers within two seconds.
    """
    show = show_cluster if cluster else show_host
    parts = ("peers", "readiness") if cluster else PARTS
    _repeat(lambda: show(output, fetch(parts)), watch=watch)


def show_host(output: Output, report: HostReport) -> bool:
    """Print one host; returns whether all is well."""
    if output.machine:
        output.write(
            {
                **encode(report),
                "peers": documents(PEERS, peer_rows(report.peers)),
                "pods": documents(PODS, pod_rows(report.pods)),
                "controllers": documents(CONTROLLERS, controller_rows(report.controllers)),
                "endpoints": documents(ENDPOINTS, endpoint_rows(report.endpoints)),
            }
        )
    else:
        show_status(output, report)
    return not report.problems


def show_cluster(output: Output, report: HostReport) -> bool:
    """Print all hosts; returns whether all are well.

    What hosts say of themselves is beside their leases; whether they answer is seen from here.
    """
    rows = peer_rows(report.peers)
    well = all(row["state"] in ("here", "ready") and not row["problem"] for row in rows)
    if output.machine:
        output.write({"hosts": documents(PEERS, rows), "problems": report.problems})
        return well and not report.problems
    show_problems(report)
    if rows:
        output.table(PEERS, rows, title=f"{len(rows)} hosts")
    for one in report.peers:
        if one.problem and not one.own:
            show_line("!", f"{one.label} says: {one.problem}")
    return well and not report.problems


@explained("flatmesh peers", "flatmesh peers -o wide", exits=NOT_WELL)
@click.command("peers")
@click.option("--watch", "-w", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@output_option(PEERS)
def peers(output: Output, *, watch: bool) -> None:
    """The other hosts: subnet, address, whether they answer, and how fast."""

    def show() -> bool:
        report = fetch(("peers",))
        rows = peer_rows(one for one in report.peers if not one.own)
        _without_daemon(report)
        output.show(rows)
        return all(row["state"] == "ready" for row in rows)

    _repeat(show, watch=watch)


@explained("flatmesh pods", "flatmesh pods -o json", exits=NOT_WELL)
@click.command("pods")
@click.option("--watch", "-w", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@output_option(PODS)
def pods(output: Output, *, watch: bool) -> None:
    """The pods of this host, and their addresses."""

    def show() -> bool:
        report = fetch(("pods",))
        rows = pod_rows(report.pods)
        _without_daemon(report)
        output.show(rows)
        return all(row["state"] != "gone" for row in rows)

    _repeat(show, watch=watch)


def _without_daemon(report: HostReport) -> None:
    if report.source == "files" and report.problems:
        click.echo(f"! {report.problems[0]}", err=True)


def _repeat(show: Callable[[], bool], *, watch: bool) -> None:
    """Show once, and end with the exit status; or again and again."""
    if not watch:
        sys.exit(0 if show() else 1)
    try:
        while True:
            if sys.stdout.isatty():
                click.echo(CLEAR, nl=False)
            show()
            sys.stdout.flush()
            time.sleep(WATCH_INTERVAL)
    except KeyboardInterrupt:
        sys.exit(0)
