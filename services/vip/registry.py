# SPDX-License-Identifier: Apache-2.0
"""Floating addresses in etcd, for who configures them. Methods raise EtcdError."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from etcd.client import Etcd
from etcd.transaction import Transaction
from services.model import ServiceError
from services.vip.model import MOVE_SECONDS, Vip, VipKeys, format_vip, json_object, parse_vip

POLL_INTERVAL = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class VipState:
    """A floating address, and who holds it; empty: nobody."""

    vip: Vip
    holder: str


@dataclass(frozen=True, slots=True)
class VipRegistry:
    """Those below one prefix."""

    etcd: Etcd
    keys: VipKeys

    async def all(self) -> list[VipState]:
        """All of them by name; what can't be read is left out."""
        found, _ = await self.etcd.list(self.keys.all)
        vips, holders = {}, {}
        for kv in found:
            kind, name = self.keys.split(kv.key)
            with contextlib.suppress(ServiceError):
                if kind == "config":
                    vips[name] = parse_vip(name, kv.value)
                elif kind == "holder":
                    holders[name] = str(json_object(kv.value, "").get("Host", ""))
        return [VipState(vips[name], holders.get(name, "")) for name in sorted(vips)]

    async def get(self, name: str) -> VipState:
        """One of them. Raises ServiceError."""
        for one in await self.all():
            if one.vip.name == name:
                return one
        raise ServiceError(f"there is no floating address {name}: flatmesh vip list")

    async def set(self, vip: Vip) -> None:
        """Make or replace it. Raises ServiceError: it can't be used, or has another's address."""
        parse_vip(vip.name, format_vip(vip))
        for other in await self.all():
            both = set(other.vip.addresses) & set(vip.addresses)
            if other.vip.name != vip.name and both:
                raise ServiceError(
                    f"floating address {vip.name}: {min(both)} is {other.vip.name}'s"
                )
        await self.etcd.put(self.keys.config(vip.name), format_vip(vip))

    async def remove(self, name: str) -> bool:
        """Remove it; the holder then gives it up. Whether it was there."""
        key = self.keys.config(name)
        done = Transaction(present=[key], delete=[key, self.keys.move(name)])
        return await self.etcd.commit(done) is not None

    async def move(self, name: str, host: str, seconds: float) -> str:
        """Have a host take over; returns who holds it then, after some seconds at most.

        Raises ServiceError.
        """
        state = await self.get(name)
        if host not in state.vip.hosts:
            hosts = ", ".join(state.vip.hosts)
            raise ServiceError(f"floating address {name}: {host} is none of its hosts: {hosts}")
        lease = await self.etcd.grant(MOVE_SECONDS)
        await self.etcd.put(self.keys.move(name), host.encode(), lease=lease)
        deadline = time.monotonic() + seconds
        before = state.holder
        while time.monotonic() < deadline:
            state = await self.get(name)
            if state.holder and (state.holder == host or state.holder != before):
                break
            await asyncio.sleep(POLL_INTERVAL)
        return state.holder
