"""`flatmeshd --dry-run`: what this host's daemon would change now, as commands.

Reads etcd and the kernel, writes neither. A host without a lease gets only the news that it
would take one: what follows from it is not known before.
"""

from __future__ import annotations

import click

from agent.backends import make_backend
from agent.desired import DesiredState, Situation, masquerades
from agent.etcd_connection import connect
from agent.lease_keeper import held_by
from agent.settings import Settings
from agent.underlay import find_underlay
from hostnet.apply import plan_full
from hostnet.kernel import Kernel
from ipam.registry import Registry


async def dry_run(settings: Settings) -> int:
    """Print the plan; returns the exit status. Raises ConfigError, EtcdError, UnderlayError."""
    async with connect(settings.etcd) as etcd:
        registry = Registry(etcd, settings.etcd.prefix)
        config, _ = await registry.config()
        leases, _ = await registry.leases()
    with Kernel() as kernel:
        underlay = find_underlay(settings, config, kernel)
        own = held_by(leases, underlay)
        if own is None:
            click.echo(f"# would take a lease for {underlay.public_ip or underlay.public_ipv6}")
            return 0
        backend = make_backend(config, settings.state_dir, settings.run_dir)
        desired = DesiredState(
            Situation(backend, config, own, underlay, masquerades(settings, config))
        )
        desired.update(leases, leases)
        for line in plan_full(desired.whole(), kernel).lines():
            click.echo(line)
        plane = backend.data_plane()
        if plane is not None:
            for line in plane.plan(own, list(desired.peers.values()), underlay):
                click.echo(line)
            plane.close()
        for reason in desired.unusable.values():
            click.echo(f"# skipped: {reason}")
    return 0
