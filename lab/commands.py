# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lab`: make a cluster, show that every pod reaches every pod, take it down."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from agent.cluster_config.check import CHECKS, check_config
from base.command_line import Choice, explained
from base.output import Output, documents, output_option
from ipam.network import parse_config
from lab import hosts, processes
from lab.cluster import Lab, require_root
from lab.docker.containers import LabContainer, planned, start
from lab.docker.host import require_docker
from lab.docker.report import show_containers
from lab.files import DIRECTORY, lab_names
from lab.listings import HOSTS, LABS, PAIRS, SECTIONS, STATUS, HostRow, host_rows, lab_rows
from lab.matrix_report import lab_families, measure_family, show_matrix
from lab.scheduler.cluster import start_schedulers
from lab.services.web import measure_web, show_web, start_web, url_of
from lab.spec import LabPod, LabSpec

console = Console(highlight=False)
if not console.is_terminal and not os.environ.get("COLUMNS"):
    console = Console(highlight=False, width=200)  # do not wrap lines in a log file
INTERRUPTED = 128 + signal.SIGINT
"""Exit status, as shells have it."""
MIN_MTU = 1280 + 80
"""Bytes: pods' interfaces need what IPv6 needs (RFC 8200, 5), and WireGuard takes the most."""
name_option = click.option("--name", default="lab", show_default=True, help="Which lab.")
directory_option = click.option(
    "--dir",
    "directory",
    envvar="FLATMESH_LAB_DIR",
    default=DIRECTORY,
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where labs keep their files.",
)


@click.group("lab")
def lab_group() -> None:
    """Clusters on this machine: every host a network namespace."""


@explained(
    "flatmesh lab up",
    "flatmesh lab up --hosts 5 --pods 4 --backend host-gw --ipv6",
    "flatmesh lab up --name other --backend ovs --tunnel gre --mesh flow",
    exits={1: "failed, or a pair is not reached without NAT"},
)
@lab_group.command()
@name_option
@directory_option
@click.option(
    "--hosts",
    "count",
    default=3,
    show_default=True,
    type=click.IntRange(1, 200),
    help="How many.",
)
@click.option("--pods", default=2, show_default=True, type=click.IntRange(0, 200), help="Per host.")
@click.option(
    "--backend",
    default="vxlan",
    show_default=True,
    type=Choice(tuple(CHECKS), case_sensitive=False),
    help="Backend.Type.",
)
@click.option("--backend-config", default="{}", help="More keys of Backend, as JSON.")
@click.option("--tunnel", help="Backend.Tunnel, for ovs: gre, vxlan or geneve.")
@click.option("--mesh", help="Backend.Mesh, for ovs: static, flow or combined.")
@click.option("--ipv6", is_flag=True, help="Dual stack.")
@click.option("--ipv6-only", is_flag=True, help="No IPv4 at all, underlay included.")
@click.option(
    "--mtu",
    default=1500,
    show_default=True,
    type=click.IntRange(MIN_MTU, 65535),
    help="MTU of the underlay, bytes.",
)
@click.option("--docker", is_flag=True, help="Also dockerd and a container on each host.")
@click.option("--scheduler", is_flag=True, help="Also flatmesh-scheduler on each host.")
@click.option("--services", is_flag=True, help="Also a web server in some pods, as a service.")
def up(
    name: str,
    directory: Path,
    count: int,
    pods: int,
    backend: str,
    backend_config: str,
    tunnel: str | None,
    mesh: str | None,
    ipv6: bool,
    ipv6_only: bool,
    mtu: int,
    docker: bool,
    scheduler: bool,
    services: bool,
) -> None:
    """Make a cluster, then show that every pod reaches every pod without NAT."""
    require_root()
    started = time.monotonic()
    wanted = _backend(backend, backend_config, {"Tunnel": tunnel, "Mesh": mesh})
    spec = LabSpec(
        name,
        count,
        pods,
        wanted,
        ipv4=not ipv6_only,
        ipv6=ipv6 or ipv6_only,
        underlay_mtu=mtu,
        docker=docker,
        scheduler=scheduler,
        services=services,
    )
    _require_possible(spec)

    def report(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {step}")

    lab = Lab(spec, directory, report)
    option = "" if name == "lab" else f" --name {name}"
    containers: list[LabContainer] = []
    servers: list[LabPod] = []
    try:
        lab.up()
        if docker:
            containers = planned([(lab.docker(n), lab.subnet(n)) for n in lab.host_numbers])
            start(containers, spec.network, report)
        managers = start_schedulers(lab, report) if scheduler else []
        if services:
            report("a web server in some pods, published as a service")
            servers = start_web(lab)
    except KeyboardInterrupt:
        left = f"what was made stays; remove it with: flatmesh lab down{option}"
        click.echo(f"flatmesh: interrupted; {left}", err=True)
        sys.exit(INTERRUPTED)
    good = True
    for family in lab_families(spec):
        report(f"who reaches whom over IPv{family}")
        good &= show_matrix(console, lab, family)
    if containers:
        report("which container reaches which, by name and by address")
        good &= show_containers(console, containers)
    if servers:
        report("who answers a client outside, by the port published on each host")
        answers = measure_web(lab, servers)
        good &= show_web(console, answers)
    report("done")
    look = [f"flatmesh lab exec{option} h1-p1 ip route"]
    look += [f"docker -H unix://{one.docker.socket} ps" for one in containers[:1]]
    look += [f"docker -H unix://{one.socket} node ls" for one in managers[:1]]
    if servers:
        look += [f"ip netns exec {lab.names.underlay} curl http://{url_of(answers[0])}/"]
        look += [f"flatmesh service show web --etcd-endpoints={lab.endpoint}"]
    console.print("\nLook around:  " + "\n              ".join(look), soft_wrap=True)
    console.print(f"Take it down: flatmesh lab down{option}")
    if not good:
        sys.exit(1)


def _require_possible(spec: LabSpec) -> None:
    """Raise click.UsageError, LabError or ConfigError for a lab that can't be made."""
    if spec.services and not spec.pods_per_host:
        raise click.UsageError("--services needs pods: its web servers run in them")
    if spec.docker and not spec.ipv4:
        raise click.UsageError("--docker needs IPv4: Docker has no networks without it")
    if spec.docker and spec.scheduler:
        raise click.UsageError("--docker and --scheduler: one of them; both serve Docker's API")
    if spec.docker:
        require_docker()
    check_config(parse_config(json.dumps(spec.cluster_config())))


@explained(
    "flatmesh lab status",
    "flatmesh lab status -o json | jq '.pairs[] | select(.rtt == null)'",
    exits={1: "a daemon or etcd does not run, a pair is not reached without NAT; or it can't look"},
)
@lab_group.command()
@name_option
@directory_option
@output_option(STATUS, SECTIONS)
def status(name: str, directory: Path, output: Output) -> None:
    """Show a lab's hosts, pods and reachability."""
    require_root()
    lab = Lab.load(name, directory)
    lab.require_alive()
    spec = lab.spec
    rows = host_rows(lab)
    if output.machine:
        good = _write_status(lab, rows, output)
    else:
        output.table(HOSTS, rows, title=f"lab {name}, backend {spec.backend['Type']}")
        good = True
        for family in lab_families(spec):
            console.print()
            good &= show_matrix(console, lab, family, whole=output.format == "wide")
        if lab.etcd.pid is None:
            console.print("[red]etcd is not running[/red]")
            good = False
    if not good or not all(row.daemon_pid for row in rows):
        sys.exit(1)


def _write_status(lab: Lab, rows: Sequence[HostRow], output: Output) -> bool:
    """Print the status for programs; returns whether every pair is right."""
    progress = Console(stderr=True)
    found = [
        (family, result)
        for family in lab_families(lab.spec)
        for result in measure_family(progress, lab, family)
    ]
    pairs = [{"family": family, **asdict(result)} for family, result in found]
    output.write(
        {
            "name": lab.spec.name,
            "backend": lab.spec.backend["Type"],
            "etcd_pid": lab.etcd.pid,
            "hosts": documents(HOSTS, rows),
            "pairs": documents(PAIRS, pairs),
        }
    )
    return lab.etcd.pid is not None and all(result.good for _, result in found)


@explained(
    "flatmesh lab exec h1-p1 ping -c 1 10.5.2.2",
    "flatmesh lab exec h1 flatmesh lease list",
    exits={0: "COMMAND returned 0; its other exit statuses are returned, too"},
)
@lab_group.command("exec", context_settings={"ignore_unknown_options": True})
@name_option
@directory_option
@click.argument("where")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def execute(name: str, directory: Path, where: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in a pod (h1-p1), a host (h1) or the underlay (net)."""
    require_root()
    lab = Lab.load(name, directory)
    if lab.names.underlay not in lab.names.present():
        lab.require_alive()
    netns = f"{hosts.PREFIX}-{lab.spec.name}-{where}"
    if netns not in lab.names.present():
        known = ", ".join(n.removeprefix(f"{hosts.PREFIX}-{name}-") for n in lab.names.present())
        raise hosts.LabError(f"no pod or host {where!r} in lab {name!r}; there are: {known}")
    # the caller's settings are of another cluster
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLANNELD_")}
    environment["FLANNELD_ETCD_ENDPOINTS"] = lab.endpoint
    if where.startswith("h"):
        environment |= lab.environment(int(where[1:].split("-", maxsplit=1)[0]))
    argv = [*processes.enter(netns), *command]
    os.execvpe(argv[0], argv, environment)


@explained("flatmesh lab down", "flatmesh lab down --all")
@lab_group.command()
@name_option
@directory_option
@click.option("--all", "every", is_flag=True, help="Every lab on this machine.")
def down(name: str, directory: Path, every: bool) -> None:
    """Remove a lab without a trace, in whatever state it is."""
    require_root()
    names = lab_names(directory) if every else [name]
    if not every and name not in lab_names(directory):
        console.print(f"there is no lab {name!r}; nothing to do")
        return
    for lab in names:
        Lab(LabSpec(lab), directory, console.print).down()
        console.print(f"lab {lab!r} is gone")


@explained("flatmesh lab list", "flatmesh lab list -o json")
@lab_group.command("list")
@directory_option
@output_option(LABS)
def list_labs(directory: Path, output: Output) -> None:
    """List the labs that left a trace on this machine."""
    output.show(lab_rows(directory))


def _backend(kind: str, more: str, chosen: Mapping[str, str | None]) -> dict[str, Any]:
    try:
        extra = json.loads(more)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--backend-config") from None
    if not isinstance(extra, dict):
        raise click.BadParameter("not a JSON object", param_hint="--backend-config")
    for key, value in chosen.items():
        if value and kind != "ovs":
            hint = f"--{key.lower()}"
            raise click.BadParameter("only with --backend ovs", param_hint=hint)
    return {"Type": kind, **extra, **{key: value for key, value in chosen.items() if value}}
