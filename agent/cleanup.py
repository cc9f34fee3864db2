# SPDX-License-Identifier: Apache-2.0
"""`flatmeshd --cleanup`: no lease, no peers, so nothing of ours is wanted on this host.

Refuses while pods run here, unless told otherwise. Goes on past errors and reports each. What other
programs made stays. The lease of this host's last run is given back at the end, when nothing here
needs it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from agent.controllers import make_controllers, open_resources
from agent.lease_sources import SOURCES
from agent.settings import Settings
from base import paths
from base.errors import FlatmeshError, one_line
from cni.cleanup import pod_interfaces, remove_all
from docker_plugin.published_ports import remove_table

log = logging.getLogger("agent.cleanup")


class PodsRunError(FlatmeshError):
    """Pods would be cut off."""


def clean_up(settings: Settings, *, force: bool = False) -> int:
    """Remove it all; returns the exit status: 1 when something could not be removed.

    Raises PodsRunError while pods run here, unless it is forced.

    Pods' interfaces go before the kernel's overlay state and after the data planes, which may
    hold them as ports: the reverse of the order in which a host is set up.
    """
    pods = [] if force else pod_interfaces()
    if pods:
        names = ", ".join(pods[:3]) + (" and more" if len(pods) > 3 else "")
        raise PodsRunError(
            f"{len(pods)} pod interface(s) of this host would be removed: {names}; delete the pods "
            "first, or add --force"
        )
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        controllers = make_controllers(open_resources(settings, stack))
        for controller in reversed(controllers):
            try:
                problems += controller.cleanup()
            except (FlatmeshError, OSError) as error:
                problems.append(f"{controller.name}: {error}")
            if controller.name == "data plane":
                problems += remove_all(settings.state_dir, settings.run_dir)
    asyncio.run(_release_lease(settings))
    (settings.state_dir / paths.CONFIG_FILE).unlink(missing_ok=True)
    try:
        remove_table()
    except FlatmeshError as error:
        problems.append(f"Docker's published ports: {error}")
    if settings.docker_plugin is not None:
        settings.docker_plugin.unlink(missing_ok=True)
    for problem in problems:
        log.error("%s", problem)
    return 1 if problems else 0


async def _release_lease(settings: Settings) -> None:
    """Give the lease of the last run back; where it can't be reached, it ends by itself."""
    try:
        async with SOURCES[settings.lease_source](settings) as source:
            if (lease := await source.held_before()) is not None:
                await source.release(lease)
                log.info("lease %s is given back", lease.key)
    except (FlatmeshError, OSError) as error:
        mend = "it ends by itself, or by flatmesh lease release"
        log.warning("this host's lease is not given back: %s; %s", one_line(error), mend)
