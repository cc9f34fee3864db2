# SPDX-License-Identifier: Apache-2.0
"""What an executable without the daemon imports: gRPC alone would take 50 ms."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["address_store", "subnet_allocator", "lease", "network", "subnet_env"]
)
def test_no_grpc_where_it_is_not_needed(module: str) -> None:
    code = f"import sys, ipam.{module}; sys.exit('grpc' in sys.modules or 'google' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
