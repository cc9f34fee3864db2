# SPDX-License-Identifier: Apache-2.0
"""The plugins by the name of their executable.

Each is made by a function that imports the plugin's module when it is called: a process that
answers one call loads one plugin (imports are most of its time), and mypy checks here that
each module fits `Plugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from cni.plugin import Plugin


def _flatmesh() -> Plugin:
    from cni.pod import plugin  # noqa: PLC0415

    return plugin


def _flatmesh_ipam() -> Plugin:
    from cni import ipam_plugin  # noqa: PLC0415

    return ipam_plugin


def _flannel() -> Plugin:
    from cni.flannel_alias import plugin  # noqa: PLC0415

    return plugin


PLUGINS: Mapping[str, Callable[[], Plugin]] = {
    "flatmesh": _flatmesh,
    "flatmesh-ipam": _flatmesh_ipam,
    "flannel": _flannel,
}

IMPORTED_LATE = (
    "cni.config.bridge_config",
    "cni.flannel_alias.plugin",
    "cni.ipam_plugin",
    "cni.other_gateway",
    "cni.pod.add_plan",
    "cni.pod.attach",
    "cni.pod.attach_mode",
    "cni.pod.check",
    "cni.pod.collect",
    "cni.pod.living",
    "cni.pod.plugin",
    "cni.pod.source_guard",
    "cni.pod.unanswered",
    "cni.pod.veth_pair",
    "hostnet.announcements",
    "hostnet.kinds.link",
    "hostnet.nft.datatypes",
    "hostnet.nft.sets",
    "hostnet.nft.tables",
    "ipam.address_store",
    "ipam.host_local",
)
"""Modules that this room imports in functions, to spare a process that answers one call."""


def import_all() -> None:
    """Import them now: a daemon without free descriptors could not, and would fail an ADD."""
    for name in IMPORTED_LATE:
        import_module(name)
