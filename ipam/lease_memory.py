# SPDX-License-Identifier: Apache-2.0
"""Which lease was ours, on disk: so that a host whose address changed still knows its own.

In etcd a lease names its host by PublicIP. When that changes while the daemon is down, the
lease looks like another host's. But the etcd lease that its key hangs on was granted to us
and nobody else: its id, kept here, proves the ownership. Not where the file may have been copied
from another host: then it says so, until it has been found out whose the lease is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base.private_files import write_private
from ipam.etcd_origin import origin_of
from ipam.lease import Lease


@dataclass(frozen=True, slots=True)
class LeaseMemory:
    """One small JSON file, `{"key": ..., "etcd_lease": ...}`; losing it costs little.

    With `"doubted": true` the lease may be that of the host that the file was copied from.
    """

    path: Path

    @property
    def doubted(self) -> bool:
        """Whether the file may be a copy of another host's."""
        return bool(self._read().get("doubted"))

    def doubt(self) -> None:
        """Note that the file may be a copy of another host's. Raises OSError."""
        known = self._read()
        if known:
            write_private(self.path, json.dumps({**known, "doubted": True}))

    def forget(self) -> None:
        """No lease is ours. Raises OSError."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self.path.read_text())
            return known if isinstance(known, dict) else {}
        return {}

    def recall(self, leases: Mapping[str, Lease]) -> Lease | None:
        """The lease among these that was ours in the last run, if it still is."""
        known = self._read()
        lease = leases.get(str(known.get("key")))
        attached = origin_of(lease).etcd_lease if lease is not None else 0
        return lease if attached and attached == known.get("etcd_lease") else None

    def keep(self, lease: Lease) -> None:
        """Remember a lease of ours. Raises OSError."""
        text = json.dumps({"key": lease.key, "etcd_lease": origin_of(lease).etcd_lease})
        with contextlib.suppress(OSError):
            if self.path.read_text() == text:
                return
        write_private(self.path, text)
