# SPDX-License-Identifier: Apache-2.0
"""`flatmesh check`: who reaches whom in a running cluster, by temporary pods on its hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import click

from agent.check.keys import End
from agent.check.run import Check
from agent.check.verdict import Verdict, label
from agent.status.client import NoDaemonError, RefusedError, ask
from base.command_line import explained
from base.output import Output, output_option, printable
from cli.cluster import cluster_options, cluster_settings
from cli.status.screen import show_line
from cni.host import host_from_environment
from etcd.connect import EtcdSettings, connect
from ipam.registry import Registry

MATRIX_HOSTS = 6
"""So many hosts fit a table of 80 columns; of more, each has one line."""
NAME_WIDTH = 9
BAD = 3
"""Exit status when something is found."""


@explained(
    "flatmesh check",
    "flatmesh check node1 node2",
    exits={BAD: "a pair is not as it should be, or a host took no part"},
)
@click.command("check")
@click.argument("hosts", nargs=-1)
@cluster_options
@output_option()
def check(output: Output, hosts: tuple[str, ...], **flags: Any) -> None:
    """Try who reaches whom, by a temporary pod on each host, or on HOSTS (names).

    Pod to pod in both directions, host to pod, pod to host, whether addresses are translated
    (NAT), and whether packets as large as the pods' MTU pass. Nothing is left behind.
    """
    if os.geteuid() != 0:
        raise PermissionError("a check makes pods, which needs root: run it with sudo")
    settings = cluster_settings(flags)
    try:
        verdict = asyncio.run(_run(settings, hosts, quiet=output.machine))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    if output.machine:
        output.write(document(verdict))
    else:
        show(verdict)
    sys.exit(0 if verdict.good else BAD)


async def _run(settings: EtcdSettings, hosts: tuple[str, ...], *, quiet: bool) -> Verdict:
    here = host_from_environment(os.environ)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run makes one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        ask(here.run_dir, "settings")
        answers = True
    except (NoDaemonError, RefusedError):
        answers = False

    def report(step: str) -> None:
        if not quiet:
            click.echo(f"{step} ...", err=True)

    async with connect(settings) as etcd:
        registry = Registry(etcd, settings.prefix)
        name = os.environ.get("FLATMESH_HOST_NAME", "")
        return await Check(registry, here, name, answers, report).run(hosts)


def document(verdict: Verdict) -> dict[str, object]:
    """What programs get."""
    return {
        "good": verdict.good,
        "hosts": [label(end) for end in verdict.ends],
        "tried": verdict.pairs,
        "bad": [
            {
                "from": one.sender,
                "to": one.receiver,
                "origin": one.origin,
                "target": one.target,
                "family": one.family,
                "fault": one.fault,
                "text": one.text(),
            }
            for one in verdict.bad
        ],
        "absent": dict(verdict.absent),
        "round_trips": [
            {"from": label(verdict.ends[number]), "to": label(verdict.ends[one.to])}
            | {"family": one.family, "milliseconds": one.milliseconds}
            for number, found in verdict.results.items()
            for one in found.sent
            if one.origin == one.target == "pod" and 0 <= one.to < len(verdict.ends)
        ],
    }


def show(verdict: Verdict) -> None:
    """Print the tables, what is bad, and the verdict."""
    families = sorted({6 if ":" in a else 4 for end in verdict.ends for a in end.addresses})
    for family in families if len(verdict.ends) > 1 else ():
        click.echo(f"round trip in ms from pod to pod, IPv{family}")
        if len(verdict.ends) <= MATRIX_HOSTS:
            _matrix(verdict, family)
        else:
            _summary(verdict, family)
        click.echo()
    for name, why in verdict.absent.items():
        show_line("!", f"{name}: {why}")
    for one in verdict.bad:
        show_line("!", one.text())
    hosts = f"{len(verdict.ends)} hosts, {verdict.pairs} directions tried"
    if verdict.good:
        click.secho(f"all is well: {hosts}, no address translated, the MTU passes", fg="green")
    else:
        text = f"{hosts}: {len(verdict.bad)} not as they should be"
        absent = f", {len(verdict.absent)} hosts took no part" if verdict.absent else ""
        click.secho(text + absent, fg="red")


def _short(end: End) -> str:
    name = printable(label(end))
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}~"


def _matrix(verdict: Verdict, family: int) -> None:
    ends = verdict.ends
    click.echo("".join([f"{'from / to':12}", *(f"{_short(end):>11}" for end in ends)]))
    for number, end in enumerate(ends):
        cells = []
        for other in range(len(ends)):
            took = verdict.round_trip(number, other, family)
            text = "-" if number == other else "lost" if took is None else f"{took:.2f}"
            cells.append(f"{text:>11}")
        click.echo(f"{_short(end):12}" + "".join(cells))


def _summary(verdict: Verdict, family: int) -> None:
    click.echo(f"{'from':24}{'answered':>12}{'fastest':>12}{'median':>12}{'slowest':>12}")
    for number, end in enumerate(verdict.ends):
        others = [n for n in range(len(verdict.ends)) if n != number]
        tried = [verdict.round_trip(number, other, family) for other in others]
        took = sorted(one for one in tried if one is not None)
        shown = [f"{one:.2f}" for one in (took[0], took[len(took) // 2], took[-1])] if took else []
        cells = "".join(f"{one:>12}" for one in shown or ["-"] * 3)
        click.echo(f"{printable(label(end))[:23]:24}{len(took):>5} of {len(others):<4}{cells}")
