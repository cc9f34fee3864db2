"""`flatmesh lab`: make a cluster, show that every pod reaches every pod, take it down."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from agent.cluster_config.check import CHECKS, check_config
from ipam.network import parse_config
from lab import hosts, processes
from lab.cluster import Lab, require_root
from lab.files import DIRECTORY, lab_names
from lab.matrix_report import lab_families, show_matrix
from lab.spec import LabSpec

console = Console(highlight=False)
if not console.is_terminal:
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


@lab_group.command()
@name_option
@directory_option
@click.option("--hosts", "count", default=3, show_default=True, type=click.IntRange(1, 200))
@click.option("--pods", default=2, show_default=True, type=click.IntRange(0, 200), help="Per host.")
@click.option(
    "--backend",
    default="vxlan",
    show_default=True,
    type=click.Choice(tuple(CHECKS), case_sensitive=False),
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
    )
    check_config(parse_config(json.dumps(spec.cluster_config())))

    def report(step: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  {step}")

    lab = Lab(spec, directory, report)
    option = "" if name == "lab" else f" --name {name}"
    try:
        lab.up()
    except KeyboardInterrupt:
        left = f"what was made stays; remove it with: flatmesh lab down{option}"
        click.echo(f"flatmesh: interrupted; {left}", err=True)
        sys.exit(INTERRUPTED)
    good = True
    for family in lab_families(spec):
        report(f"who reaches whom over IPv{family}")
        good &= show_matrix(console, lab, family)
    report("done")
    console.print(
        f"\nLook around:  flatmesh lab exec{option} h1-p1 ip route"
        f"\nTake it down: flatmesh lab down{option}"
    )
    if not good:
        sys.exit(1)


@lab_group.command()
@name_option
@directory_option
def status(name: str, directory: Path) -> None:
    """Show a lab's hosts, pods and reachability."""
    require_root()
    lab = Lab.load(name, directory)
    lab.require_alive()
    spec = lab.spec
    table = Table(title=f"lab {name}, backend {spec.backend['Type']}", title_justify="left")
    for column in ("host", "underlay", "daemon", "subnet", "pods"):
        table.add_column(column)
    for number in lab.host_numbers:
        pid = lab.daemon_pid(number)
        table.add_row(
            f"h{number}",
            hosts.host_ipv4(number) if spec.ipv4 else hosts.host_ipv6(number),
            f"pid {pid}" if pid else "[red]not running[/red]",
            _subnets(lab.host_dir(number) / "run/subnet.env"),
            ", ".join(f"{p.name} {' '.join(p.addresses)}" for p in lab.pods if p.host == number),
        )
    console.print(table)
    good = True
    for family in lab_families(spec):
        good &= show_matrix(console, lab, family)
    if lab.etcd.pid is None:
        console.print("[red]etcd is not running[/red]")
        good = False
    if not good or not all(lab.daemon_pid(number) for number in lab.host_numbers):
        sys.exit(1)


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
        Lab(LabSpec(lab), directory).down()
        console.print(f"lab {lab!r} is gone")


@lab_group.command("list")
@directory_option
def list_labs(directory: Path) -> None:
    """List the labs that left a trace on this machine."""
    for lab in lab_names(directory):
        console.print(lab)


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


def _subnets(subnet_env: Path) -> str:
    try:
        lines = subnet_env.read_text().splitlines()
    except OSError:
        return "[red]no lease[/red]"
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    names = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    return " ".join(values[name] for name in names if name in values)
