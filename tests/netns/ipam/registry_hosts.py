# SPDX-License-Identifier: Apache-2.0
"""Hosts that lease subnets in a real etcd."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Address, ip_network
from typing import Any, TypeVar

from etcd.client import Etcd
from ipam.lease import LeaseAttributes
from ipam.network import NetworkConfig, parse_config
from ipam.registry import Registry
from lab.etcd_server import EtcdServer

Answer = TypeVar("Answer")
TTL = 60


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **keys}))


SMALL = config(SubnetMin="10.5.1.0", SubnetMax="10.5.3.0")
DUAL = config(SubnetMin="10.5.1.0", SubnetMax="10.5.20.0", EnableIPv6=True, IPv6Network="fd05::/48")


def host(number: int, **more: Any) -> LeaseAttributes:
    return LeaseAttributes(
        IPv4Address(f"192.168.{number >> 8}.{number & 255}"),
        backend_type="vxlan",
        backend_data={"VNI": 1, "VtepMAC": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"},
        **more,
    )


def subnet(text: str) -> Any:
    return ip_network(text)


@contextlib.asynccontextmanager
async def registry_of(server: EtcdServer, **flags: Any) -> AsyncIterator[Registry]:
    async with Etcd([server.client_url], **flags) as etcd:
        yield Registry(etcd)


def with_registry(server: EtcdServer, story: Callable[[Registry], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with asyncio.timeout(120), registry_of(server) as registry:
            return await story(registry)

    return asyncio.run(run())
