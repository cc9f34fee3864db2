# SPDX-License-Identifier: Apache-2.0
"""Programming many VXLAN peers: our reconcile beside `ip -batch` and `bridge -batch`.

    python -m bench.netlink_batch [--peers 1000 --peers 5000 ...] [--rounds 3] [--json FILE]

Each peer is a route, a neighbour and an FDB entry. Measured from the desired state in memory
to the last entry in the kernel, our dump of what is there included; for the baseline from
the batch text in memory to the exit of both tools. Every round measures each of them in a
fresh network namespace; the figures are the medians.

    program     nothing there -> everything
    no-op       everything there -> nothing to change (the second dump: rows are already parsed)
    one peer    one changed lease, by `delta_of`
    churn       a tenth of the peers replaced, found by dump
    delete      everything -> nothing
"""

from __future__ import annotations

import gc
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from hostnet import netns
from hostnet.apply import Outcome, reconcile
from hostnet.kernel import Kernel
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState, merge

BASELINE = "ip -batch + bridge -batch"
OURS = {"flatmesh, nexthop objects": True, "flatmesh, plain routes": False}
VTEP = Link(
    "flannel.1",
    "vxlan",
    mtu=1450,
    mac="c6:d2:32:6f:8f:01",
    addrgenmode="none",
    details=Vxlan(1, 8472, "192.168.64.2", "eth0"),
)
BASE = HostState(
    links=frozenset([VTEP]), addresses=frozenset([Address("flannel.1", "10.5.76.0/32")])
)
Figures = dict[tuple[str, str], list[float]]


def peer(number: int) -> HostState:
    """What one lease adds: the three entries of the vxlan backend."""
    high, low = divmod(number, 256)
    subnet, mac = f"10.{64 + high}.{low}.0", f"c6:d2:33:00:{high:02x}:{low:02x}"
    return HostState(
        routes=frozenset([Route(f"{subnet}/24", "flannel.1", subnet, onlink=True)]),
        neighbours=frozenset([Neighbour("flannel.1", subnet, mac)]),
        fdb=frozenset([FdbEntry("flannel.1", mac, f"192.168.{high}.{low}")]),
    )


@click.command(help=__doc__.partition("\n")[0])
@click.option("--peers", type=int, multiple=True, default=(1000, 5000, 10000), show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(peers: tuple[int, ...], rounds: int, json_file: Path | None) -> None:
    """Measure and report."""
    require("ip", "bridge")
    report = Report("programming VXLAN peers", BASELINE)
    for count in peers:
        figures: Figures = {}
        for number in range(rounds):
            progress(f"{count} peers, round {number + 1} of {rounds}")
            measure_baseline(count, figures)
            for subject, nexthop_objects in OURS.items():
                measure(subject, nexthop_objects, count, figures)
        for (what, subject), values in sorted(figures.items()):
            report.add(subject, f"{count} peers: {what}", statistics.median(values), "ms")
    report.show(json_file)


def measure(subject: str, nexthop_objects: bool, count: int, figures: Figures) -> None:
    """Measure one round of ours."""
    parts = [peer(number) for number in range(count)]
    extra = [peer(count + number) for number in range(count // 10)]
    everything = merge([BASE, *parts])
    churned = merge([BASE, *parts[len(extra) :], *extra])

    def timed(what: str, work: Callable[[], Outcome]) -> None:
        gc.collect()
        started = time.perf_counter()
        outcome = work()
        elapsed = time.perf_counter() - started
        if not outcome.ok:
            raise click.ClickException(f"{what}: {outcome.failures[0]}")
        figures.setdefault((what, subject), []).append(elapsed * 1000)

    with BenchNamespace() as name, Kernel(name, nexthop_objects=nexthop_objects) as kernel:
        timed("program", lambda: reconcile(everything, kernel))
        reconcile(everything, kernel)
        timed("no-op", lambda: reconcile(everything, kernel))
        timed("one peer", lambda: reconcile(extra[0], kernel, delta_of=parts[0]))
        timed("churn", lambda: reconcile(churned, kernel))
        timed("delete", lambda: reconcile(BASE, kernel))


def measure_baseline(count: int, figures: Figures) -> None:
    """Measure one round of iproute2 writing the same entries."""
    routes, entries = [], []
    for number in range(count):
        part = peer(number)
        (route,), (neighbour,), (entry,) = part.of(Route), part.of(Neighbour), part.of(FdbEntry)
        routes.append(
            f"neigh {{}} {neighbour.address} lladdr {neighbour.mac} dev flannel.1 nud permanent\n"
            f"route {{}} {route.destination} via {route.via} dev flannel.1 onlink proto 102\n"
        )
        entries.append(f"fdb {{}} {entry.mac} dev flannel.1 dst {entry.remote} self permanent\n")
    with BenchNamespace() as name:
        with Kernel(name) as kernel:
            reconcile(BASE, kernel)
        for what, verb in (("program", "replace"), ("delete", "del")):
            ip, bridge = ("".join(lines).replace("{}", verb) for lines in (routes, entries))
            started = time.perf_counter()
            for tool, text in (("bridge", bridge), ("ip", ip)):
                command = [tool, "-n", name, "-batch", "-"]
                subprocess.run(command, input=text.encode(), check=True, stdout=subprocess.DEVNULL)
            elapsed = time.perf_counter() - started
            figures.setdefault((what, BASELINE), []).append(elapsed * 1000)


class BenchNamespace:
    """A namespace with an underlay device, gone after the block."""

    def __init__(self) -> None:
        self.name = f"fm-bench-{secrets.token_hex(3)}"

    def __enter__(self) -> str:
        """Make it; returns its name."""
        netns.create(self.name)
        for command in (
            "link add eth0 type veth peer name eth1",
            "link set eth0 up",
            "addr add 192.168.64.2/24 dev eth0",
        ):
            subprocess.run(["ip", "-n", self.name, *command.split()], check=True)
        return self.name

    def __exit__(self, *_: object) -> None:
        netns.remove(self.name)


if __name__ == "__main__":
    run(main)
