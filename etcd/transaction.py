# SPDX-License-Identifier: Apache-2.0
"""Several keys changed in one step, if they are as the writer has last seen them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from etcd import etcd_pb2 as pb
from etcd.comparisons import exists, prefix_end, unchanged


@dataclass(frozen=True, slots=True)
class Transaction:
    """All of it is done, or none."""

    unchanged: Mapping[str, int] = field(default_factory=dict)
    """mod_revision that each key must have; 0: the key must be absent."""
    present: Collection[str] = ()
    """Keys that must exist."""
    put: Mapping[str, bytes] = field(default_factory=dict)
    delete: Collection[str] = ()
    """Keys; one that is not there is no obstacle."""
    delete_below: Collection[str] = ()
    """Prefixes: all keys that begin with one go."""
    lease: int = 0
    """The etcd lease that what is put is attached to."""

    def request(self) -> pb.TxnRequest:
        """As etcd takes it."""
        compares = [unchanged(key, revision) for key, revision in self.unchanged.items()]
        steps = [
            pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value, lease=self.lease))
            for key, value in self.put.items()
        ]
        deletions = [pb.DeleteRangeRequest(key=key.encode()) for key in self.delete]
        deletions += [
            pb.DeleteRangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
            for prefix in self.delete_below
        ]
        steps += [pb.RequestOp(request_delete_range=deletion) for deletion in deletions]
        return pb.TxnRequest(compare=compares + list(map(exists, self.present)), success=steps)
