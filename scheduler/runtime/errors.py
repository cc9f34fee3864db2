# SPDX-License-Identifier: Apache-2.0
"""What goes wrong below a runtime, as one clear line."""

from __future__ import annotations

from scheduler.errors import NotFoundError, SchedulerError


class RuntimeCallError(SchedulerError):
    """The runtime can't do what was asked; the text says what, where and the mend."""


class PodNotFoundError(RuntimeCallError, NotFoundError):
    """The runtime has no such pod, or the pod has no such container."""


class NetworkError(RuntimeCallError):
    """A CNI plugin refused, or the network's configuration can't be used."""
