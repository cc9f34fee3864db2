# SPDX-License-Identifier: Apache-2.0
"""`flatmesh doctor`: what this host lacks or what hinders flatmesh here, and how to fix it.

Reads only. Exit status 1 when something keeps pods from being served; what only limits
flatmesh (no compiler, no WireGuard in the kernel) is printed and does not change it.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

from agent.controllers.host_firewall import WantedAccepts, look
from base.command_line import explained
from base.output import Column, Output, output_option
from base.paths import CNI_BIN_DIR
from cli import networkd
from cni.host import host_from_environment, socket_path
from cni.install import EXECUTABLES
from flannel.udp.backend import NOT_COMPILED
from hostnet.device_probe import missing_kind
from hostnet.kernel import Kernel
from hostnet.nft import tables as nftables
from ipam.subnet_env import SubnetEnv, SubnetEnvError

BIN_DIR = Path(CNI_BIN_DIR)
KINDS = ("vxlan", "bridge", "veth", "wireguard")
NEEDED_KINDS = ("bridge", "veth")
GATEWAY_BRIDGE, SWITCH = "kbr0", "obr0"
"""Devices that have the gateway's address where nothing else was asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    what: str
    good: bool
    text: str
    fatal: bool = True
    """Whether pods can't be served without it."""


def kernel_kinds() -> Iterator[Finding]:
    """Try to make each kind of device, in a namespace that is removed at once."""
    for kind in KINDS:
        problem = missing_kind(kind)
        mend = f"this kernel has none: {problem}; try modprobe {kind}"
        yield Finding(
            f"{kind} devices", problem is None, (problem and mend) or "there", kind in NEEDED_KINDS
        )


def nft() -> Iterator[Finding]:
    """libnftables, and what drops the packets that this host forwards for pods."""
    try:
        nftables.list_tables()
    except nftables.NftError as error:
        yield Finding("nftables", good=False, text=str(error))
        return
    yield Finding("nftables", good=True, text="there")
    try:
        env = SubnetEnv.read(host_from_environment(os.environ).subnet_file)
    except (OSError, SubnetEnvError):
        return  # `host` tells
    found = look(WantedAccepts((*env.networks, *env.ipv6_networks), whole=True))
    closed = [f"missing: {line}" for line in found.lines()] + found.problems
    for text in closed:
        yield Finding("forwarding", good=False, text=text, fatal=False)
    if not closed:
        yield Finding("forwarding", good=True, text="the host's firewalls let the pods through")


def host() -> Iterator[Finding]:
    """This host's lease, daemon and executables."""
    here = host_from_environment(os.environ)
    try:
        env = SubnetEnv.read(here.subnet_file)
        yield Finding("lease", good=True, text=str(env.subnet or env.ipv6_subnet))
    except (OSError, SubnetEnvError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        text = f"{here.subnet_file}: {reason}; is flatmeshd running?"
        yield Finding("lease", good=False, text=text)
    path = socket_path(dict(os.environ))
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            yield Finding("daemon", good=True, text=f"answers at {path}")
        except OSError as error:
            text = f"{path}: {error.strerror}; plugins work without it, but slower"
            yield Finding("daemon", good=False, text=text, fatal=False)
    missing = [name for name in EXECUTABLES if not os.access(BIN_DIR / name, os.X_OK)]
    text = f"{', '.join(missing)} not in {BIN_DIR}: run deploy/install" if missing else str(BIN_DIR)
    yield Finding("CNI executables", not missing, text, fatal=False)


def gateways() -> Iterator[Finding]:
    """The gateway's address on one bridge, not on a leftover of flannel's as well."""
    try:
        env = SubnetEnv.read(host_from_environment(os.environ).subnet_file)
    except (OSError, SubnetEnvError):
        return  # `host` tells
    with Kernel() as kernel:
        there = kernel.addresses()
    for wanted in (env.subnet, env.ipv6_subnet):
        links = sorted({a.address.link for a in there if a.address.address == str(wanted)})
        if not links or links in ([GATEWAY_BRIDGE], [SWITCH]):
            continue
        mend = f"when no pod uses it: ip link del {links[0]}; docs/from-flannel.md tells more"
        fatal = len(links) > 1
        text = f"{wanted} is on {', '.join(links)}: {mend}"
        yield Finding("pods' gateway", good=False, text=text, fatal=fatal)


def device_managers() -> Iterator[Finding]:
    """Whether another program removes routes of ours from the underlay's device."""
    if networkd.networkd_runs() and (settings := networkd.removes()):
        what = f"removes others' routes and rules from its devices ({', '.join(settings)})"
        text = f"{what}; to have it leave them alone: {networkd.mend()}"
        yield Finding("systemd-networkd", good=False, text=text, fatal=False)


def tools() -> Iterator[Finding]:
    """Programs and parts that only some backends need."""
    compiled = find_spec("flannel.udp._plane") is not None
    text = "its C part is compiled" if compiled else f"off: {NOT_COMPILED}"
    yield Finding("backend udp", compiled, text, fatal=False)
    for program, why in (
        (
            "cc",
            "compiles the udp backend and the CNI client: apt-get install gcc libc6-dev",
        ),
        ("wireguard-go", "wireguard without the kernel's needs it: apt-get install wireguard-go"),
        ("ovs-vswitchd", "backend ovs needs it: apt-get install openvswitch-switch"),
    ):
        found = shutil.which(program)
        yield Finding(program, found is not None, found or why, fatal=False)


FINDINGS = (
    Column("what", "What was looked at."),
    Column("good", "Whether it is as it should be."),
    Column("fatal", "Whether pods can't be served without it."),
    Column("text", "What was found; where it is not good, how to mend it."),
)


def release() -> Iterator[Finding]:
    """The kernel, and whether it has nexthop objects."""
    with Kernel() as kernel:
        kind = "there" if kernel.nexthop_objects else "none: plain routes, slower with many peers"
    yield Finding("kernel", good=True, text=f"{os.uname().release}, nexthop objects {kind}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    *(release, kernel_kinds, nft, host),
    *(gateways, device_managers, tools),
)


@explained("flatmesh doctor", exits={1: "something keeps pods from being served; or it can't look"})
@click.command()
@output_option(FINDINGS)
def doctor(output: Output) -> None:
    """Look for what this host lacks, and print how to fix it."""
    if os.geteuid() != 0:
        raise PermissionError("looking at the kernel needs root: run it with sudo")
    console, findings = Console(highlight=False, soft_wrap=True), []
    for check in CHECKS:
        for finding in check():
            findings.append(finding)
            if not output.machine:  # at once: some checks take a while
                console.print(f"{_mark(finding)}  {finding.what}: {finding.text}")
    if output.machine:
        output.show(findings)
    sys.exit(1 if any(one.fatal and not one.good for one in findings) else 0)


def _mark(finding: Finding) -> str:
    if finding.good:
        return "[green]ok [/green]"
    return "[red]BAD[/red]" if finding.fatal else "[yellow]no [/yellow]"
