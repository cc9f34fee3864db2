# SPDX-License-Identifier: Apache-2.0
"""The host firewall controller: other programs' firewalls let the pods' packets through.

iptables (in both forms), and with it Docker and ufw; firewalld; and what is left of nftables is
reported, as only who wrote a chain knows where in it an accept belongs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from agent.controller import Change, Dirty, Report
from agent.inputs import ReconcileInputs
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError
from flannel import host_table
from hostnet import firewalld
from hostnet.iptables import forward_rules, programs
from hostnet.iptables.programs import Iptables
from hostnet.nft import forward_chains
from hostnet.nft import tables as nftables
from hostnet.nft.watch import NftWatch
from ipam.subnet_env import SubnetEnv, SubnetEnvError

log = logging.getLogger("agent.host_firewall")
PAUSE = 0.3
"""Seconds between two looks: kube-proxy and others rewrite their rules many times in a row."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class WantedAccepts:
    """What is to be let through."""

    networks: tuple[Network, ...]
    """Of the cluster; empty when the rules are not wanted: then ours are taken away."""
    whole: bool
    """Whether to look everywhere, or only where the kernel tells of no changes."""


@dataclass(slots=True)
class Findings:
    """What one look found: the changes to make, and what can't be mended."""

    changes: list[tuple[Iptables, list[str]]] = field(default_factory=list)
    untrusted: list[Network] = field(default_factory=list)
    """Networks that firewalld has to be told of."""
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The changes as commands."""
        done = [f"{tool.name} {line}" for tool, lines in self.changes for line in lines]
        return done + [firewalld.line(network) for network in self.untrusted]


class HostFirewallController:
    """Fits `agent.controller.Controller`."""

    name = "host firewall"
    depends_on = Change.FIREWALL | Change.CLOCK
    rereads_on = Change.FIREWALL
    after = ()
    preferably_after = ()
    required_for_pods = False
    worker = "host firewall"

    def __init__(self, watch: NftWatch, subnet_file: Path, *, wanted: bool) -> None:
        """Take the watch, which `close` closes; `wanted` is --iptables-forward-rules.

        `subnet_file` tells `cleanup` which networks this host had.
        """
        self._watch = watch
        self._subnet_file = subnet_file
        self._trusted: frozenset[Network] = frozenset()
        """What firewalld was told of, or had, at the last look."""
        self._wanted = wanted
        self._looked = 0.0

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> WantedAccepts:
        """The cluster's networks."""
        host = inputs.host
        networks = [network for network, _ in host_table.families(host.config, host.own)]
        return WantedAccepts(tuple(networks) if self._wanted else (), dirty.whole)

    def apply(self, desired: WantedAccepts) -> Report:
        """Look, and write what differs. Raises NftError."""
        if desired.whole:
            time.sleep(max(0.0, self._looked + PAUSE - time.monotonic()))
        findings = look(desired)
        problems = list(findings.problems)
        for tool, lines in findings.changes:
            try:
                _write(tool, lines, desired.networks)
            except programs.IptablesError as problem:
                problems.append(str(problem))
        for network in findings.untrusted:
            try:
                firewalld.trust(network)
            except firewalld.FirewalldError as problem:
                problems.append(str(problem))
        if desired.whole:
            problems += self._distrust([*self._trusted.difference(desired.networks)])
            self._trusted = frozenset(desired.networks)
        self._looked = time.monotonic()
        return Report(len(findings.lines()), findings.lines, problems)

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """The commands; what stands in the way as comments."""
        findings = look(self.desired(inputs, Dirty(whole=True)))
        return findings.lines() + [f"# {problem}" for problem in findings.problems]

    def status(self) -> str | None:
        """Nothing to ask: what could not be opened is in the report."""
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Stop watching; the rules stay."""
        self._watch.close()

    def cleanup(self) -> list[str]:
        """Take our rules away. Raises NftError."""
        report = self.apply(WantedAccepts((), whole=True))
        for line in report.lines():
            log.info("%s", line)
        problems = report.failures
        # where no lease was published there is nothing to undo
        with contextlib.suppress(SubnetEnvError, OSError):
            env = SubnetEnv.read(self._subnet_file)
            problems += self._distrust([*env.networks, *env.ipv6_networks])
        return problems

    def _distrust(self, networks: Sequence[Network]) -> list[str]:
        """Take networks out of firewalld's zone; the problems, a line each."""
        try:
            if networks and firewalld.TABLE in nftables.list_tables():
                firewalld.distrust(networks)
        except FlatmeshError as problem:
            return [str(problem)]
        return []


def look(desired: WantedAccepts) -> Findings:
    """Compare what is there with what is wanted. Raises NftError."""
    findings = Findings()
    for tool in programs.present() if desired.whole else programs.legacy():
        try:
            lines = forward_rules.changes(tool.read(), tool.of_its_family(desired.networks))
        except programs.IptablesError as problem:
            findings.problems.append(str(problem))
            continue
        if lines:
            findings.changes.append((tool, lines))
    if desired.whole and desired.networks:
        _look_at_the_rest(desired.networks, findings)
    return findings


def _write(tool: Iptables, lines: list[str], networks: Sequence[Network]) -> None:
    """Write; when others have changed the table since we read it, read it again, once.

    Raises IptablesError.
    """
    try:
        tool.write(lines)
    except programs.IptablesError:
        again = forward_rules.changes(tool.read(), tool.of_its_family(networks))
        if again:
            tool.write(again)


def _look_at_the_rest(networks: Sequence[Network], findings: Findings) -> None:
    try:
        if firewalld.TABLE in nftables.list_tables():
            findings.untrusted = firewalld.missing(networks)
    except FlatmeshError as problem:
        findings.problems.append(str(problem))
    findings.problems += forward_chains.refused(networks)
