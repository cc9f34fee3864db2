# SPDX-License-Identifier: Apache-2.0
"""`flatmesh-scheduler`: its command line.

Exit status: 0 after a stop that was asked for (SIGTERM, SIGINT); 1 when it can't run; 2 for wrong
usage. A problem that may pass (no etcd, say) never ends it: it is logged once, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from etcd.errors import EtcdError
from scheduler.errors import SchedulerError
from scheduler.run import run_parts
from scheduler.settings import Settings, etcd_options, etcd_settings

log = logging.getLogger("scheduler")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def command() -> None:
    """Run services, tasks and pods on the flat network, driven by the docker client."""


@command.command()
@etcd_options
@click.option("--manager/--no-manager", help="Lead, or be ready to lead, and serve Docker's API.")
@click.option("--worker/--no-worker", help="Run tasks on this host.")
@click.option(
    "--rebalance/--no-rebalance",
    help="Move running tasks, one at a time, to nodes that have fewer; of one service: the label "
    "flatmesh.rebalance=true.",
)
@click.option(
    "--node-id",
    envvar="FLATMESH_SCHEDULER_NODE_ID",
    default="",
    help="This node's id; default: one that is made once and kept in the state directory.",
)
@click.option(
    "--hostname",
    envvar="FLATMESH_HOST_NAME",
    default="",
    help="This node's name; default: the machine's.",
)
@click.option(
    "--address", default="", help="This host's address, as its lease in the network has it."
)
@click.option("--label", multiple=True, help="A label of this node: NAME=VALUE; may be repeated.")
@click.option(
    "--runtime",
    type=click.Choice(["process", "containerd"]),
    default="process",
    help="What runs containers.",
)
@click.option(
    "--containerd-socket",
    default="/run/containerd/containerd.sock",
    help="Where containerd's CRI is served.",
)
@click.option(
    "--socket",
    default="/run/flatmesh-scheduler/docker.sock",
    type=click.Path(path_type=Path),
    help="Unix socket of Docker's API.",
)
@click.option("--listen", default="", help="Serve Docker's API on HOST:PORT, too, by mutual TLS.")
@click.option(
    "--metrics-listen",
    default="",
    help="Serve figures of this node's tasks for Prometheus on HOST:PORT, to anybody who asks.",
)
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate (PEM) of the API.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option("--tls-ca", type=click.Path(path_type=Path), help="CA (PEM) of the API's clients.")
@click.option(
    "--state-dir",
    default="/var/lib/flatmesh-scheduler",
    type=click.Path(path_type=Path),
    help="Node id, logs, state of tasks.",
)
@click.option(
    "--cni-conf-dir",
    default="/etc/cni/net.d",
    type=click.Path(path_type=Path),
    help="The first conflist in it attaches tasks.",
)
@click.option(
    "--cni-bin-dir",
    default="/opt/cni/bin",
    type=click.Path(path_type=Path),
    help="CNI executables.",
)
def run(**flags: Any) -> None:
    """Run a manager, a worker or both in this process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    etcd = etcd_settings(flags)
    settings = Settings(etcd=etcd, **flags)
    if not (settings.manager or settings.worker):
        raise click.UsageError("nothing to run: give --manager, --worker or both")
    asyncio.run(_until_stopped(settings))


async def _until_stopped(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_parts(settings, stop)


def main() -> None:
    """Run the command line."""
    try:
        command(prog_name="flatmesh-scheduler")
    except (SchedulerError, EtcdError, OSError) as error:
        click.echo(f"flatmesh-scheduler: {error}", err=True)
        sys.exit(1)
