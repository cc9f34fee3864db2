# SPDX-License-Identifier: Apache-2.0
"""The sources of network policies there are, by the lease source that they go with.

A factory imports its source when it is called, and returns a `PolicySource`, so that mypy compares
the class with the protocol here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from agent.settings import Settings
from ipam.network import ConfigError
from policy.source import PolicySource

Factory = Callable[[Settings], AbstractAsyncContextManager[PolicySource]]
"""The source works inside the block. Raises FlatmeshError."""


@contextlib.asynccontextmanager
async def _kubernetes(settings: Settings) -> AsyncIterator[PolicySource]:
    from kube.policy_source import policy_source  # noqa: PLC0415 - aiohttp

    assert settings.kube is not None  # noqa: S101 - the lease source is kubernetes
    async with policy_source(settings.kube, os.environ) as source:
        yield source


SOURCES: dict[str, Factory] = {"kubernetes": _kubernetes}


def source_for(settings: Settings) -> Factory | None:
    """Where policies come from; None without --network-policy. Raises ConfigError."""
    if not settings.network_policy:
        return None
    if settings.lease_source not in SOURCES:
        raise ConfigError(
            "--network-policy takes policies and labels from Kubernetes: use it with "
            "--kube-subnet-mgr"
        )
    return SOURCES[settings.lease_source]
