# SPDX-License-Identifier: Apache-2.0
"""What `flatmesh lab status` and `flatmesh lab list` show: rows and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from base.output import Column
from lab import hosts
from lab.cluster import Lab
from lab.files import lab_files, lab_names
from lab.hosts import LabError
from lab.spec import LabPod


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host of a lab."""

    host: str
    underlay: str
    daemon_pid: int | None
    subnets: list[str]
    pods: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class LabRow:
    """A lab that left a trace."""

    name: str
    backend: str | None
    hosts: int | None
    complete: bool


def _pods(pods: Sequence[dict[str, object]]) -> str:
    def line(pod: dict[str, object]) -> str:
        addresses = pod["addresses"]
        shown = " ".join(addresses) if isinstance(addresses, list) else ""
        return f"{pod['name']} {shown}"

    return "\n".join(map(line, pods)) or "-"


HOSTS = (
    Column("host", "Its name in the lab."),
    Column("underlay", "Its address in the underlay."),
    Column(
        "daemon_pid",
        "Process id of its flatmeshd; null: it does not run.",
        title="daemon",
        text=lambda pid: str(pid) if pid else "not running",
        style=lambda pid: "" if pid else "red",
    ),
    Column(
        "subnets",
        "The gateway's addresses, with the length of the host's subnets; empty: it has no lease.",
        text=lambda subnets: "\n".join(subnets) or "no lease",
        style=lambda subnets: "" if subnets else "red",
    ),
    Column("pods", "Objects with `name` and `addresses`.", text=_pods),
)
PAIRS = (
    Column("family", "4 or 6."),
    Column("sender", "A pod or a host."),
    Column("receiver", "A pod."),
    Column("rtt", "Round trip in seconds; null: no answer came."),
    Column("seen", "The sender's address as the receiver saw it, or null."),
    Column("nat", "Whether that is not the sender's own: the packets were translated."),
)
STATUS = (
    Column("name", "The lab's name."),
    Column("backend", "`Backend.Type`."),
    Column("etcd_pid", "Process id of its etcd; null: it does not run."),
)
SECTIONS = {"hosts": HOSTS, "pairs": PAIRS}
LABS = (
    Column("name", "Its name."),
    Column("backend", "`Backend.Type`; null: only traces are left."),
    Column("hosts", "How many it has, or null."),
    Column("complete", "Whether it was made to the end since the machine's last boot.", title="up"),
)


def host_rows(lab: Lab) -> list[HostRow]:
    """All hosts of a lab."""
    return [_host_row(lab, number) for number in lab.host_numbers]


def _host_row(lab: Lab, number: int) -> HostRow:
    address = hosts.host_ipv4(number) if lab.spec.ipv4 else hosts.host_ipv6(number)
    pods = [_pod(pod) for pod in lab.pods if pod.host == number]
    subnets = _subnets(lab.host_dir(number) / "run/subnet.env")
    return HostRow(f"h{number}", address, lab.daemon_pid(number), subnets, pods)


def _pod(pod: LabPod) -> dict[str, object]:
    return {"name": f"h{pod.host}-{pod.name}", "addresses": pod.addresses}


def _subnets(subnet_env: Path) -> list[str]:
    try:
        lines = subnet_env.read_text().splitlines()
    except OSError:
        return []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    names = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    return [values[name] for name in names if name in values]


def lab_rows(directory: Path) -> list[LabRow]:
    """The labs that left a trace on this machine."""
    return [_lab_row(name, directory) for name in lab_names(directory)]


def _lab_row(name: str, directory: Path) -> LabRow:
    files = lab_files(name, directory)
    try:
        spec = files.spec()
    except LabError:
        return LabRow(name, None, None, complete=False)
    return LabRow(name, str(spec.backend.get("Type")), spec.hosts, files.complete())
