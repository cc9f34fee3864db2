"""`flatmeshd --cleanup`: no lease, no peers, so nothing of ours is wanted on this host.

Goes on past errors and reports each. What other programs made stays, and so does what is in
etcd: `flatmesh lease release` gives the subnet back.
"""

from __future__ import annotations

import logging

from agent.backends import data_planes_here
from agent.settings import Settings
from cni.cleanup import remove_all
from hostnet.apply import reconcile
from hostnet.kernel import Kernel
from hostnet.state import HostState

log = logging.getLogger("agent.cleanup")


def clean_up(settings: Settings) -> int:
    """Remove it all; returns the exit status: 1 when something could not be removed."""
    problems: list[str] = []
    for plane in data_planes_here(settings.state_dir, settings.run_dir):
        try:
            plane.cleanup()
        except OSError as error:
            problems.append(str(error))

    problems += remove_all(settings.state_dir, settings.run_dir)
    with Kernel() as kernel:
        outcome = reconcile(HostState(), kernel)
        for line in outcome.lines():
            log.info("%s", line)
        problems += map(str, outcome.failures)
    settings.subnet_file.unlink(missing_ok=True)
    for problem in problems:
        log.error("%s", problem)
    return 1 if problems else 0
