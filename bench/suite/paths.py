# SPDX-License-Identifier: Apache-2.0
"""Bring up all subjects that carry packets, and take them down again.

Labs and hand-made hosts have names that begin with the run's, so that a run which was killed is
cleaned up by the next one, or by `flatmesh lab down --all`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.ovs import recipe as ovs_recipe
from bench.suite import hand_made, subjects
from bench.suite.flanneld import flanneld
from bench.suite.subjects import BASELINE, RAW, Subject
from bench.throughput import pod_path, underlay_path
from bench.traffic import TrafficPath, iperf_server
from lab.cluster import Lab
from lab.spec import LabSpec
from ovs_mesh.config import DEFAULT_TUNNEL

HAND_MADE = {
    subjects.HAND_ROUTE: hand_made.ROUTE,
    subjects.HAND_VXLAN: hand_made.VXLAN,
    subjects.HAND_WIREGUARD: hand_made.WIREGUARD,
}
FLANNELD = (subjects.FLANNELD_VXLAN, subjects.FLANNELD_UDP)


@contextlib.contextmanager
def running(
    wanted: Sequence[Subject],
    name: str,
    labs: Path,
    directory: Path,
    tell: Callable[[str], None],
) -> Iterator[list[TrafficPath]]:
    """Yield a path per subject, in the order wanted, an iperf3 server running on each.

    `name` begins the names of labs, whose files are in `labs`; all others' are in `directory`.
    Raises LabError, MeasureError.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, TrafficPath] = {}
        for number, subject in enumerate(wanted):
            if subject.name == RAW:
                continue
            tell(f"setting up {subject.name}")
            own = f"{name}{number}"
            if subject.name in HAND_MADE:
                recipe = HAND_MADE[subject.name]
                made = hand_made.hand_made(subject.name, recipe, own, directory)
                found[subject.name] = stack.enter_context(made)
            elif subject.name == subjects.HAND_OVS:
                switched = ovs_recipe.hand_made(DEFAULT_TUNNEL.kind, directory, own)
                path = stack.enter_context(switched)
                found[subject.name] = TrafficPath(
                    subject.name, path.client, path.server, path.address
                )
            elif subject.name in FLANNELD:
                real = flanneld(subject.name, subject.backend or {}, own, directory)
                found[subject.name] = stack.enter_context(real)
            else:
                lab = stack.enter_context(_lab(subject, own, labs))
                found[subject.name] = pod_path(subject.name, lab)
                if subject.group != BASELINE:
                    found.setdefault(RAW, underlay_path(lab))
        ordered = [found[subject.name] for subject in wanted if subject.name in found]
        for path in ordered:
            stack.enter_context(iperf_server(path.server))
        yield ordered
        tell("taking all down")


@contextlib.contextmanager
def _lab(subject: Subject, name: str, directory: Path) -> Iterator[Lab]:
    lab = Lab(LabSpec(name, 2, 1, subject.backend or {}), directory)
    lab.down()  # what a killed run left
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
