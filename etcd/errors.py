# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with etcd, for callers that do different things about it."""

from __future__ import annotations

from base.errors import FlatmeshError


class EtcdError(FlatmeshError):
    """etcd didn't do it; the message is one line: which endpoints, what, why."""


class EtcdUnavailableError(EtcdError):
    """No member answered in time; trying again later may help."""


class EtcdAuthError(EtcdError):
    """Wrong user, password, certificate or permission: somebody must mend it."""


class CompactedError(EtcdError):
    """The history to go on from is gone (compacted, restored, started empty): list again."""
