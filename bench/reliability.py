# SPDX-License-Identifier: Apache-2.0
"""What faults and live changes cost running traffic, and how long the cluster takes to converge.

    python -m bench.reliability [--json FILE]

A lab of three hosts with one pod each; a stream of 500 datagrams a second from a pod on h1 to
one on h3 runs through every fault. `lost` is what did not arrive, in milliseconds of stream;
`converged` is the time from the fault (or its end) until every host is right again. There is
no baseline to compare with. docs/reliability.md has the table of a run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from lab import processes
from lab.cluster import Lab
from lab.hosts import host_ipv4
from lab.spec import LabSpec
from lab.watched_stream import SEND_INTERVAL, watched_stream

RECOVERY_TIMEOUT = 60.0  # seconds
OUTAGE = 10.0  # seconds
BEFORE_AND_AFTER = 0.5  # seconds of quiet stream around each fault


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, or a live change, and how it is made and ended."""

    name: str
    begin: Callable[[Lab], None]
    end: Callable[[Lab], None]
    right: Callable[[Lab], bool]
    """Whether every host has all its kernel objects again."""
    outage: float = 0.0
    """Seconds between begin and end."""


def on(lab: Lab, number: int, command: str) -> str:
    """Run a command on a host (0: the underlay); what fails prints nothing."""
    netns = lab.names.host(number) if number else lab.names.underlay
    done = subprocess.run(
        [*processes.enter(netns), *command.split()], capture_output=True, text=True, check=False
    )
    return done.stdout


def nothing(_: Lab) -> None:
    """Do nothing: the daemon repairs this fault without an end of ours."""


def whole(lab: Lab) -> bool:
    """Whether every host has its device, and route, neighbour and FDB entry of both peers."""
    return all(
        on(lab, number, "ip route show dev flannel.1").count("onlink") == 2
        and on(lab, number, "ip neigh show dev flannel.1").count("PERMANENT") == 2
        and on(lab, number, "bridge fdb show dev flannel.1").count("dst") == 2
        and "masquerade" in on(lab, number, "nft list table inet flatmesh")
        for number in lab.host_numbers
    )


def plain(lab: Lab) -> bool:
    """Whether every host runs host-gw and has no VXLAN device left."""
    return all(
        on(lab, number, "ip route").count("via 192.168.64.1") == 3
        and "flannel.1" not in on(lab, number, "ip link")
        for number in lab.host_numbers
    )


def registered(lab: Lab) -> bool:
    """Whether etcd holds all leases."""
    listing = on(lab, 0, f"etcdctl --endpoints={lab.endpoint} get --prefix / --keys-only")
    return listing.count("/subnets/") == lab.spec.hosts and whole(lab)


def kill_daemon(lab: Lab) -> None:
    """SIGKILL h1's daemon."""
    pid = lab.daemon_pid(1)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        processes.stop([pid])


def start_daemon(lab: Lab) -> None:
    """Start h1's daemon again."""
    lab.start_daemon(1)
    lab.wait_ready(1)


def empty_etcd(lab: Lab) -> None:
    """Kill etcd and delete its data."""
    lab.etcd.kill()
    lab.etcd.wipe()


def refill_etcd(lab: Lab) -> None:
    """Start etcd without data; the operator writes the cluster config again."""
    lab.start_etcd()
    lab.configure(lab.spec.cluster_config())


def cut(lab: Lab) -> None:
    """Drop what etcd sends to h1; all other traffic passes."""
    on(lab, 1, "nft add table ip cut")
    on(lab, 1, "nft add chain ip cut input { type filter hook input priority 0 ; }")
    on(lab, 1, "nft add rule ip cut input tcp sport 2379 drop")


def mend(lab: Lab) -> None:
    """Undo `cut`."""
    on(lab, 1, "nft delete table ip cut")


def by_hand(command: str) -> Callable[[Lab], None]:
    """Return a fault: somebody types this command on h1."""

    def typed(lab: Lab) -> None:
        on(lab, 1, command)

    return typed


def move(lab: Lab) -> None:
    """Give h1 another underlay address."""
    on(lab, 1, f"ip addr add {host_ipv4(1)[:-2]}99/24 dev eth0")
    on(lab, 1, f"ip addr del {host_ipv4(1)}/24 dev eth0")
    on(lab, 1, f"ip addr add {host_ipv4(1)[:-2]}99/24 dev eth0")
    on(lab, 1, "ip route replace default via 192.168.64.1")


def moved(lab: Lab) -> bool:
    """Whether the peers' FDB entries hold the new address."""
    return whole(lab) and all(
        "192.168.64.99" in on(lab, number, "bridge fdb show dev flannel.1") for number in (2, 3)
    )


def change_backend(kind: str) -> Callable[[Lab], None]:
    """Write another backend into the cluster config."""
    return lambda lab: lab.configure({"Network": lab.spec.network, "Backend": {"Type": kind}})


FAULTS = (
    Fault("daemon killed, started again", kill_daemon, start_daemon, whole, 2.0),
    Fault("etcd away", lambda lab: lab.etcd.kill(), Lab.start_etcd, registered, OUTAGE),
    Fault("etcd hangs", lambda lab: lab.etcd.pause(), lambda lab: lab.etcd.resume(), whole, OUTAGE),
    Fault("etcd restarted empty", empty_etcd, refill_etcd, registered, 2.0),
    Fault("host cut off from etcd", cut, mend, registered, OUTAGE),
    Fault("VXLAN device deleted", by_hand("ip link del flannel.1"), nothing, whole),
    Fault("nexthops and routes flushed", by_hand("ip nexthop flush proto 102"), nothing, whole),
    Fault("FDB flushed", by_hand("bridge fdb flush dev flannel.1"), nothing, whole),
    Fault("nft table deleted", by_hand("nft delete table inet flatmesh"), nothing, whole),
    Fault("vxlan to host-gw", change_backend("host-gw"), nothing, plain),
    Fault("host-gw to vxlan", change_backend("vxlan"), nothing, whole),
    Fault("underlay address changed", move, nothing, moved),
)


def measure(lab: Lab, fault: Fault, report: Report) -> None:
    """Make the fault happen while the stream runs, and report what it cost."""
    sender, receiver = lab.pods[0], lab.pods[-1]
    with watched_stream(sender, receiver) as stream:
        time.sleep(BEFORE_AND_AFTER)
        fault.begin(lab)
        time.sleep(fault.outage)
        ended = time.monotonic()
        fault.end(lab)
        while not fault.right(lab):
            if time.monotonic() - ended > RECOVERY_TIMEOUT:
                raise click.ClickException(f"{fault.name}: not right after {RECOVERY_TIMEOUT:g} s")
        converged = time.monotonic() - ended
        time.sleep(BEFORE_AND_AFTER)
    report.add(fault.name, "converged", converged * 1000, "ms")
    report.add(fault.name, "lost", stream.lost * SEND_INTERVAL * 1000, "ms")


@click.command(help=__doc__.partition("\n")[0])
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(json_file: Path | None) -> None:
    """Measure and report."""
    require("ip", "nsenter")
    report = Report("faults", baseline="none")
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(LabSpec("benchfaults", 3, 1), Path(directory))
        try:
            progress("a lab of three hosts")
            lab.up()
            for number, fault in enumerate(FAULTS, 1):
                progress(f"{number} of {len(FAULTS)}: {fault.name}")
                measure(lab, fault, report)
        finally:
            lab.down()
    report.show(json_file)


if __name__ == "__main__":
    run(main)
