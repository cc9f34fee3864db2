# SPDX-License-Identifier: Apache-2.0
"""Holds this host's floating addresses, and takes over those that nobody holds.

Who has the key `vips/holder/<name>` holds the address. The key is attached to an etcd lease that
the holder renews. The kernel is given the address for fewer seconds than the lease has left, each
time it is renewed: a holder that is stopped, or that can't reach etcd, has lost the address before
the lease can lapse and another host can write the key. A holder that is told to give up first
removes the address, then the key.

A holder whose daemon is started again goes on with the lease that its key has. A host that comes
back takes no address from the one that holds it, also where it is before that one in the list: to
move an address disturbs its clients. `flatmesh vip move` moves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from base.errors import FlatmeshError
from etcd.client import Etcd, EtcdError, KeyValue
from services.follow import follow
from services.model import ServiceError
from services.vip.device import FloatingAddresses, HostPlace
from services.vip.model import (
    LEASE_SECONDS,
    Vip,
    VipKeys,
    claim_delay,
    json_object,
    parse_vip,
    seconds_left,
)

TICK = 0.2  # seconds between two looks
RENEW_INTERVAL = 2.0  # seconds
ANNOUNCEMENTS = 4  # with the renewals after an address was taken: a frame may be lost

log = logging.getLogger("services.vip")


@dataclass(slots=True)
class Held:
    """One address that is ours."""

    vip: Vip
    place: HostPlace
    lease: int
    asked: float
    """When the renewal was sent that was granted last, in monotonic seconds."""
    granted: int
    tried: float
    announcements: int = ANNOUNCEMENTS

    def left(self) -> int:
        """Whole seconds that it may be held."""
        return seconds_left(self.asked, self.granted, time.monotonic())


@dataclass(slots=True)
class VipHolder:
    """One host's part. `place` is set by any thread; all else is for one event loop."""

    prefix: str
    place: HostPlace | None = None
    held: dict[str, Held] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    device: FloatingAddresses = field(default_factory=FloatingAddresses)
    _vips: dict[str, Vip] = field(default_factory=dict)
    _holders: dict[str, KeyValue] = field(default_factory=dict)
    _moves: dict[str, KeyValue] = field(default_factory=dict)
    _free_since: dict[str, float] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _listed: bool = False

    @property
    def keys(self) -> VipKeys:
        """Where the addresses are in etcd."""
        return VipKeys(self.prefix.rstrip("/"))

    async def run(self, etcd: Etcd) -> None:
        """Follow and hold, until cancelled; what is held then is left to the kernel."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(etcd))
            while True:
                await asyncio.sleep(TICK)
                place = self.place
                for name in self._vips.keys() | self.held.keys() if place else ():
                    if name not in self._busy and (step := self._step(etcd, name)) is not None:
                        self._busy.add(name)
                        tasks.create_task(self._do(name, step))

    async def _follow(self, etcd: Etcd) -> None:
        known: set[str] = set()
        async for changes in follow(etcd, self.keys.all):
            for key, kv in changes.keys.items():
                self._take(*self.keys.split(key), kv)
                known.add(key)
            if changes.every is not None:
                for key in known.difference(changes.every):
                    self._take(*self.keys.split(key), None)
                known.intersection_update(changes.every)
                self._listed = True

    def _take(self, kind: str, name: str, kv: KeyValue | None) -> None:
        if kind == "config":
            self._vips.pop(name, None)
            self.problems.pop(name, None)
            if kv is not None:
                try:
                    self._vips[name] = parse_vip(name, kv.value)
                except ServiceError as error:
                    self.problems[name] = str(error)
                    log.warning("%s", error)
        elif kind in ("holder", "move"):
            where = self._holders if kind == "holder" else self._moves
            where.pop(name, None)
            if kv is not None:
                where[name] = kv

    async def _do(self, name: str, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
            self.problems.pop(name, None)
        except (EtcdError, FlatmeshError, OSError, KeyError) as error:
            text = f"floating address {name}: {error}"
            if self.problems.get(name) != text:
                log.warning("%s", text)
            self.problems[name] = text
        except Exception:  # a fault of this part must not stop the daemon
            log.exception("floating address %s", name)
        finally:
            self._busy.discard(name)

    def _step(self, etcd: Etcd, name: str) -> Coroutine[Any, Any, None] | None:
        """What is to be done for an address now; None: nothing."""
        now, held, vip, place = (
            time.monotonic(),
            self.held.get(name),
            self._vips.get(name),
            self.place,
        )
        holder = self._holders.get(name)
        rank = vip.rank(place.names) if vip is not None and place is not None else None
        if held is not None:
            if held.left() < 1:
                return self._drop(name, "its lease could not be renewed")
            if self._listed and (holder is None or holder.lease != held.lease):
                return self._drop(name, "its key in etcd is gone")
            if rank is None or vip != held.vip or place != held.place:
                return self._release(etcd, name)
            if self._must_move(name, place):
                return self._release(etcd, name)
            return self._renew(etcd, name) if now >= held.tried + RENEW_INTERVAL else None
        if vip is None or place is None or rank is None or not self._listed:
            return None
        if holder is not None:
            self._free_since.pop(name, None)
            return (
                self._resume(etcd, vip, place, holder) if _host(holder) == place.names[0] else None
            )
        since = self._free_since.setdefault(name, now)
        move = self._moves.get(name)
        to_us = move is not None and move.value.decode(errors="replace") in place.names
        delay = claim_delay(rank, move_to_us=to_us, move_to_other=move is not None and not to_us)
        return self._claim(etcd, vip, place) if now >= since + delay else None

    def _must_move(self, name: str, place: HostPlace | None) -> bool:
        """Whether another host was asked to take over since we hold it."""
        move, holder = self._moves.get(name), self._holders.get(name)
        return (
            move is not None
            and holder is not None
            and place is not None
            and move.mod_revision > holder.mod_revision
            and move.value.decode(errors="replace") not in place.names
        )

    async def _claim(self, etcd: Etcd, vip: Vip, place: HostPlace) -> None:
        asked = time.monotonic()
        lease = await etcd.grant(LEASE_SECONDS)
        value = json.dumps({"Host": place.names[0]}).encode()
        key = self.keys.holder(vip.name)
        if await etcd.put_if(key, value, mod_revision=0, lease=lease) is None:
            await etcd.revoke(lease)
            return
        kv, _ = await etcd.get(key)
        if kv is None or kv.lease != lease:
            return
        self._holders[vip.name] = kv
        log.info("floating address %s: held here now, %s", vip.name, " ".join(vip.addresses))
        self._free_since.pop(vip.name, None)
        await self._hold(Held(vip, place, lease, asked, LEASE_SECONDS, asked))

    async def _resume(self, etcd: Etcd, vip: Vip, place: HostPlace, holder: KeyValue) -> None:
        """Go on with a lease of the daemon before."""
        asked = time.monotonic()
        granted = await etcd.keep_alive(holder.lease)
        if granted:
            await self._hold(Held(vip, place, holder.lease, asked, granted, asked))

    async def _renew(self, etcd: Etcd, name: str) -> None:
        held = self.held[name]
        held.tried = asked = time.monotonic()
        granted = await etcd.keep_alive(held.lease)
        if not granted:
            await self._drop(name, "its lease has ended")
            return
        held.asked, held.granted = asked, granted
        await self._hold(held)

    async def _hold(self, held: Held) -> None:
        """Give the kernel the address for as long as the lease allows."""
        vip, place = held.vip, held.place
        self.held[vip.name] = held
        if (seconds := held.left()) < 1:
            await self._drop(vip.name, "its lease could not be renewed in time")
            return
        new = await _in_thread(lambda: self.device.put(place, vip.addresses, seconds))
        if held.left() < 0:  # we were stopped between the question and the change
            await self._drop(vip.name, "this program was stopped")
            return
        if new:
            held.announcements = ANNOUNCEMENTS
        if held.announcements:
            held.announcements -= 1
            await _in_thread(lambda: self.device.announce(place, vip.addresses))

    async def _drop(self, name: str, why: str) -> None:
        held = self.held.pop(name)
        log.warning("floating address %s: given up, %s", name, why)
        await _in_thread(lambda: self.device.drop(held.place, held.vip.addresses))

    async def _release(self, etcd: Etcd, name: str) -> None:
        """Give it up: the address first, then the key."""
        held = self.held.pop(name)
        await _in_thread(lambda: self.device.drop(held.place, held.vip.addresses))
        self._free_since[name] = time.monotonic()
        await etcd.revoke(held.lease)
        holder = self._holders.get(name)
        if holder is not None and holder.lease == held.lease:
            del self._holders[name]
        log.info("floating address %s: given up", name)


def _host(holder: KeyValue) -> str:
    with contextlib.suppress(ServiceError):
        return str(json_object(holder.value, "").get("Host", ""))
    return ""


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work)
