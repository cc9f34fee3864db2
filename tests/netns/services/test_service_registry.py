# SPDX-License-Identifier: Apache-2.0
"""Services in a real etcd: no port and no address is ever two services'."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from lab.etcd_server import EtcdServer
from services.model import Endpoint, Service, ServiceError, ServicePort
from services.registry import ServiceRegistry
from tests.netns.etcd.running_client import client, run

PREFIX = "/test/network"
NETWORKS = (ip_network("10.96.0.0/28"), ip_network("fd96::/112"))


def service(name: str, published: int = 0) -> Service:
    return Service(name, ports=(ServicePort("http", "tcp", 80, 8080, published),))


def test_a_service_gets_addresses_keeps_them_and_gives_them_back(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as connection:
            registry = ServiceRegistry(connection, PREFIX, NETWORKS)
            first = await registry.set_service(service("web", 8080))
            assert [one.version for one in first.addresses] == [4, 6]
            changed = await registry.set_service(service("web", 8081))
            assert changed.addresses == first.addresses
            assert await registry.service("web") == changed
            await registry.set_service(service("other", 8080))  # given back by the change
            with pytest.raises(ServiceError, match="published port tcp/8081 is service web's"):
                await registry.set_service(service("third", 8081))
            assert set(await registry.services()) == {"web", "other"}
            assert await registry.remove_service("web")
            assert not await registry.remove_service("web")
            await registry.set_service(service("third", 8081))
            assert await registry.remove_service("third")
            assert await registry.remove_service("other")
            assert (await connection.list(f"{PREFIX}/"))[0] == []

    run(story())


def test_many_at_once_for_one_port_and_all_addresses(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as connection:
            registry = ServiceRegistry(connection, PREFIX, NETWORKS[:1])

            async def claim(number: int) -> bool:
                try:
                    await registry.set_service(service(f"s{number}", 8080))
                except ServiceError as error:
                    refused.append(str(error))
                    return False
                return True

            refused: list[str] = []
            assert sum(await asyncio.gather(*map(claim, range(10)))) == 1
            assert all("published port tcp/8080 is service s" in line for line in refused)
            (winner,) = await registry.services()
            await registry.remove_service(winner)

            names = [service(f"s{number}") for number in range(14)]
            made = await asyncio.gather(*map(registry.set_service, names))
            assert len({one.addresses for one in made}) == 14
            with pytest.raises(ServiceError, match="all 14 virtual addresses"):
                await registry.set_service(service("late"))

    run(story())


def test_a_claim_whose_service_is_gone_is_taken_over(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as connection:
            registry = ServiceRegistry(connection, PREFIX)
            await registry.set_service(service("web", 8080))
            await connection.delete(f"{PREFIX}/services/web")  # by hand, the claim stays
            await registry.set_service(service("other", 8080))
            with pytest.raises(ServiceError, match="is service other's"):
                await registry.set_service(service("web", 8080))

    run(story())


def test_endpoints_belong_to_a_service_and_may_go_with_their_owner(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as connection:
            registry = ServiceRegistry(connection, PREFIX)
            one = Endpoint("web", "a", (ip_address("10.5.1.2"),), host="192.168.64.11")
            with pytest.raises(ServiceError, match="there is no service web"):
                await registry.set_endpoint(one)
            await registry.set_service(service("web"))
            await registry.set_service(service("web2"))
            await registry.set_endpoint(one)
            lease = await connection.grant(600)
            leased = Endpoint("web", "b", (ip_address("10.5.1.3"),))
            await registry.set_endpoint(leased, lease=lease)
            await registry.set_endpoint(Endpoint("web2", "a", (ip_address("10.5.1.4"),)))
            assert await registry.endpoints("web") == [one, leased]
            await connection.revoke(lease)  # as when its owner dies
            assert await registry.endpoints("web") == [one]
            assert await registry.remove_endpoint("web", "a")
            assert not await registry.remove_endpoint("web", "a")
            await registry.set_endpoint(one)
            await registry.remove_service("web")
            assert [one.service for one in await registry.endpoints()] == ["web2"]

    run(story())


def test_what_cannot_be_read_is_left_out_and_replaced(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as connection:
            registry = ServiceRegistry(connection, PREFIX)
            await connection.put(f"{PREFIX}/services/web", b"nonsense")
            await connection.put(f"{PREFIX}/endpoints/web/a", b"{}")
            assert await registry.services() == {}
            assert await registry.endpoints() == []
            with pytest.raises(ServiceError, match="not JSON"):
                await registry.service("web")
            await registry.set_service(service("web"))
            assert set(await registry.services()) == {"web"}

    run(story())
