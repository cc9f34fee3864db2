# SPDX-License-Identifier: Apache-2.0
"""The names controller: a responder answers services' names to the pods of this host.

The responder is a process of its own (`services.names`), told what changes. It has the same
services as the balancer: what `disputed` leaves out has no address under its name either.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.controller import Change, Dirty, Report
from agent.inputs import HostInputs, ReconcileInputs
from agent.services.feed import NAMES, ServiceFeed
from agent.settings import Settings
from backend.metric_sample import MetricSample
from ipam.subnet_env import SubnetEnv
from services.model import Service
from services.names.control import LOG, NamesConfig, NamesError
from services.names.lifecycle import NamesLifecycle
from services.names.records import NamedEndpoint, NamedPort, NamedService
from services.served import ServedService, disputed

log = logging.getLogger("agent.names")


@dataclass(frozen=True, slots=True)
class WantedNames:
    """What the responder is to serve; without a config there is to be none."""

    config: NamesConfig | None
    changed: Mapping[str, NamedService | None]


class NamesController:
    """Fits `agent.controller.Controller`."""

    name = "names"
    depends_on = Change.SERVICES | Change.CLOCK
    rereads_on = Change.NONE
    after = ()
    preferably_after = ("services",)
    required_for_pods = False
    worker = "names"

    def __init__(self, settings: Settings, feed: ServiceFeed) -> None:
        """The responder's files are in the run directory."""
        self._settings = settings
        self._feed = feed
        self._lifecycle = NamesLifecycle(settings.run_dir)
        self._host: HostInputs | None = None
        self._served: dict[str, ServedService] | None = None
        """None: not known yet."""
        self._allowed: Mapping[str, Service] = {}
        self._named: dict[str, NamedService] = {}
        self._runs = False

    def desired(self, inputs: ReconcileInputs, dirty: Dirty) -> WantedNames:
        """The config, and the names that changed."""
        del dirty  # what the responder has is asked each time
        host = inputs.host
        if not host.config.service_zone:
            self._host, self._served, self._named = None, None, {}
            return WantedNames(None, {})
        env = SubnetEnv.of(host.config, host.own, mtu=0, ip_masq=False)
        gateways = tuple(str(one.ip) for one in (env.subnet, env.ipv6_subnet) if one is not None)
        config = NamesConfig(
            host.config.service_zone,
            gateways,
            tuple(str(one) for one in (*host.config.networks, *host.config.service_networks)),
            str(self._settings.resolv_conf),
        )
        same_host = self._host is not None and self._host.config == host.config
        self._host = host
        taken = self._feed.take(NAMES, whole=self._served is None or not same_host)
        if taken is None:
            return WantedNames(config, {})
        return WantedNames(config, self._take(host, taken.services, whole=not same_host))

    def _take(
        self, host: HostInputs, services: Mapping[str, ServedService | None], *, whole: bool
    ) -> dict[str, NamedService | None]:
        before = {} if whole or self._served is None else self._served
        served = dict(before)
        for name, one in services.items():
            if one is None:
                served.pop(name, None)
            else:
                served[name] = one
        changed = set(services)
        specs = ((_spec(before.get(name)), _spec(served.get(name))) for name in services)
        if self._served is None or whole or any(old != new for old, new in specs):
            allowed, _ = disputed(served.values(), host.config.service_networks, {})
            changed |= {n for n, one in allowed.items() if one != self._allowed.get(n)}
            self._allowed = allowed
        if self._served is not None and whole:
            changed |= self._served.keys() - served.keys()
        self._served = served
        told: dict[str, NamedService | None] = {}
        for name in changed:
            new = named(self._allowed[name], served[name]) if name in served else None
            if new != self._named.get(name):
                told[name] = new
            if new is None:
                self._named.pop(name, None)
            else:
                self._named[name] = new
        return told

    def apply(self, desired: WantedNames) -> Report:
        """Start, tell or end it. Raises NamesError, OSError."""
        if desired.config is None:
            if self._runs or (self._settings.run_dir / LOG).exists():
                self._end()
            return Report()
        everything = self._named if self._served is not None else None
        try:
            changes = self._lifecycle.apply(desired.config, everything, desired.changed)
        except (NamesError, OSError) as error:
            self._lifecycle.state = ""  # what it has taken in is not known
            if os.strerror(errno.EADDRINUSE) in str(error):
                mend = "a DNS server of this host listens at all addresses: have it leave out kbr0"
                raise NamesError(f"{error}; {mend}") from None
            raise
        self._runs = True
        return Report(changes, lambda: [f"# {changes} names told to the responder"])

    def _end(self) -> None:
        if self._lifecycle.stop():
            log.info("the responder for names has ended: ServiceZone is not in the cluster config")
        (self._settings.run_dir / LOG).unlink(missing_ok=True)
        self._runs = False

    def plan(self, inputs: ReconcileInputs) -> list[str]:
        """A comment where it would be started or ended."""
        zone, runs = inputs.host.config.service_zone, self._lifecycle.status() is not None
        if bool(zone) == runs:
            return []
        return [f"# start the responder for {zone}" if zone else "# end the responder for names"]

    def status(self) -> str | None:
        """Nothing more: each apply asks it."""
        return None

    def samples(self) -> list[MetricSample]:
        """What the responder counts."""
        if not self._runs:
            return []
        counts = self._lifecycle.counts
        return [
            MetricSample(
                "names_queries",
                "Queries that pods sent to the responder for services' names",
                counts.get("queries", 0),
            ),
            MetricSample(
                "names_forwarded",
                "Queries that were passed on to the host's resolvers",
                counts.get("forwarded", 0),
            ),
            MetricSample(
                "names_dropped",
                "Queries that were not answered, as a client sent too many at once",
                counts.get("dropped", 0),
            ),
            MetricSample(
                "names_refused",
                "Queries from outside of the cluster's networks, or on too many connections",
                counts.get("refused", 0),
            ),
            MetricSample(
                "names_failed",
                "Queries that met a fault of the responder",
                counts.get("failed", 0),
            ),
        ]

    def close(self) -> None:
        """The responder goes on."""

    def cleanup(self) -> list[str]:
        """End it. Raises NamesError, OSError."""
        if self._lifecycle.stop():
            log.info("the responder for names has ended")
        (self._settings.run_dir / LOG).unlink(missing_ok=True)
        return []


def named(service: Service, served: ServedService) -> NamedService:
    """What names say of a service as it is served."""
    ready = (one for one in served.endpoints if not one.draining)
    return NamedService(
        _texts(service.addresses),
        tuple(NamedPort(p.name, p.protocol, p.port, p.target_port) for p in service.ports),
        tuple(NamedEndpoint(_texts(one.addresses), dict(one.ports)) for one in ready),
    )


def _texts(addresses: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(one) for one in addresses)


def _spec(one: ServedService | None) -> tuple[Service, tuple[int, str]] | None:
    return None if one is None else (one.service, one.since)
