# SPDX-License-Identifier: Apache-2.0
"""Policies, pods and namespaces of the real API server: what changes, and what breaks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from kube.policy_source import KubePolicySource, policy_source
from kube.settings import KubeSettings
from lab.time_factor import scaled
from policy.model import Namespace, Pod, Policy, PolicyChanges, Ports, Rule
from tests.kubernetes.api_server import ADMIN, PLAIN, ApiServer

NETWORKING = "/apis/networking.k8s.io/v1/namespaces"


class Told:
    """What a source has told, followed by a task."""

    def __init__(self, source: KubePolicySource) -> None:
        self.source = source
        self.whole = 0
        self.policies: dict[str, Policy] = {}
        self.pods: dict[str, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}

    def take(self, changes: PolicyChanges) -> None:
        if changes.whole:
            self.whole += 1
        for known, new in (
            (self.policies, changes.policies),
            (self.pods, changes.pods),
            (self.namespaces, changes.namespaces),
        ):
            merge(known, new)

    async def follow(self) -> None:
        async for changes in self.source.changes():
            self.take(changes)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + scaled(60)
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.pods}, {self.source.problem()}"
            await asyncio.sleep(0.02)


def merge(known: dict[str, Any], new: Any) -> None:
    for key, value in new.items():
        if value is None:
            known.pop(key, None)
        else:
            known[key] = value


@contextlib.asynccontextmanager
async def following(server: ApiServer, directory: Path, token: str = ADMIN) -> AsyncIterator[Told]:
    kubeconfig = server.kubeconfig(directory / "kubeconfig", token)
    settings = KubeSettings(kubeconfig=str(kubeconfig))
    async with policy_source(settings, {"NODE_NAME": "n1"}) as source:
        told = Told(source)
        task = asyncio.create_task(told.follow())
        try:
            yield told
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def make_pod(server: ApiServer, key: str, **labels: str) -> None:
    namespace, _, name = key.partition("/")
    spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]}
    body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
    server.ask("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def set_status(server: ApiServer, key: str, **status: Any) -> None:
    namespace, _, name = key.partition("/")
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
    server.ask("PATCH", path, {"status": status}, "merge-patch+json")


def make_policy(server: ApiServer, key: str, **spec: Any) -> None:
    namespace, _, name = key.partition("/")
    body = {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}
    server.ask("POST", f"{NETWORKING}/{namespace}/networkpolicies", body)


def test_all_is_told_at_once_and_then_what_changes(api_server: ApiServer, tmp_path: Path) -> None:
    api_server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    make_pod(api_server, "shop/web", app="web")
    make_policy(api_server, "shop/p", ingress=[{"ports": [{"port": 80}]}])

    async def scenario() -> None:
        async with following(api_server, tmp_path) as told:
            await told.until(lambda: told.whole, "everything")
            assert told.policies["shop/p"].ingress == (Rule(None, (Ports("tcp", 80, 80),)),)
            assert told.pods["shop/web"].node == told.source.node == "n1"
            assert {"shop", "default"} <= told.namespaces.keys()
            address = "10.244.1.2"
            set_status(api_server, "shop/web", podIP=address, podIPs=[{"ip": address}])
            expected = (ip_address(address),)
            await told.until(lambda: told.pods["shop/web"].addresses == expected, "its address")
            body = {"metadata": {"labels": {"team": "a"}}}
            api_server.ask("PATCH", "/api/v1/namespaces/shop", body, "merge-patch+json")
            await told.until(lambda: told.namespaces["shop"].labels.get("team"), "a label")
            # a pod that has ended has no address any more, though it is still listed
            set_status(api_server, "shop/web", phase="Succeeded")
            await told.until(lambda: "shop/web" not in told.pods, "it has ended")
            # what happens while the server is away is told when it is back
            api_server.stop()
            await told.until(told.source.problem, "the server is away")
            assert told.policies, "what is known stays"
            api_server.start()
            api_server.ask("DELETE", f"{NETWORKING}/shop/networkpolicies/p")
            make_pod(api_server, "shop/late")
            await told.until(lambda: "shop/late" in told.pods, "a pod")
            await told.until(lambda: not told.policies, "the policy is gone")
            assert told.whole == 1

    asyncio.run(scenario())


def test_an_account_without_the_rights_is_told_what_it_lacks(
    api_server: ApiServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with following(api_server, tmp_path, PLAIN) as told:
            await told.until(told.source.problem, "a refusal")
            problem = told.source.problem()
            assert problem is not None
            assert "give our account that right" in problem
            assert not told.whole

    asyncio.run(scenario())
