# SPDX-License-Identifier: Apache-2.0
"""Gets the report on this host: from its daemon, or where that does not answer, from files."""

from __future__ import annotations

import os
from collections.abc import Collection

from agent.status.client import NoDaemonError, RefusedError, ask
from agent.status.model import HostReport, decode
from agent.status.offline import offline_report
from cni.host import host_from_environment


def fetch(parts: Collection[str]) -> HostReport:
    """The report with these parts of `agent.status.report.PARTS`; within two seconds."""
    here = host_from_environment(os.environ)
    try:
        return decode(HostReport, ask(here.run_dir, "status", parts=list(parts)))
    except (NoDaemonError, RefusedError) as error:
        if os.geteuid() != 0:
            raise
        name = os.environ.get("FLATMESH_HOST_NAME", "")
        return offline_report(here.state_dir, here.subnet_file, name, str(error), parts)
