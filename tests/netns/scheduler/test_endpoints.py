# SPDX-License-Identifier: Apache-2.0
"""Healthy tasks are endpoints of the network's services, as flatmeshd reads them."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

from bench.scheduler.workers import SimulatedWorkers
from etcd.client import Etcd
from lab.etcd_server import EtcdServer
from scheduler.store.documents import Documents
from services.model import Service, ServicePort
from services.registry import ServiceRegistry
from tests.netns.etcd.running_client import STEP_TIMEOUT, client, run
from tests.netns.scheduler.running_managers import (
    KEYS,
    NETWORK,
    manager,
    service_spec,
    until,
    updated,
    watched,
)

PORT = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}


async def states(db: Etcd, service: str) -> list[str]:
    found = await ServiceRegistry(db, NETWORK).endpoints(service)
    return ["draining" if one.draining else "ready" for one in found]


async def until_states(db: Etcd, service: str, wanted: list[str]) -> None:
    async with asyncio.timeout(STEP_TIMEOUT):
        while await states(db, service) != wanted:  # noqa: ASYNC110 - etcd is polled
            await asyncio.sleep(0.05)


def test_services_and_endpoints_of_the_network(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db, client(etcd) as user:
            documents, registry = Documents(user, KEYS), ServiceRegistry(user, NETWORK)
            await user.put(f"{NETWORK}/config", b'{"serviceNetwork":"10.96.0.0/16"}')
            others = Service("other", ports=(ServicePort("http", "tcp", 80, 80, 9090),))
            await registry.set_service(others)
            async with (
                SimulatedWorkers(user, KEYS, ["n1", "n2"]) as workers,
                watched(user) as view,
                manager(db),
            ):
                ports = {"EndpointSpec": {"Ports": [PORT]}}
                web = await documents.create_service(service_spec("shop_web", 2, **ports))
                await until_states(user, "shop-web", ["ready"] * 2)
                stored = await registry.service("shop-web")
                assert stored.addresses[0] in ip_network("10.96.0.0/16")
                assert [one.published_port for one in stored.ports] == [8080]
                (first, _) = await registry.endpoints("shop-web")
                assert first.addresses == (ip_address("10.5.1.2"),)
                assert first.host == "192.0.2.1"

                # a task that will stop drains first, and the endpoint goes last
                order: list[str] = []

                async def follow() -> None:
                    async for batch in user.watch("/", (await user.get("/x"))[1] + 1):
                        for key, kv in batch.events:
                            value = kv.value if kv is not None else b"gone"
                            if "/endpoints/" in key and b"ready" not in value:
                                order.append("draining" if kv is not None else "gone")
                            elif "/tasks/" in key and b'"running"' not in value:
                                order.append("stop")

                following = asyncio.create_task(follow())
                web = await updated(documents, view, web, service_spec("shop_web", 1, **ports))
                await until(lambda: len(workers.running) == 1, "1 task runs")
                await until_states(user, "shop-web", ["ready"])
                await until(lambda: len(set(order)) == 3, "all was told")
                following.cancel()
                assert list(dict.fromkeys(order)) == ["draining", "stop", "gone"]
                assert (await registry.service("shop-web")).addresses == stored.addresses

                # another's port stays another's; a free one is taken when none is chosen
                taken = {"EndpointSpec": {"Ports": [{**PORT, "PublishedPort": 9090}]}}
                await documents.create_service(service_spec("taken", 1, **taken))
                free = {"EndpointSpec": {"Ports": [{**PORT, "PublishedPort": 0}]}}
                await documents.create_service(service_spec("free", 1, **free))
                await until_states(user, "free", ["ready"])
                assert (await registry.service("free")).ports[0].published_port == 30000
                assert set(await registry.services()) == {"other", "shop-web", "free"}

                await documents.remove(
                    "service", "shop_web", KEYS.service(web.id), KEYS.specs_of(web.id)
                )
                await until_states(user, "shop-web", [])
                assert set(await registry.services()) == {"other", "free"}
                other = await registry.service("other")
                await registry.remove_service("other")
                assert other.ports == others.ports
                await until_states(user, "taken", ["ready"])

    run(story())
