"""Which lease was ours, on disk: so that a host whose address changed still knows its own.

In etcd a lease names its host by PublicIP. When that changes while the daemon is down, the
lease looks like another host's. But the etcd lease that its key hangs on was granted to us
and nobody else: its id, kept here, proves the ownership.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from base.private_files import write_private
from ipam.etcd_origin import origin_of
from ipam.lease import Lease


@dataclass(frozen=True, slots=True)
class LeaseMemory:
    """One small JSON file, `{"key": ..., "etcd_lease": ...}`; losing it costs little."""

    path: Path

    def recall(self, leases: Mapping[str, Lease]) -> Lease | None:
        """The lease among these that was ours in the last run, if it still is."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.path.read_text())
            lease = leases.get(known["key"])
            attached = origin_of(lease).etcd_lease if lease is not None else 0
            if attached and attached == known["etcd_lease"]:
                return lease
        return None

    def keep(self, lease: Lease) -> None:
        """Remember a lease of ours. Raises OSError."""
        text = json.dumps({"key": lease.key, "etcd_lease": origin_of(lease).etcd_lease})
        with contextlib.suppress(OSError):
            if self.path.read_text() == text:
                return
        write_private(self.path, text)
