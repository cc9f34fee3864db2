# SPDX-License-Identifier: Apache-2.0
"""The daemon's report on its host, put together when somebody asks.

Everything that may hang (etcd, a switch's daemon, the disk) is asked at the same time and waited
for ANSWER_TIMEOUT seconds: what has not answered then is told as a problem.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypeVar

from agent.loop import HostController
from agent.runner import Runner
from agent.settings import Settings
from agent.status.advice import advice
from agent.status.etcd_probe import probe
from agent.status.model import ControllerState, HostReport, Peer, encode
from agent.status.pods import pods_here
from agent.status.round_trip import round_trips
from agent.status.together import together
from base.version import commit
from ipam.host_records import HostRecord
from ipam.lease import Lease

ANSWER_TIMEOUT = 0.9
"""Seconds for all questions together."""
PROBE_TIMEOUT = 0.7
"""Seconds for etcd, and for peers to answer."""
MAX_PROBED = 1000
"""Peers that are sent an echo request at once."""
STUCK = 5.0
"""Seconds without a sign of life of the event loop that are told."""
PARTS = ("etcd", "lease", "peers", "pods", "controllers", "readiness")

Answer = TypeVar("Answer")


class HostReporter:
    """Made in the event loop; asked from any other thread."""

    def __init__(self, settings: Settings, host: HostController) -> None:
        self._settings = settings
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._started = int(time.time())
        self._commit: str | None = None

    def report(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The report as JSON; `parts` of the request names what is wanted of PARTS, else all."""
        wanted = request.get("parts")
        return encode(self.make(wanted if isinstance(wanted, list) else PARTS))

    def make(self, parts: Collection[str] = PARTS) -> HostReport:
        """Ask everything at once."""
        host, settings = self._host, self._settings
        etcd = settings.etcd
        questions: dict[str, Callable[[], Any]] = {
            "lease": lambda: self._in_loop(host.source.time_left()),
            "peers": self._peers,
            "pods": lambda: pods_here(settings.state_dir),
            "controllers": self._controllers,
            "readiness": lambda: (host.readiness(), host.more_lines()),
        }
        if etcd is not None:
            questions["etcd"] = lambda: self._in_loop(probe(etcd, PROBE_TIMEOUT))
        questions = {name: ask for name, ask in questions.items() if name in parts}
        found, failed = together(questions, ANSWER_TIMEOUT)
        if self._commit is None:
            self._commit = commit()
        inputs = host.inputs
        underlay = inputs.host.underlay if inputs is not None else None
        own = inputs.host.own if inputs is not None else None
        readiness, more = found.get("readiness", (None, ()))
        report = HostReport(
            "daemon",
            settings.host_name or socket.gethostname(),
            version("flatmesh"),
            self._commit,
            os.getpid(),
            self._started,
            ready=readiness is None and "readiness" not in failed,
            networks=tuple(str(n) for n in inputs.host.config.networks) if inputs else (),
            subnets=tuple(str(n) for n in own.subnets) if own is not None else (),
            reserved=own is not None and own.reserved,
            expires_in=found.get("lease"),
            backend=inputs.host.backend.name if inputs is not None else "",
            pod_mtu=inputs.host.backend.mtu(inputs.host.underlay) if inputs is not None else None,
            underlay=underlay.link if underlay is not None else "",
            underlay_addresses=tuple(
                str(one) for one in (underlay.public_ip, underlay.public_ipv6) if one is not None
            )
            if underlay is not None
            else (),
            underlay_mtu=underlay.mtu if underlay is not None else None,
            prefix=etcd.prefix if etcd is not None else "",
            endpoints=found.get("etcd", ()),
            peers=found.get("peers", ()),
            pods=found.get("pods", ()),
            controllers=found.get("controllers", ()),
        )
        stuck = time.monotonic() - host.last_beat
        known = [
            *([f"the daemon's event loop is stuck for {stuck:.0f} s"] if stuck > STUCK else []),
            *([readiness] if readiness is not None else []),
            *more,
            *(f"{name}: {why}" for name, why in failed.items()),
        ]
        return replace(report, problems=advice(report, known))

    def _in_loop(self, work: Awaitable[Answer]) -> Answer:
        async def run() -> Answer:
            async with asyncio.timeout(PROBE_TIMEOUT + 0.1):
                return await work

        try:
            return asyncio.run_coroutine_threadsafe(run(), self._loop).result(ANSWER_TIMEOUT)
        except TimeoutError:
            raise TimeoutError(f"no answer within {PROBE_TIMEOUT:g} s") from None

    def _controllers(self) -> tuple[ControllerState, ...]:
        runners = self._host.runners
        asked, silent = together({r.name: r.status for r in runners}, PROBE_TIMEOUT)
        return tuple(_state(r, asked.get(r.name), silent.get(r.name)) for r in runners)

    def _peers(self) -> tuple[Peer, ...]:
        inputs, source = self._host.inputs, self._host.source
        if inputs is None:
            return ()
        records, changed = source.hosts(), source.changed()
        own, served = inputs.host.own, inputs.leases
        snapshot = self._host.snapshot
        leases = {**(snapshot.leases if snapshot is not None else {}), **served}
        peers = {
            key: one
            for key, one in leases.items()
            if key != own.key and (key not in served or inputs.host.is_peer(one))
        }
        targets = {key: _targets(one) for key, one in list(peers.items())[:MAX_PROBED]}
        answers = round_trips([a for pair in targets.values() for a in pair], PROBE_TIMEOUT)
        rows = [_peer(own, records.get(own.key), changed.get(own.key), own=True)]
        for key, lease in peers.items():
            row = _peer(lease, records.get(key), changed.get(key), served=key in served)
            rows.append(_with_round_trips(row, targets.get(key, []), answers))
        return tuple(rows)


def _state(runner: Runner, problem: str | None, unknown: str | None) -> ControllerState:
    text = problem or (f"{runner.name}: {unknown}" if unknown else "")
    waits = runner.applied_for is None
    state = "failing" if text else "waiting" if waits else "ok"
    return ControllerState(runner.name, state, runner.applied_at, text)


def _targets(lease: Lease) -> list[str]:
    """Where a peer answers: its pods' gateway, the address of its tunnel device, its PublicIP.

    The gateway is there when there has been a pod; the other where its backend has a device.
    """
    found = [str(net.network_address + n) for net in lease.subnets for n in (1, 0)]
    return [*found, *map(str, lease.attributes.addresses)]


def _peer(
    lease: Lease,
    record: HostRecord | None,
    changed: float | None,
    *,
    served: bool = True,
    own: bool = False,
) -> Peer:
    said = record or HostRecord()
    return Peer(
        said.name,
        tuple(str(one) for one in lease.subnets),
        tuple(str(one) for one in lease.attributes.addresses),
        lease.attributes.backend_type or "udp",
        said.version,
        said.started or None,
        changed,
        None if record is None else record.ready,
        said.problem,
        served=served,
        own=own,
    )


def _with_round_trips(row: Peer, targets: Sequence[str], answers: Mapping[str, float]) -> Peer:
    # with plain routes and no pod yet, a host has no address in its subnet
    plain = row.backend == "host-gw"
    inside = [one for one in targets if plain or one not in row.addresses]

    def fastest(addresses: Sequence[str]) -> float | None:
        found = [answers[one] for one in addresses if one in answers]
        return round(min(found) * 1000, 3) if found else None

    return replace(
        row,
        round_trip=fastest(inside),
        underlay_round_trip=fastest(row.addresses),
        probed=bool(targets),
    )
