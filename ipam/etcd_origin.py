# SPDX-License-Identifier: Apache-2.0
"""What etcd knows of a lease beside what the lease says: kept in `Lease.origin`."""

from __future__ import annotations

from typing import NamedTuple

from ipam.lease import Lease


class EtcdOrigin(NamedTuple):
    """Where a lease was read, or written."""

    revision: int = 0
    """The key's mod_revision, for compare-and-swap; 0: the key was not there."""
    etcd_lease: int = 0
    """Id of the etcd lease that the key is attached to; 0 for a reservation."""


def origin_of(lease: Lease) -> EtcdOrigin:
    """The origin; that of a key which is not there, for a lease from elsewhere."""
    return lease.origin if isinstance(lease.origin, EtcdOrigin) else EtcdOrigin()
