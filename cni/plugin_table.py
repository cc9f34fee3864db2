# SPDX-License-Identifier: Apache-2.0
"""The plugins by the name of their executable.

Each is made by a function that imports the plugin's module when it is called: a process that
answers one call loads one plugin (imports are most of its time), and mypy checks here that
each module fits `Plugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
