# SPDX-License-Identifier: Apache-2.0
"""Errors that are told to a user in one line."""

from __future__ import annotations


class SchedulerError(Exception):
    """A request that can't be done: the message says what, where and the mend."""


class SpecError(SchedulerError):
    """A spec with a field that is wrong, or that is not supported (HTTP 400)."""


class NotFoundError(SchedulerError):
    """There is no such object (HTTP 404)."""


class ConflictError(SchedulerError):
    """The name is taken, or the object is in use (HTTP 409)."""


class OutOfDateError(SchedulerError):
    """Somebody changed the object since it was read (HTTP 400, as in Docker)."""
