# SPDX-License-Identifier: Apache-2.0
"""`flatmeshd`: the daemon's command line.

Exit status: 0 after a stop that was asked for (SIGTERM, SIGINT), after --cleanup, --dry-run;
1 when it can't run here (not root, another one runs, a port is taken); 2 for wrong usage.
A problem that may pass (no etcd, no config, no free subnet) never ends it: it is logged once, and
tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import click

from agent import health, logs
from agent.check.service import taking_part
from agent.cleanup import clean_up
from agent.controller import Change
from agent.controllers import make_controllers, open_resources
from agent.dry_run import dry_run
from agent.flanneld.flags import flanneld_options, notes
from agent.kube_options import kube_options, take_kube_settings
from agent.lease_sources import SOURCES
from agent.leases.machine_mark import doubt_copied_state, this_machine
from agent.loop import HostController
from agent.pod_server import serve_pods
from agent.policy.feed import PolicyFeed
from agent.policy.feed import start_following as follow_policies
from agent.policy.sources import source_for
from agent.preflight import LOCK_FILE, make_directory
from agent.services.feed import start_following
from agent.services.vips import start_holding
from agent.settings import (
    AddressType,
    AnyAddressType,
    Settings,
    boolean,
    etcd_options,
    etcd_settings,
    go_flags,
)
from agent.status.announcer import announcing
from agent.status.serve import serve_status
from agent.systemd.notify import NotifySocket
from agent.systemd.service import Service
from base import paths
from base.command_line import Choice, color_setting, complete, explained, version_option
from base.errors import FlatmeshError, one_line
from base.private_files import open_private
from docker_plugin.service import serve_docker
from hostnet.kernel import Kernel
from ipam.lease_source import LeaseSource

log = logging.getLogger("agent")
COLLECT_AFTER = 50_000, 50, 100
"""Objects more than at the last collection, and collections of each generation until the next's."""


@complete
@explained(
    "flatmeshd --etcd-endpoints http://192.168.64.1:2379 --iface eth1 --ip-masq",
    "flatmeshd --dry-run     # what it would change, as ip commands",
    "flatmeshd --cleanup     # remove all that is ours, give the lease back",
    exits={
        0: "stopped by SIGTERM or SIGINT; done, with --dry-run or --cleanup",
        1: "it can't run here (not root, another one runs, a port is taken), or --cleanup failed",
    },
)
@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@etcd_options
@kube_options
@click.option(
    "--host-name",
    envvar="FLATMESH_HOST_NAME",
    default="",
    help="How flatmesh commands on other hosts name this one; default: the machine's name.",
)
@click.option(
    "--iface", multiple=True, envvar="FLANNELD_IFACE", help="Underlay device, or its address."
)
@click.option(
    "--iface-regex", multiple=True, envvar="FLANNELD_IFACE_REGEX", help="The same, by pattern."
)
@click.option(
    "--public-ip",
    envvar="FLANNELD_PUBLIC_IP",
    type=AddressType(IPv4Address),
    help="Address that peers reach us by (1:1 NAT).",
)
@click.option(
    "--public-ipv6",
    envvar="FLANNELD_PUBLIC_IPV6",
    type=AddressType(IPv6Address),
    help="The same for IPv6.",
)
@click.option(
    "--subnet-file",
    envvar=["FLATMESH_SUBNET_FILE", "FLANNELD_SUBNET_FILE"],
    default=paths.SUBNET_FILE,
    type=click.Path(path_type=Path),
    help="Where the lease is written for CNI plugins.",
)
@click.option(
    "--run-dir",
    envvar="FLATMESH_RUN_DIR",
    default=paths.RUN_DIR,
    type=click.Path(path_type=Path),
    help="Socket and other things that don't outlive a boot.",
)
@click.option(
    "--state-dir",
    envvar="FLATMESH_STATE_DIR",
    default=paths.STATE_DIR,
    type=click.Path(path_type=Path),
    help="Pod addresses and keys.",
)
@click.option(
    "--host-local-dir",
    envvar="FLATMESH_HOST_LOCAL_DIR",
    default=paths.HOST_LOCAL_DIR,
    type=click.Path(path_type=Path),
    help="Addresses that host-local has given, to pods of flannel's: no pod gets one of them.",
)
@boolean("--ip-masq", envvar="FLANNELD_IP_MASQ", help="Masquerade what leaves the cluster.")
@click.option(
    "--docker-plugin",
    envvar="FLATMESH_DOCKER_PLUGIN",
    type=click.Path(path_type=Path),
    help=f"Serve Docker's network and IPAM driver on this socket: {paths.DOCKER_PLUGIN}.",
)
@boolean(
    "--docker-bridge",
    envvar="FLATMESH_DOCKER_BRIDGE",
    help="Make kbr0 before the first pod, and keep it: dockerd's bridge (flatmesh docker-options).",
)
@boolean(
    "--iptables-forward-rules",
    "forward_rules",
    default=True,
    envvar="FLANNELD_IPTABLES_FORWARD_RULES",
    help="Let the cluster's networks through the host's firewall: iptables' FORWARD, firewalld.",
)
@boolean(
    "--network-policy",
    envvar="FLATMESH_NETWORK_POLICY",
    help="Enforce network policies on this host's pods. With --kube-subnet-mgr.",
)
@click.option(
    "--resolv-conf",
    envvar="FLATMESH_RESOLV_CONF",
    default=paths.RESOLV_CONF,
    type=click.Path(path_type=Path),
    help="Names the resolvers that answer pods what is not a service's name (ServiceZone).",
)
@click.option(
    "--healthz-ip",
    envvar="FLANNELD_HEALTHZ_IP",
    default="127.0.0.1",
    type=AnyAddressType(),
    help="Address of --healthz-port. Whoever reaches it reads the metrics.",
)
@click.option(
    "--healthz-port",
    envvar="FLANNELD_HEALTHZ_PORT",
    default=0,
    type=click.IntRange(0, 65535),
    help="Port of /healthz, /readyz and /metrics; 0 is off.",
)
@click.option(
    "--resync",
    envvar="FLATMESH_RESYNC",
    default=300.0,
    type=click.FloatRange(min=1),
    help="Seconds between two looks at the kernel when nothing seems to happen.",
)
@click.option(
    "--subnet-lease-ttl",
    "lease_ttl",
    envvar="FLATMESH_SUBNET_LEASE_TTL",
    default=86400,
    type=click.IntRange(min=5),
    help="Seconds a lease lives when nobody renews it.",
)
@click.option(
    "--log-level",
    envvar="FLATMESH_LOG_LEVEL",
    default="info",
    type=Choice(logs.LEVELS),
    help="The least important messages that are shown.",
)
@flanneld_options
@click.option(
    "--log-format",
    default="text",
    type=Choice(["text", "json"]),
    help="A line is key=value pairs, or a JSON object.",
)
@click.option("--dry-run", "only_plan", is_flag=True, help="Print what would change, and stop.")
@click.option(
    "--cleanup",
    is_flag=True,
    help="Remove all that is ours from this host, give the lease back, and stop.",
)
@click.option("--force", is_flag=True, help="With --cleanup: although pods run here.")
@version_option("flatmeshd")
def command(
    log_level: str,
    log_format: str,
    verbosity: int,
    *,
    only_plan: bool,
    cleanup: bool,
    force: bool,
    **flags: Any,
) -> None:
    """Keep this host in the overlay network: lease a subnet, reach every peer's."""
    quiet = only_plan and log_level == "info"  # the plan, or one line why there is none
    level = "warning" if quiet else log_level
    logs.set_up("debug" if verbosity > 0 else level, as_json=log_format == "json")
    for line in notes(click.get_current_context(), os.environ):
        log.warning(line)
    etcd, kube = etcd_settings(flags), take_kube_settings(flags)
    source = "etcd" if kube is None else "kubernetes"
    settings = Settings(
        lease_source=source, etcd=etcd if kube is None else None, kube=kube, **flags
    )
    if os.geteuid() != 0:
        raise click.ClickException("changing the network needs root: run it with sudo")
    if only_plan:
        sys.exit(asyncio.run(dry_run(settings)))
    with only_one(settings.run_dir):
        if cleanup:
            sys.exit(clean_up(settings, force=force))
        asyncio.run(serve(settings))


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold this host's lock; the kernel frees it when the process ends. Raises ClickException."""
    make_directory("--run-dir", run_dir)
    with open(run_dir / LOCK_FILE, "w", opener=open_private) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"another flatmeshd holds {lock.name}: stop it, or give this one its own --run-dir"
            ) from None
        yield


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; the data plane stays as it is."""
    make_directory("--state-dir", settings.state_dir)
    with Kernel() as kernel:
        doubt_copied_state(settings.state_dir, this_machine(kernel))
    (settings.run_dir / paths.READY_FILE).unlink(missing_ok=True)
    collect_rarely()
    faulthandler.enable()  # systemd's watchdog ends a daemon that hangs by SIGABRT: say where
    manager = NotifySocket.take(os.environ)
    manager.tell("STATUS=starting")
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        source = await stack.enter_async_context(SOURCES[settings.lease_source](settings))
        policies = PolicyFeed(settings.network_policy)
        host = host_controller(settings, source, policies, stack)
        pods = stack.enter_context(serve_pods(settings, host, policies))
        if settings.docker_plugin is not None:
            stack.enter_context(serve_docker(settings.docker_plugin, pods.host))
        stack.enter_context(serve_status(settings, host))
        if settings.healthz_port:
            stack.callback(
                health.serve(
                    settings.healthz_ip,
                    settings.healthz_port,
                    host.metrics.registry,
                    lambda: time.monotonic() - host.last_beat < health.STALL_TIMEOUT,
                    host.readiness,
                    host.more_lines,
                )
            )
        log.info("flatmeshd starts: leases from %s", settings.lease_source)
        service = Service(manager, host)
        loop.add_signal_handler(signal.SIGHUP, service.reload)
        stack.enter_context(announcing(settings, host))
        await stack.enter_async_context(taking_part(settings))
        running = asyncio.create_task(host.run(), name="host controller")
        telling = asyncio.create_task(service.run(), name="service manager")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({running, telling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            log.info("stopping; packets flow on")
        for task in (telling, running, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        with contextlib.suppress(asyncio.CancelledError):
            await running


def collect_rarely() -> None:
    """Have the garbage collector look at what is new only, and all but never at everything.

    With 100,000 endpoints in memory a look at everything stops the daemon for 100 ms, and reading
    them made for ten of those. What is freed by reference counts, all but some frames of
    exceptions, needs no collector.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def host_controller(
    settings: Settings,
    source: LeaseSource,
    policies: PolicyFeed,
    stack: contextlib.AsyncExitStack,
) -> HostController:
    """The host's controllers with their sockets in this namespace, closed by `stack`."""
    policies_from = source_for(settings)
    resources = open_resources(settings, stack)
    resources.policies = policies
    events = (
        (resources.overlay, Change.KERNEL),
        (resources.forwarding, Change.NFTABLES),
        (resources.encryption, Change.NFTABLES),
        (resources.services, Change.NFTABLES),
        (resources.mesh, Change.MESH),
        (resources.forward_chains, Change.FIREWALL),
        (resources.pod_guard, Change.GUARD),
        (resources.redirect, Change.REDIRECT),
        (resources.pod_links, Change.POD_LINKS),
        (resources.pod_tables, Change.POD_LINKS),
        (resources.policy_table, Change.POLICY_TABLE),
    )
    host = HostController(
        settings,
        source,
        make_controllers(resources),
        events,
        resources.data_plane,
        stack.enter_context(Kernel()),
        lambda: resources.etcd.addresses(again=False),
    )
    resources.feed.on_change = lambda: host.changed(Change.SERVICES, ["services changed"])
    start_following(settings.etcd, resources.feed, stack)
    policies.on_change = lambda why: host.changed(Change.POLICIES, [why])
    policies.on_isolation = lambda why: host.changed(Change.PODS, [why])
    follow_policies(settings, policies, policies_from, stack)
    start_holding(settings.etcd, resources.vips, stack)
    return host


def main() -> None:
    """Run with Go's way of writing flags understood."""
    try:
        command(go_flags(sys.argv[1:]), prog_name="flatmeshd", color=color_setting(os.environ))
    except (FlatmeshError, OSError) as error:
        click.echo(f"flatmeshd: {one_line(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
