# SPDX-License-Identifier: Apache-2.0
"""Who is measured, beside whom, and what is missing here to measure it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.prerequisites import PACKAGES, REFERENCE_DIR
from flannel.udp.backend import NOT_COMPILED
from hostnet.device_probe import missing_kind

RAW = "raw underlay"
HAND_ROUTE = "route by hand"
HAND_VXLAN = "vxlan by hand"
HAND_WIREGUARD = "wg by hand"
HAND_OVS = "OVS by hand"
UDP_SINGLE = "udp, one by one"
FLANNELD_VXLAN = "flanneld vxlan"
FLANNELD_UDP = "flanneld udp"
PLUGINS = "flatmesh"
REFERENCE = "bridge, host-local"

OURS, BASELINE, UNDERLAY = "flatmesh", "baseline", "underlay"
"""The groups of subjects."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that carries packets between two hosts, or attaches pods."""

    name: str
    group: str
    baselines: tuple[str, ...] = ()
    """Names of the subjects that do the same without flatmesh; `raw underlay` is everybody's."""
    backend: Mapping[str, Any] | None = None
    """The cluster config's Backend, for what flatmesh or flanneld do."""
    lacks: Callable[[], str | None] = lambda: None
    """What is missing on this machine to measure it, None when nothing is."""


def program(*names: str) -> Callable[[], str | None]:
    """Return a look for programs on PATH."""

    def look() -> str | None:
        missing = [name for name in names if shutil.which(name) is None]
        if not missing:
            return None
        packages = " ".join(sorted({PACKAGES.get(name, name) for name in missing}))
        return f"no {', '.join(missing)} here (Debian: apt-get install {packages})"

    return look


def _udp() -> str | None:
    compiled = importlib.util.find_spec("flannel.udp._plane") is not None
    return None if compiled else NOT_COMPILED


def _wireguard() -> str | None:
    if missing_kind("wireguard") is None:
        return None
    return program("wireguard-go")()


def _wireguard_by_hand() -> str | None:
    return _wireguard() or program("wg")()


def _flanneld() -> str | None:
    if shutil.which("flanneld") is None:
        return "no flanneld on PATH"
    return None


def _reference() -> str | None:
    if all((REFERENCE_DIR / name).exists() for name in ("bridge", "host-local")):
        return None
    return f"no {REFERENCE_DIR}/bridge (Debian: apt-get install containernetworking-plugins)"


_OVS = program("ovs-vswitchd", "ovsdb-server", "ethtool")

PATHS: Sequence[Subject] = (
    Subject(RAW, UNDERLAY),
    Subject("host-gw", OURS, (HAND_ROUTE,), {"Type": "host-gw"}),
    Subject(HAND_ROUTE, BASELINE),
    Subject("vxlan", OURS, (HAND_VXLAN, FLANNELD_VXLAN), {"Type": "vxlan"}),
    Subject(HAND_VXLAN, BASELINE),
    Subject(FLANNELD_VXLAN, BASELINE, (), {"Type": "vxlan"}, _flanneld),
    Subject("udp", OURS, (UDP_SINGLE, FLANNELD_UDP), {"Type": "udp"}, _udp),
    Subject(UDP_SINGLE, BASELINE, (), {"Type": "udp", "SinglePacket": True}, _udp),
    Subject(FLANNELD_UDP, BASELINE, (), {"Type": "udp"}, _flanneld),
    Subject("wireguard", OURS, (HAND_WIREGUARD,), {"Type": "wireguard"}, _wireguard),
    Subject(HAND_WIREGUARD, BASELINE, lacks=_wireguard_by_hand),
    Subject("ovs", OURS, (HAND_OVS,), {"Type": "ovs"}, _OVS),
    Subject(HAND_OVS, BASELINE, lacks=_OVS),
)
"""Each beside its baselines: they are measured one after the other."""

ATTACHING: Sequence[Subject] = (
    Subject(PLUGINS, OURS, (REFERENCE,)),
    Subject(REFERENCE, BASELINE, lacks=_reference),
)
BACKENDS = tuple(subject.name for subject in PATHS if subject.group == OURS)


def chosen(only: Sequence[str]) -> list[Subject]:
    """Return the paths to measure: `only` these backends with their baselines; empty: all."""
    kept = {RAW, *only}
    for subject in PATHS:
        if subject.name in kept:
            kept |= set(subject.baselines)
    return [subject for subject in PATHS if not only or subject.name in kept]


def split(subjects: Sequence[Subject]) -> tuple[list[Subject], dict[str, str]]:
    """Return those that can be measured here, and why the others can't."""
    reasons = {subject.name: subject.lacks() for subject in subjects}
    here = [subject for subject in subjects if reasons[subject.name] is None]
    return here, {name: reason for name, reason in reasons.items() if reason is not None}
