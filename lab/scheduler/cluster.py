# SPDX-License-Identifier: Apache-2.0
"""The schedulers of all hosts of a lab."""

from __future__ import annotations

from collections.abc import Callable

from lab import hosts
from lab.cluster import Lab
from lab.scheduler.host import SchedulerOfHost


def scheduler(lab: Lab, number: int) -> SchedulerOfHost:
    """The scheduler of one host."""
    spec = lab.spec
    address = hosts.host_ipv4(number) if spec.ipv4 else hosts.host_ipv6(number)
    return SchedulerOfHost(
        spec.name,
        number,
        lab.names.host(number),
        lab.host_dir(number),
        (
            *(spec.python, "-m", "scheduler", "run"),
            f"--etcd-endpoints={lab.endpoint}",
        ),
        address,
        lab.bin_dir,
        lab.conflist,
        lab.environment(number),
    )


def start_schedulers(
    lab: Lab, told: Callable[[str], None] = lambda _: None
) -> list[SchedulerOfHost]:
    """Start managers and workers, and wait until they serve. Raises LabError."""
    made = [scheduler(lab, number) for number in lab.host_numbers]
    for one in made:
        told(f"flatmesh-scheduler on h{one.number}" + " (a manager, too)" * one.is_manager)
        one.prepare()
        one.start()
    for one in made:
        one.wait()
    return made
