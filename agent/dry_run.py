# SPDX-License-Identifier: Apache-2.0
"""`flatmeshd --dry-run`: what this host's daemon would change now, as commands.

Reads the lease source and the kernel, writes neither. For a host without a lease it prints only
that one would be taken: which subnet it gets, and so all that follows, is not known before.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import click

from agent.backends import make_backend
from agent.cluster_config.check import check_config
from agent.cluster_config.host_warnings import host_warnings
from agent.controllers import make_controllers, open_resources
from agent.inputs import HostInputs, ReconcileInputs, masquerades
from agent.lease_sources import SOURCES
from agent.leases.occupied import in_use
from agent.leases.previous_lease import previous_lease
from agent.preflight import require_usable
from agent.services.feed import ServiceFeed
from agent.services.ingress_support import published_attributes
from agent.settings import Settings
from agent.underlay import find_underlay
from backend.protocol import Backend
from etcd.connect import EtcdSettings, connect
from hostnet.kernel import Kernel
from hostnet.shell import shell_line
from hostnet.underlay import Underlay
from ipam.lease import Lease, LeaseAttributes, format_value
from ipam.lease_claims import ClaimRules, LeaseClaims, relevant
from ipam.lease_source import LeaseSource, LeaseSourceError, Snapshot
from ipam.network import ConfigError

ANSWER_TIMEOUT = 10.0  # seconds for the lease source to answer


async def dry_run(settings: Settings) -> int:
    """Print the plan; returns the exit status. Raises FlatmeshError, OSError."""
    require_usable(settings)
    async with SOURCES[settings.lease_source](settings) as source:
        await source.check()
        snapshot = await _first(source)
    config = snapshot.config
    if config is None:
        raise ConfigError(snapshot.config_error or "no cluster config")
    check_config(config)
    with contextlib.ExitStack() as stack:
        kernel = stack.enter_context(Kernel())
        underlay = find_underlay(settings, config, kernel, source)
        for line in host_warnings(config, underlay, settings):
            click.echo(f"# {line}")
        backend = make_backend(config, settings.state_dir, settings.run_dir)
        addresses = LeaseAttributes(underlay.public_ip, underlay.public_ipv6)
        previous = previous_lease(settings.subnet_file)
        own = source.expected(snapshot.leases, config, addresses, previous)
        if own is None:
            click.echo(f"# would take a lease for {underlay.public_ip or underlay.public_ipv6}")
            return 0
        if own.attributes.backend_type != backend.name and backend.encrypting_devices():
            click.echo(f"# would publish this host's key in lease {own.key}, then set up the rest")
            return 0
        own = _published(backend, own, underlay)
        host = HostInputs(backend, config, own, underlay, masquerades(settings, config))
        resources = open_resources(settings, stack)
        used = tuple(relevant(config, in_use(kernel, resources.etcd.addresses(again=True))))
        rules = ClaimRules(config, own, used)
        served, _ = LeaseClaims().take(snapshot.leases, snapshot.leases, rules)
        inputs = ReconcileInputs(host, served)
        if settings.etcd is not None:
            await _read_services(settings.etcd, resources.feed)
        for controller in make_controllers(resources):
            for line in controller.plan(inputs):
                click.echo(shell_line(line))
    return 0


def _published(backend: Backend, own: Lease, underlay: Underlay) -> Lease:
    """Our lease as it would be after the daemon has published what has changed."""
    if backend.encrypting_devices():
        return own  # what its key becomes is decided when it is published
    attributes = published_attributes(backend, underlay, own.attributes)
    if format_value(attributes) != format_value(own.attributes):
        click.echo(f"# publish in lease {own.key}: {format_value(attributes)}")
    return replace(own, attributes=attributes)


async def _read_services(etcd: EtcdSettings, feed: ServiceFeed) -> None:
    """Have the services in the feed. Raises EtcdError, LeaseSourceError when it takes too long."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT), connect(etcd) as client:
            await feed.read(client)
    except TimeoutError:
        raise LeaseSourceError(f"no services within {ANSWER_TIMEOUT:.0f} s: see the log") from None


async def _first(source: LeaseSource) -> Snapshot:
    """The first snapshot. Raises LeaseSourceError when there is none in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await anext(source.snapshots())
    except TimeoutError:
        raise LeaseSourceError(f"no leases within {ANSWER_TIMEOUT:.0f} s: see the log") from None
