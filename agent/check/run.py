# SPDX-License-Identifier: Apache-2.0
"""Runs one check of a cluster: asks the hosts to take part, and collects what they found."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agent.check.keys import (
    LEASE_TTL,
    MAX_HOSTS,
    End,
    Request,
    Results,
    Targets,
    key_of,
    read,
    usable,
    write,
)
from agent.check.own_end import own_key
from agent.check.service import CheckService
from agent.check.verdict import Verdict, judge
from base.background_task import background_task
from base.errors import FlatmeshError
from cni.host import PluginHost
from etcd.client import Etcd
from ipam.host_records import HostRecord, list_host_records
from ipam.registry import Registry

POLL_INTERVAL = 0.2
POD_TIMEOUT = 10.0
"""Seconds for all hosts to have a pod."""
PROBE_TIMEOUT = 25.0
"""Seconds for all hosts to have sent."""
COLLECT_TIMEOUT = 5.0

Part = TypeVar("Part")


class CheckError(FlatmeshError):
    """A check can't be run."""


@dataclass(slots=True)
class Check:
    """One check. Used in one event loop, once."""

    registry: Registry
    host: PluginHost
    name: str
    """This host's."""
    daemon_answers: bool
    report: Callable[[str], None] = lambda _: None
    """Told each step."""
    check: str = field(default_factory=lambda: secrets.token_hex(6))
    lease: int = 0

    @property
    def etcd(self) -> Etcd:
        """The connection."""
        return self.registry.etcd

    async def run(self, names: Sequence[str] = ()) -> Verdict:
        """Check all hosts, or those of these names. Raises CheckError, EtcdError."""
        leases, _ = await self.registry.leases()
        records = await list_host_records(self.etcd, self.registry.prefix)
        hosts = self._chosen({key: records.get(key) or HostRecord() for key in leases}, names)
        self.lease = await self.etcd.grant(LEASE_TTL)
        try:
            async with self._kept_alive(), self._own_end():
                return await self._steps(hosts)
        finally:
            await asyncio.shield(self.etcd.revoke(self.lease))

    def _chosen(
        self, hosts: Mapping[str, HostRecord], names: Sequence[str]
    ) -> dict[str, HostRecord]:
        unknown = set(names) - {one.name for one in hosts.values()}
        if unknown:
            known = ", ".join(sorted(one.name for one in hosts.values() if one.name))
            raise CheckError(f"no host is called {', '.join(sorted(unknown))}; there are: {known}")
        chosen = {key: one for key, one in hosts.items() if not names or one.name in names}
        if not chosen:
            raise CheckError(f"no host has a lease below {self.registry.prefix}/subnets/ in etcd")
        if len(chosen) > MAX_HOSTS:
            self.report(f"{MAX_HOSTS} of {len(chosen)} hosts, chosen at random")
            picked = random.sample(sorted(chosen), MAX_HOSTS)
            chosen = {key: chosen[key] for key in picked}
        return chosen

    async def _steps(self, hosts: Mapping[str, HostRecord]) -> Verdict:
        self.report(f"a temporary pod on each of {len(hosts)} hosts")
        request = Request(tuple(hosts), secrets.token_hex(8))
        await self._put("request", request)
        made = await self._wait("pod", End, set(hosts), POD_TIMEOUT)
        absent = {}
        for key, record in hosts.items():
            name = record.name or key.replace("-", "/")
            if key not in made:
                absent[name] = self._why_absent(record)
            elif made[key].problem:
                absent[name] = f"took no part: no pod could be made: {made[key].problem}"
        ends = usable(
            replace(made[key], key=key, name=hosts[key].name or made[key].name)
            for key in hosts
            if key in made and not made[key].problem
        )
        await self._put("targets", Targets(tuple(ends)))
        self.report(f"each of {len(ends)} sends to each")
        keys = {end.key for end in ends}
        sent = await self._wait("sent", Results, keys, PROBE_TIMEOUT)
        await self.etcd.put(self._key("collect"), b"{}", lease=self.lease)
        arrived = await self._wait("arrived", Results, set(sent), COLLECT_TIMEOUT)
        results = {
            number: replace(sent[end.key], arrived=arrived.get(end.key, Results()).arrived)
            for number, end in enumerate(ends)
            if end.key in sent
        }
        for end in ends:
            if end.key not in sent:
                absent[end.name] = "began, but told no result: see its daemon's log"
        return judge(ends, results, absent)

    @staticmethod
    def _why_absent(record: HostRecord) -> str:
        if not record.version:
            return "took no part: no flatmesh that knows checks has said its name there"
        return (
            "took no part: its daemon does not answer in etcd: is the host up, and flatmeshd? "
            "Or another check runs: try again in a minute"
        )

    def _key(self, what: str, host: str = "") -> str:
        return key_of(self.registry.prefix, self.check, what, host)

    async def _put(self, what: str, value: object) -> None:
        await self.etcd.put(self._key(what), write(value), lease=self.lease)

    async def _wait(
        self, what: str, kind: type[Part], keys: set[str], seconds: float
    ) -> dict[str, Part]:
        """What hosts have written by then, or when all have."""
        end = asyncio.get_running_loop().time() + seconds
        below = self._key(what) + "/"
        while True:
            listed, _ = await self.etcd.list(below)
            found = {kv.key.removeprefix(below): kv for kv in listed}
            if keys <= found.keys() or asyncio.get_running_loop().time() > end:
                return {key: read(kind, kv.value) for key, kv in found.items() if key in keys}
            await asyncio.sleep(POLL_INTERVAL)

    @contextlib.asynccontextmanager
    async def _kept_alive(self) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(LEASE_TTL / 4)
                with contextlib.suppress(FlatmeshError):
                    await self.etcd.keep_alive(self.lease)

        async with background_task(renew(), "keep the check"):
            yield

    @contextlib.asynccontextmanager
    async def _own_end(self) -> AsyncIterator[None]:
        """Where this host's daemon does not answer, this process is its end."""
        with contextlib.suppress(FlatmeshError, OSError):
            own_key(self.host.subnet_file)
            if not self.daemon_answers:
                ready = asyncio.Event()
                name = self.name or socket.gethostname()
                service = CheckService(
                    self.etcd, self.registry.prefix, self.host, name, by_daemon=False
                )
                self.report("this host's daemon does not answer: this command is its end")
                async with background_task(
                    service.follow(ready.set), "own end", ignoring=(FlatmeshError,)
                ):
                    await asyncio.wait_for(ready.wait(), 5)
                    yield
                return
        yield
