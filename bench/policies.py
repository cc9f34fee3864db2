# SPDX-License-Identifier: Apache-2.0
"""Network policies at scale, beside `nft -f` with the same table as text.

    python -m bench.policies [--policies 1000] [--pods 100] [--others 2000] [--json FILE]

Policies in ten namespaces, whose pods are evenly spread: `--pods` of them are this host's,
`--others` run elsewhere. Each policy selects a tenth of its namespace's pods, so that all concern
this host, and lets two groups of pods and a network in, on two ports.

    start         from what the API server tells to all of it in the kernel
    compute       of that, without the kernel
    label         a peer's label changes: elements of sets
    policy        a policy changes: its own chains
    new pod       a pod is made on this host, until its policies are in the kernel
    look          all is read back and compared, as a resync does

The baseline's `start` is `nft -f -` of what `nft list table` prints; its `label` and `policy` are
the same commands for the elements and chains alone.
"""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from hostnet import netns
from hostnet.nft.chain_table import ChainTable, ChainTableSocket, changes
from hostnet.ownership import POLICY_TABLE
from policy.base_chains import PodNetwork
from policy.model import (
    Block,
    Namespace,
    Pod,
    PodGroup,
    Policy,
    PolicyChanges,
    Ports,
    Rule,
    Selector,
)
from policy.table import PolicyTable

SUBJECT, BASELINE = "flatmesh", "nft -f"
NAMESPACES, TIERS = 10, 10
FIRST = IPv4Address("10.5.1.0")
SINGLES = 20


def pod(number: int, node: str, **labels: str) -> Pod:
    """One of the cluster's pods."""
    about = {"tier": f"t{number // NAMESPACES % TIERS}", "app": f"a{number % 50}", **labels}
    namespace = f"n{number % NAMESPACES}"
    return Pod(namespace, f"p{number}", about, (FIRST + number + 2,), node)


def policy(number: int, port: int = 80) -> Policy:
    """One of the policies."""
    tier = Selector((("tier", f"t{number // NAMESPACES % TIERS}"),))
    peers = (
        PodGroup(Selector((("app", f"a{number % 50}"),)), f"n{number % NAMESPACES}"),
        PodGroup(tier, "", Selector((("team", f"x{number % 3}"),))),
        Block(IPv4Network(f"172.{16 + number % 16}.0.0/16")),
    )
    ports = (Ports("tcp", port, port), Ports("udp", 5000, 5000 + number))
    return Policy(f"n{number % NAMESPACES}", f"p{number}", tier, (Rule(peers, ports),))


def everything(policies: int, pods: int, others: int) -> PolicyChanges:
    """What the API server tells at the begin."""
    found = [pod(n, "here" if n < pods else "there") for n in range(pods + others)]
    spaces = [Namespace(f"n{n}", {"team": f"x{n % 3}"}) for n in range(NAMESPACES)]
    made = [policy(n) for n in range(policies)]
    return PolicyChanges(
        {one.key: one for one in made},
        {one.key: one for one in found},
        {one.name: one for one in spaces},
    )


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


class MeasuredTable:
    """The table under test, and what of it is in a namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = PolicyTable("here", PodNetwork((IPv4Network("10.5.0.0/16"),)))
        self.kernel = ChainTableSocket(name)
        self.applied: ChainTable | None = None

    def take(self, told: PolicyChanges) -> None:
        """Take a change in, and have the kernel follow."""
        self.table.take(told)
        wanted = self.table.wanted()
        self.kernel.apply(changes(self.applied, wanted))
        self.applied = wanted

    def look(self) -> None:
        """As a resync."""
        wanted = self.table.wanted()
        if changes(self.kernel.read(wanted), wanted):
            raise click.ClickException("the kernel's table is not as wanted")

    def measure(self, told: PolicyChanges, pods: int) -> dict[str, float]:
        """Milliseconds of each figure."""
        compute = PolicyTable("here", self.table.network)

        def computed() -> None:
            compute.take(told)
            compute.wanted()

        found = {"compute": timed(computed), "start": timed(partial(self.take, told))}
        labels, specs, new = [], [], []
        for number in range(SINGLES):
            peer = pod(number + pods, "there", app=f"a{(number + 7) % 50}")
            labels.append(timed(partial(self.take, PolicyChanges(pods={peer.key: peer}))))
            spec = policy(number * 7, port=81)
            specs.append(timed(partial(self.take, PolicyChanges({spec.key: spec}))))
            extra = pod(60_000 + number, "here")
            new.append(timed(partial(self.take, PolicyChanges(pods={extra.key: extra}))))
        medians = {"label": labels, "policy": specs, "new pod": new}
        found |= {what: statistics.median(values) for what, values in medians.items()}
        found["look"] = timed(self.look)
        return found


def measure_text(name: str, listing: str) -> dict[str, float]:
    """Milliseconds for `nft -f -` of the whole, and of small parts."""

    def nft(text: str) -> None:
        subprocess.run(
            ["ip", "netns", "exec", name, "nft", "-f", "-"], input=text, text=True, check=True
        )

    found = {"start": timed(lambda: nft(listing))}
    where = f"inet {POLICY_TABLE}"
    peers = next(line.split()[1] for line in listing.splitlines() if "set pods4_" in line)
    chain = next(line.split()[1] for line in listing.splitlines() if "chain ingress_" in line)
    element = f"element {where} {peers} {{ 10.99.0.1 }}"
    found["label"] = statistics.median(
        [timed(lambda: nft(f"add {element}\n")), timed(lambda: nft(f"delete {element}\n"))]
    )
    rules = f"flush chain {where} {chain}\nadd rule {where} {chain} tcp dport 81 accept\n"
    found["policy"] = statistics.median([timed(lambda: nft(rules)) for _ in range(3)])
    return found


@click.command()
@click.option("--policies", default=1000, show_default=True)
@click.option("--pods", default=100, show_default=True)
@click.option("--others", default=2000, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(policies: int, pods: int, others: int, json_file: Path | None) -> None:
    """Measure both and print the table."""
    require("nft")
    report = Report(f"{policies} network policies, {pods} pods here, {others} elsewhere", BASELINE)
    names = [f"bench-{secrets.token_hex(4)}" for _ in range(2)]
    for name in names:
        netns.create(name)
    try:
        progress("flatmesh")
        before = resident()
        told = everything(policies, pods, others)
        values = resident()
        measured = MeasuredTable(names[0])
        for what, value in measured.measure(told, pods).items():
            report.add(SUBJECT, what, value, "ms")
        report.add(SUBJECT, "memory: what is told", values - before, "MiB")
        report.add(SUBJECT, "memory: what follows", resident() - values, "MiB")
        applied = measured.applied
        rules = sum(map(len, applied.chains.values())) if applied is not None else 0
        report.add(SUBJECT, "rules", rules, "")
        progress("nft -f")
        command = ["ip", "netns", "exec", names[0], "nft", "list", "table", "inet", POLICY_TABLE]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for what, value in measure_text(names[1], listing).items():
            report.add(BASELINE, what, value, "ms")
    finally:
        for name in names:
            netns.remove(name)
    report.rows.sort(key=lambda row: row.what)
    report.show(json_file)


def resident() -> float:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    run(main)
