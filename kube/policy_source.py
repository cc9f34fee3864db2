# SPDX-License-Identifier: Apache-2.0
"""Network policies, pods and namespaces of a cluster, from its API server.

Fits `policy.source.PolicySource`. The account needs the rights `list` and `watch` on pods,
namespaces and networkpolicies (networking.k8s.io).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from base.background_task import task_of
from kube.access import find_access
from kube.client import KubeClient
from kube.follow import ObjectView
from kube.open_source import node_name
from kube.policy_objects import (
    NAMESPACES,
    PODS,
    POLICIES,
    RUNNING,
    parse_namespace,
    parse_pod,
    parse_policy,
)
from kube.settings import KubeSettings
from policy.model import Namespace, Pod, Policy, PolicyChanges

COALESCE = 0.005
"""Seconds in which a burst of changes becomes one."""


@dataclass(slots=True)
class KubePolicySource:
    """What concerns policies in one cluster, seen from one of its nodes."""

    client: KubeClient
    node: str
    _policies: ObjectView[Policy] = field(init=False)
    _pods: ObjectView[Pod] = field(init=False)
    _namespaces: ObjectView[Namespace] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._policies = ObjectView(self.client, POLICIES, parse_policy)
        self._pods = ObjectView(self.client, PODS, parse_pod, RUNNING)
        self._namespaces = ObjectView(self.client, NAMESPACES, parse_namespace)

    async def changes(self) -> AsyncIterator[PolicyChanges]:
        """Everything, once all three are listed; then what changes. See `PolicySource`."""
        news: asyncio.Queue[tuple[str, Mapping[str, Any]] | Exception] = asyncio.Queue()
        views: dict[str, ObjectView[Any]] = {
            "policies": self._policies,
            "pods": self._pods,
            "namespaces": self._namespaces,
        }
        waiting, whole = set(views), True
        found: dict[str, dict[str, Any]] = {kind: {} for kind in views}

        async def follow(kind: str, view: ObjectView[Any]) -> None:
            try:
                async for one in view.changes():
                    news.put_nowait((kind, one.objects))
            except Exception as fault:  # noqa: BLE001 - raised to whoever reads the news
                news.put_nowait(fault)

        async with contextlib.AsyncExitStack() as stack:
            for kind, view in views.items():
                task_of(stack, follow(kind, view), f"follow {kind}")
            while True:
                batch = [await news.get()]
                await asyncio.sleep(COALESCE)
                while not news.empty():
                    batch.append(news.get_nowait())
                for one in batch:
                    if isinstance(one, Exception):
                        raise one
                    kind, objects = one
                    waiting.discard(kind)
                    found[kind].update(objects)
                if not waiting:
                    yield PolicyChanges(**found, whole=whole)
                    whole = False
                    found = {kind: {} for kind in views}

    def problem(self) -> str | None:
        """Why the API server is not heard. See `PolicySource`."""
        for view in (self._policies, self._pods, self._namespaces):
            if view.trouble is not None:
                return view.trouble
        return None


@contextlib.asynccontextmanager
async def policy_source(
    settings: KubeSettings, environ: Mapping[str, str]
) -> AsyncIterator[KubePolicySource]:
    """The source, inside the block. Raises KubeError."""
    client = KubeClient(find_access(settings.api_url, settings.kubeconfig, environ))
    try:
        yield KubePolicySource(client, await node_name(client, environ))
    finally:
        await client.close()
