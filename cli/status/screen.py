# SPDX-License-Identifier: Apache-2.0
"""`flatmesh status` for people: the verdict first, then one line for each matter, then tables."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from agent.status.model import HostReport
from base.output import Output, console, printable
from cli.status.columns import (
    CONTROLLERS,
    PEERS,
    PODS,
    controller_rows,
    milliseconds,
    peer_rows,
    pod_rows,
    short_time,
)

LABEL = 12
"""Columns of a line's first word."""


def show_status(output: Output, report: HostReport) -> None:
    """Print the whole screen."""
    show_problems(report)
    for label, text in _matters(report):
        show_line(label, text)
    failing = [one for one in report.controllers if one.state != "ok"]
    if failing:
        click.echo()
        output.table(CONTROLLERS, controller_rows(failing))
    peers = [one for one in report.peers if not one.own]
    if peers:
        click.echo()
        output.table(PEERS, peer_rows(peers), title=f"{len(peers)} peers")
    if report.pods:
        click.echo()
        output.table(PODS, pod_rows(report.pods), title=f"{len(report.pods)} pods")


def show_problems(report: HostReport) -> None:
    """The verdict, and a line for each problem."""
    name = printable(report.name)
    if report.source == "files":
        click.secho(f"{name}: NO DAEMON: what follows is from files and the kernel", fg="red")
    elif report.problems:
        ready = "ready, but not all is right" if report.ready else "NOT READY"
        click.secho(f"{name}: {ready}", fg="red")
    else:
        click.secho(f"{name}: ready", fg="green")
    for problem in report.problems:
        show_line("!", problem)


def show_line(label: str, text: str) -> None:
    """A line; in a terminal what does not fit goes on below itself."""
    screen = console()
    width = max(20, screen.width - LABEL - 1)
    first = True
    for piece in _folded(printable(text), width):
        click.echo(f"{label if first else '':{LABEL}}{piece}")
        first = False


def _folded(text: str, width: int) -> Iterator[str]:
    while len(text) > width:
        cut = text.rfind(" ", 0, width + 1)
        cut = cut if cut > 0 else width
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    yield text


def _matters(report: HostReport) -> Iterator[tuple[str, str]]:
    """One line for each matter that is known."""
    if report.version:
        up = short_time(time.time() - report.started) if report.started else "?"
        commit = f" (commit {report.commit})" if report.commit else ""
        yield "daemon", f"flatmesh {report.version}{commit}, pid {report.pid}, up {up}"
    if report.subnets:
        yield "lease", f"{', '.join(report.subnets)}{_lease_end(report)}"
    elif report.source == "daemon":
        yield "lease", "none"
    if report.backend:
        networks = f", network {', '.join(report.networks)}" if report.networks else ""
        mtu = f", pods' MTU {report.pod_mtu}" if report.pod_mtu else ""
        yield "backend", f"{report.backend}{networks}{mtu}"
    if report.underlay:
        addresses = " ".join(report.underlay_addresses)
        yield "underlay", f"{report.underlay} {addresses}, MTU {report.underlay_mtu}"
    if report.endpoints:
        answering = sum(not one.problem for one in report.endpoints)
        yield "etcd", f"{answering} of {len(report.endpoints)} answer, prefix {report.prefix}"
        for one in report.endpoints:
            how = one.problem or f"etcd {one.version}, {milliseconds(one.milliseconds)}"
            yield "", f"{one.url}: {how}"
    if report.controllers:
        good = sum(one.state == "ok" for one in report.controllers)
        yield "controllers", f"{good} of {len(report.controllers)} ok"


def _lease_end(report: HostReport) -> str:
    if report.reserved:
        return ", reserved for this host"
    if report.expires_in is None:
        return ""
    return f", renewed by the daemon, {short_time(report.expires_in)} left"
