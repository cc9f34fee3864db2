# SPDX-License-Identifier: Apache-2.0
"""A toy lease source: a JSON file that says which host has which subnet.

As with Kubernetes nodes, a lease lives as long as its entry, and somebody else has chosen its
subnet: there is nothing to renew and nothing to choose. Each host writes how it is reached into
a file of its own, as it would annotate its own Node.

    hosts.json                      {"192.168.64.11": "10.5.101.0/24", ...}
    192.168.64.11.attributes        the value of the lease, in flannel's format
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from ipam.host_records import HostRecord
from ipam.lease import Lease, LeaseAttributes, format_value, held_by, parse_value
from ipam.lease_source import LeaseRequest, LeaseSourceError, Snapshot
from ipam.network import NetworkConfig, parse_config

POLL_INTERVAL = 0.05  # seconds


@dataclass(slots=True)
class ToyLeaseSource:
    """Fits `ipam.lease_source.LeaseSource`."""

    directory: Path
    _problem: str | None = "no subnet yet"

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        last: Snapshot | None = None
        while True:
            config = parse_config((self.directory / "config.json").read_bytes())
            leases = self._leases()
            before = last.leases if last is not None else {}
            changed = {
                key for key in before.keys() | leases.keys() if before.get(key) != leases.get(key)
            }
            if last is None or changed or config != last.config:
                gone = frozenset(before.keys() - leases.keys())
                last = Snapshot(config, None, leases, frozenset(changed), released=gone)
                yield last
            await asyncio.sleep(POLL_INTERVAL)

    def _subnets(self) -> dict[str, IPv4Network]:
        hosts = json.loads((self.directory / "hosts.json").read_text())
        return {host: IPv4Network(subnet) for host, subnet in hosts.items()}

    def _leases(self) -> dict[str, Lease]:
        leases = {}
        for host, subnet in self._subnets().items():
            attributes = self.directory / f"{host}.attributes"
            if attributes.exists():
                lease = Lease(subnet, None, parse_value(attributes.read_bytes()))
                leases[lease.key] = lease
        return leases

    async def check(self) -> None:
        pass

    def expected(
        self,
        leases: Mapping[str, Lease],
        config: NetworkConfig,
        host: LeaseAttributes,
        previous: Lease | None,
    ) -> Lease | None:
        del config, previous
        return held_by(leases, host.public_ip, host.public_ipv6)

    def public_addresses(self) -> tuple[None, None]:
        return None, None

    async def hold(self, request: LeaseRequest) -> Lease:
        host = str(request.public_ip)
        subnet = self._subnets().get(host)
        if subnet is None:
            self._problem = f"no subnet for {host} yet"
            raise LeaseSourceError(self._problem)
        file = self.directory / f"{host}.attributes"
        now = parse_value(file.read_bytes()) if file.exists() else None
        wanted = await request.attributes(now)
        if wanted != now:
            new = file.with_suffix(".new")
            new.write_text(format_value(wanted))
            new.replace(file)
        self._problem = None
        return Lease(subnet, None, wanted)

    async def held_before(self) -> Lease | None:
        return None

    async def release(self, lease: Lease) -> None:
        (self.directory / f"{lease.attributes.public_ip}.attributes").unlink(missing_ok=True)

    async def announce(self, record: HostRecord) -> None:
        del record

    def hosts(self) -> Mapping[str, HostRecord]:
        return {}

    def changed(self) -> Mapping[str, float]:
        return {}

    async def time_left(self) -> float | None:
        return None

    def connect_anew(self) -> None:
        pass

    def problem(self) -> str | None:
        return self._problem

    async def close(self) -> None:
        pass
