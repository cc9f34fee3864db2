# SPDX-License-Identifier: Apache-2.0
"""The real daemon with one more line in two of its tables: a toy controller, a toy lease source.

TOY_LEASES=DIRECTORY python -m tests.scenario.toys.daemon [--dry-run | --cleanup]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from agent import logs
from agent.cleanup import clean_up
from agent.controllers import CONTROLLERS
from agent.dry_run import dry_run
from agent.lease_sources import SOURCES
from agent.main import only_one, serve
from agent.settings import Settings
from ipam.lease_source import LeaseSource
from tests.scenario.toys.controller import ToyController
from tests.scenario.toys.lease_source import ToyLeaseSource


@contextlib.asynccontextmanager
async def toy_source(settings: Settings) -> AsyncIterator[LeaseSource]:
    del settings
    yield ToyLeaseSource(Path(os.environ["TOY_LEASES"]))


CONTROLLERS["toy"] = lambda resources: ToyController(resources.settings.run_dir / "toy")
SOURCES["toy"] = toy_source


def main(action: str = "") -> None:
    logs.set_up("info", as_json=False)
    settings = Settings(
        lease_source="toy",
        iface=("eth0",),
        run_dir=Path(os.environ["FLATMESH_RUN_DIR"]),
        state_dir=Path(os.environ["FLATMESH_STATE_DIR"]),
        subnet_file=Path(os.environ["FLATMESH_SUBNET_FILE"]),
        healthz_ip="127.0.0.1",
        healthz_port=9000,
    )
    if action == "--dry-run":
        sys.exit(asyncio.run(dry_run(settings)))
    if action == "--cleanup":
        sys.exit(clean_up(settings, force=True))
    with only_one(settings.run_dir):
        asyncio.run(serve(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
