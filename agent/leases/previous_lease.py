# SPDX-License-Identifier: Apache-2.0
"""The subnets of the last run, as subnet.env tells them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ipam.lease import Lease
from ipam.subnet_env import SubnetEnv, SubnetEnvError


def previous_lease(subnet_file: Path) -> Lease | None:
    """A lease that says no more than its subnets; None when the file says nothing usable."""
    with contextlib.suppress(OSError, SubnetEnvError):
        env = SubnetEnv.read(subnet_file)
        v4 = env.subnet.network if env.subnet else None
        v6 = env.ipv6_subnet.network if env.ipv6_subnet else None
        return Lease(v4, v6)
    return None
