# SPDX-License-Identifier: Apache-2.0
"""The ovs backend beside a switch that somebody set up by hand, and among many leases.

    python -m bench.ovs [--seconds 1] [--rounds 5] [--tunnel gre]... [--only traffic|scale]

Traffic, pod to pod between two hosts, per tunnel type and mesh:

    TCP 1 stream    received Gbit/s, by iperf3
    CPU per GiB     seconds that all processors were busy, per GiB of it
    round trip      ping, median

The baseline is the classic userspace recipe, made by hand in the same run: NIC and address moved
into `br-phy`, one tunnel port in `br0` that switches as it learns (NORMAL), a Linux bridge with
the pods joined to it. Pods have the same MTU and frames the same header. All paths of a tunnel
type are up at the same time and runs alternate between them; each figure is the median of the
rounds. Raw underlay and kernel VXLAN show what userspace costs.

Scale, one real daemon (mesh flow) among leases that were written to a real etcd:

    cold            from the daemon's start, no bridge there, to the flow of every peer
    one more lease  from before its write in etcd to its flow, after a second without writes, median
    back to back    the same for leases written one after the other without a pause
    in the daemon   of that, as its log says: from reading the switch to the last change
    settling        CPU seconds of the daemon in the 5 s after its cold start
    restart         after a kill: from ovs-vswitchd's first answer to the flow of every peer

There the baseline is `ovs-ofctl --bundle add-flows` writing the same flows to a new bridge,
and then those of one more peer.

Source of the recipe: Open vSwitch, Documentation/howto/userspace-tunneling.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from bench.ovs.recipe import HAND_MADE
from bench.ovs.scale import scale
from bench.ovs.traffic import show_goals, traffic
from bench.prerequisites import require, run
from bench.report import Report
from lab.hosts import LabError
from ovs_mesh.config import TUNNELS


@click.command(help=__doc__.partition("\n")[0])
@click.option("--seconds", default=1, show_default=True, help="Per iperf3 run.")
@click.option("--rounds", default=5, show_default=True, help="Runs per figure; the median counts.")
@click.option(
    "--tunnel",
    "tunnels",
    multiple=True,
    type=click.Choice(TUNNELS),
    default=("gre", "vxlan"),
    show_default=True,
)
@click.option("--leases", type=int, multiple=True, default=(1000, 5000), show_default=True)
@click.option("--only", type=click.Choice(["traffic", "scale"]), help="Leave out the other.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(
    seconds: int,
    rounds: int,
    tunnels: tuple[str, ...],
    leases: tuple[int, ...],
    only: str | None,
    json_file: Path | None,
) -> None:
    """Measure and print."""
    require("ethtool", "ip", "iperf3", "nsenter", "ovs-vswitchd", "ping", "sysctl")
    report = Report("ovs backend", HAND_MADE)
    try:
        with tempfile.TemporaryDirectory() as directory:
            if only != "scale":
                report = traffic(tunnels, seconds, rounds, Path(directory))
            if only != "traffic":
                scale(leases, Path(directory), report)
    except (LabError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    finally:  # figures of the first half are shown even if the second fails
        if report.rows:
            report.show(json_file)
            if only != "scale":
                show_goals(report, tunnels)


if __name__ == "__main__":
    run(main)
