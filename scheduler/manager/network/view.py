# SPDX-License-Identifier: Apache-2.0
"""What is below the network's prefix: its config, services, claims and endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from etcd.client import KeyValue
from scheduler.store.follow import Batch

IPNetwork = IPv4Network | IPv6Network
NETWORKS = {"servicenetwork": 4, "ipv6servicenetwork": 6}


@dataclass(slots=True)
class NetworkView:
    """Keys below the prefix, without it; only those that are ours to read are kept."""

    prefix: str
    services: dict[str, KeyValue] = field(default_factory=dict)
    claims: dict[str, KeyValue] = field(default_factory=dict)
    """By the rest of the key: `port/tcp/80` or `address/10.96.0.5`."""
    endpoints: dict[str, dict[str, KeyValue]] = field(default_factory=dict)
    """By service and id."""
    networks: dict[int, IPNetwork] = field(default_factory=dict)
    """Where virtual addresses are from, by family."""
    complete: bool = False
    """Whether everything was read."""
    changed_services: set[str] = field(default_factory=set)
    """Names of services that somebody changed since this was emptied."""
    _gone: dict[str, int] = field(default_factory=dict)

    def take(self, batch: Batch) -> None:
        """Apply what etcd tells."""
        if batch.complete:
            self.services.clear()
            self.claims.clear()
            self.endpoints.clear()
            self._gone.clear()
        for key, kv in batch.events:
            known = self.known(key)
            if kv is None:
                if known is None or known.mod_revision <= batch.revision:
                    self._apply(key, None)
            elif kv.mod_revision > max(
                known.mod_revision if known is not None else -1, self._gone.get(key, -1)
            ):
                self._apply(key, kv)
        self._gone = {key: at for key, at in self._gone.items() if at > batch.revision}
        self.complete = True

    def wrote(self, puts: Iterable[tuple[str, bytes]], deleted: Iterable[str], at: int) -> None:
        """Apply a transaction of our own, done at revision `at`."""
        for key, value in puts:
            known = self.known(key)
            if known is None or known.mod_revision < at:
                self._apply(key, KeyValue(key, value, at))
        for key in deleted:
            known = self.known(key)
            if known is not None and known.mod_revision < at:
                self._apply(key, None)
                self._gone[key] = at

    def known(self, key: str) -> KeyValue | None:
        """A key as it is known."""
        kind, _, rest = key[len(self.prefix) + 1 :].partition("/")
        match kind:
            case "services":
                return self.services.get(rest)
            case "service-claims":
                return self.claims.get(rest)
            case "endpoints":
                service, _, endpoint = rest.partition("/")
                return self.endpoints.get(service, {}).get(endpoint)
        return None

    def _apply(self, key: str, kv: KeyValue | None) -> None:
        kind, _, rest = key[len(self.prefix) + 1 :].partition("/")
        match kind:
            case "services":
                _set(self.services, rest, kv)
                self.changed_services.add(rest)
            case "service-claims":
                _set(self.claims, rest, kv)
            case "endpoints":
                service, _, endpoint = rest.partition("/")
                _set(self.endpoints.setdefault(service, {}), endpoint, kv)
            case "config" if not rest:
                self.networks = _networks(kv.value) if kv is not None else {}

    def document(self, service: str) -> dict[str, Any]:
        """A service's value; empty where there is none that can be read."""
        kv = self.services.get(service)
        return _object(kv.value) if kv is not None else {}


def _set(table: dict[str, KeyValue], key: str, kv: KeyValue | None) -> None:
    if kv is None:
        table.pop(key, None)
    else:
        table[key] = kv


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _networks(value: bytes) -> dict[int, IPNetwork]:
    found: dict[int, IPNetwork] = {}
    for key, text in _object(value).items():
        family = NETWORKS.get(key.lower())
        if family is None:
            continue
        try:
            network = ip_network(text)
        except ValueError:
            continue
        if network.version == family:
            found[family] = network
    return found
