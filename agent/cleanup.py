"""`flatmeshd --cleanup`: no lease, no peers, so nothing of ours is wanted on this host.

Goes on past errors and reports each. What other programs made stays, and so does what is in
etcd: `flatmesh lease release` gives the subnet back.
"""

from __future__ import annotations

import contextlib
import logging

from agent.controllers import make_controllers, open_resources
from agent.settings import Settings
from base import paths
from base.errors import FlatmeshError
from cni.cleanup import remove_all

log = logging.getLogger("agent.cleanup")


def clean_up(settings: Settings) -> int:
    """Remove it all; returns the exit status: 1 when something could not be removed.

    Pods' interfaces go before the kernel's overlay state and after the data planes, which may
    hold them as ports: the reverse of the order in which a host is set up.
    """
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
    (settings.state_dir / paths.CONFIG_FILE).unlink(missing_ok=True)
    for problem in problems:
        log.error("%s", problem)
    return 1 if problems else 0
