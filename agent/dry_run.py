"""`flatmeshd --dry-run`: what this host's daemon would change now, as commands.

Reads the lease source and the kernel, writes neither. For a host without a lease it prints only
that one would be taken: which subnet it gets, and so all that follows, is not known before.
"""

from __future__ import annotations

import asyncio
import contextlib

import click

from agent.backends import make_backend
from agent.controllers import make_controllers, open_resources
from agent.inputs import HostInputs, ReconcileInputs, masquerades
from agent.lease_sources import SOURCES
from agent.settings import Settings
from agent.underlay import find_underlay
from hostnet.kernel import Kernel
from ipam.lease import held_by
from ipam.lease_source import LeaseSource, LeaseSourceError, Snapshot
from ipam.network import ConfigError

ANSWER_TIMEOUT = 10.0  # seconds for the lease source to answer


async def dry_run(settings: Settings) -> int:
    """Print the plan; returns the exit status. Raises FlatmeshError, OSError."""
    async with SOURCES[settings.lease_source](settings) as source:
        snapshot = await _first(source)
    if snapshot.config is None:
        raise ConfigError(snapshot.config_error or "no cluster config")
    config = snapshot.config
    with contextlib.ExitStack() as stack:
        underlay = find_underlay(settings, config, stack.enter_context(Kernel()))
        own = held_by(snapshot.leases, underlay.public_ip, underlay.public_ipv6)
        if own is None:
            click.echo(f"# would take a lease for {underlay.public_ip or underlay.public_ipv6}")
            return 0
        backend = make_backend(config, settings.state_dir, settings.run_dir)
        host = HostInputs(backend, config, own, underlay, masquerades(settings, config))
        inputs = ReconcileInputs(host, snapshot.leases)
        for controller in make_controllers(open_resources(settings, stack)):
            for line in controller.plan(inputs):
                click.echo(line)
    return 0


async def _first(source: LeaseSource) -> Snapshot:
    """The first snapshot. Raises LeaseSourceError when there is none in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await anext(source.snapshots())
    except TimeoutError:
        raise LeaseSourceError(f"no leases within {ANSWER_TIMEOUT:.0f} s: see the log") from None
