# SPDX-License-Identifier: Apache-2.0
"""Which cluster config this host follows: the newest that can be used here.

A config is taken only when `check_config` passes it, its network is free, and its backend says that
its data plane can be made here (`Backend.obstacle`). Else the one in force stays, with its data
plane and its lease, and the new one is tried again. The config in force is remembered on disk, so
that a daemon which starts beside a broken one goes on as before.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from agent.backends import make_backend
from agent.cluster_config.check import check_config, without_effect
from agent.cluster_config.host_warnings import host_warnings
from agent.leases.occupied import of_underlay
from agent.settings import Settings
from agent.worker import Worker
from backend.arrivals import TunnelPort
from backend.metric_sample import MetricSample
from backend.protocol import Backend
from base import paths
from base.errors import FlatmeshError
from base.private_files import write_private
from hostnet.underlay import Underlay
from ipam.lease_claims import hidden_networks, network_conflicts
from ipam.lease_source import Snapshot
from ipam.network import ConfigError, NetworkConfig, document, parse_config

log = logging.getLogger("agent")
RETRY_INTERVALS = (2.0, 10.0)
"""Seconds until a config that can't be used is tried again: while none is in force, and beside
one."""


@dataclass(frozen=True, slots=True)
class ConfigMemory:
    """The config that was in force in the last run, in a file of the state directory."""

    path: Path
    source: str
    """Where configs come from: one of another cluster is not ours."""

    def recall(self) -> NetworkConfig | None:
        """The config, None when there is none that can be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.path.read_text())
            if known["source"] == self.source:
                return parse_config(json.dumps(known["config"]))
        return None

    def keep(self, config: NetworkConfig) -> None:
        """Remember a config; that the disk is full stops nobody."""
        try:
            text = json.dumps({"source": self.source, "config": document(config)})
            write_private(self.path, text)
        except OSError as error:
            log.warning("%s: %s", self.path, error.strerror)


@dataclass(slots=True)
class ConfigChoice:
    """The config in force and its backend. Used from the event loop."""

    settings: Settings
    etcd_addresses: Callable[[], Collection[IPv4Address | IPv6Address]]
    config: NetworkConfig | None = None
    """The one in force."""
    problem: str | None = None
    """Why the newest is not in force. Replaced, never changed: other threads read it."""
    remarks: list[str] = field(default_factory=list)
    """What is odd about the one in force, a line each. Replaced, never changed."""
    backend: Backend | None = None
    memory: ConfigMemory = field(init=False)
    worker: Worker = field(init=False)

    def __post_init__(self) -> None:
        """Start the thread in which data planes are tried."""
        settings = self.settings
        where = settings.etcd.prefix if settings.etcd is not None else ""
        source = f"{settings.lease_source} {where}".strip()
        self.memory = ConfigMemory(settings.state_dir / paths.CONFIG_FILE, source)
        self.worker = Worker("cluster config")

    async def follow(
        self, snapshot: Snapshot, find_underlay: Callable[[NetworkConfig], Underlay]
    ) -> str | None:
        """Take the snapshot's config if it can be used; returns why not.

        Where none was in force, the last run's is then.
        """
        before = self.config or self.memory.recall()
        try:
            await self._take(snapshot, before, find_underlay)
        except (FlatmeshError, OSError) as problem:
            self.problem = str(problem)
        else:
            self.problem = None
            return None
        if self.config is None and before is not None and not snapshot.config_missing:
            with contextlib.suppress(FlatmeshError, OSError):
                self.backend = await self.worker.submit(lambda: self._backend_of(before))
                self.config = before
        if self.config is not None:
            self.problem += "; the last good one stays in force"
        return self.problem

    @property
    def retry_interval(self) -> float:
        """Seconds until a refused config is to be tried again."""
        return RETRY_INTERVALS[self.config is not None]

    def lines(self) -> list[str]:
        """What /readyz says of a config that is not followed while another is, and remarks."""
        refused = self.problem is not None and self.config is not None
        return [self.problem or ""] * refused + self.remarks

    def samples(self) -> list[MetricSample]:
        """Whether the newest config is followed."""
        return [
            MetricSample(
                "config_refused",
                "1 while this host can't follow the newest cluster config",
                self.problem is not None,
                gauge=True,
            )
        ]

    async def _take(
        self,
        snapshot: Snapshot,
        before: NetworkConfig | None,
        find_underlay: Callable[[NetworkConfig], Underlay],
    ) -> None:
        """Raises FlatmeshError, OSError."""
        wanted = snapshot.config
        if wanted is None:
            raise ConfigError(snapshot.config_error or "no cluster config")
        if wanted == self.config:
            return
        check_config(wanted, before)
        underlay = find_underlay(wanted)
        self._require_free(wanted, underlay)
        self.backend = await self.worker.submit(lambda: self._make(wanted, before, underlay))
        if self.config is not None:
            log.info("the cluster config has changed")
        for name in without_effect(wanted):
            log.warning("cluster config: Backend.%s is no key: it has no effect", name)
        for line in host_warnings(wanted, underlay, self.settings):
            log.warning("%s", line)
        self.remarks = hidden_networks(wanted, of_underlay(underlay, ()))
        for line in self.remarks:
            log.warning("%s", line)
        self.config = wanted
        self.memory.keep(wanted)

    def _require_free(self, wanted: NetworkConfig, underlay: Underlay) -> None:
        conflicts = network_conflicts(wanted, of_underlay(underlay, self.etcd_addresses()))
        if conflicts:
            raise ConfigError(f"{conflicts[0]}: choose another network with flatmesh config set")

    def _backend_of(self, config: NetworkConfig) -> Backend:
        return make_backend(config, self.settings.state_dir, self.settings.run_dir)

    def _make(
        self, wanted: NetworkConfig, before: NetworkConfig | None, underlay: Underlay
    ) -> Backend:
        """The backend; where it takes over from another config's, only if it can. In a thread."""
        backend = self._backend_of(wanted)
        if before is not None and before != wanted:
            held: tuple[TunnelPort, ...] = ()
            with contextlib.suppress(FlatmeshError, OSError):  # it is not to be had here any more
                held = self._backend_of(before).arrivals().ports
            obstacle = backend.obstacle(underlay, held)
            if obstacle is not None:
                raise ConfigError(f"the cluster config can't be followed here: {obstacle}")
        return backend
