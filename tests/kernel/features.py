# SPDX-License-Identifier: Apache-2.0
"""Kernel features that some tests need: `@pytest.mark.kernel("openvswitch")`.

This is the only place that decides whether the kernel has a feature. A test whose kernel lacks one
is skipped; `tests/run --kernel` runs what was skipped in a virtual machine (CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping

import pytest

from hostnet.netlink.generic import has_family
from hostnet.netns import run_in_new
from hostnet.wireguard.netlink import kernel_has_wireguard

FEATURES: Mapping[str, Callable[[], bool]] = {
    "WireGuard": kernel_has_wireguard,
    "IFA_PROTO": lambda: _release() >= (5, 18),
    "openvswitch": lambda: has_family("ovs_datapath"),
    "bridge VLANs": lambda: run_in_new(_bridge_filters_vlans),
}
"""By the name in the mark: whether this kernel has it. Asking loads the kernel's module."""

ABSENT_OPTION = "--for-absent-kernel-features"
SHORT_OPTION = "--kernel-short"


def _bridge_filters_vlans() -> bool:
    """CONFIG_BRIDGE_VLAN_FILTERING; called in a namespace of its own."""
    argv = ["ip", "link", "add", "try", "type", "bridge", "vlan_filtering", "1"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _release() -> tuple[int, ...]:
    """The kernel's version: (6, 1)."""
    return tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])


def add_options(parser: pytest.Parser) -> None:
    """Options that choose tests by what this kernel lacks."""
    group = parser.getgroup("kernel features")
    group.addoption(
        ABSENT_OPTION,
        action="store_true",
        help="choose the tests that this kernel lacks a feature for, and no others",
    )
    group.addoption(
        SHORT_OPTION,
        action="store_true",
        help="choose the tests marked kernel_short, without parameters marked long=True",
    )


def choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose feature this kernel lacks, or leave all others out."""
    absent_only, short_only = config.getoption(ABSENT_OPTION), config.getoption(SHORT_OPTION)
    there: dict[str, bool] = {}
    chosen, others = [], []
    for item in items:
        marks = list(item.iter_markers("kernel"))
        wanted = [str(feature) for mark in marks for feature in mark.args]
        for feature in wanted:
            if feature not in there:
                there[feature] = FEATURES[feature]()
        absent = [feature for feature in wanted if not there[feature]]
        long = any(mark.kwargs.get("long") for mark in marks)
        short = item.get_closest_marker("kernel_short") is not None and not long
        if (absent or not absent_only) and (short or not short_only):
            chosen.append(item)
        else:
            others.append(item)
        if absent:
            reason = f"this kernel has no {', '.join(absent)}: tests/run --kernel runs it"
            item.add_marker(pytest.mark.skip(reason=reason))
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen
