# SPDX-License-Identifier: Apache-2.0
"""Leases from the annotated Nodes of Kubernetes: fits `ipam.lease_source.LeaseSource`.

As flanneld's `--kube-subnet-mgr`: the cluster chooses each host's subnet (the Node's podCIDR), the
host says in annotations how to reach it, and the lease lives as long as the Node. Nothing is
renewed. The cluster config is a file (`kube.config_file`).

    a Node is deleted                its lease is gone at once
    most Nodes are gone from a list  the API server lost its state: their hosts run on, and the
                                     daemon keeps them for a while (`Snapshot.expired`)
    the API server is away           what was last known stays good
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from base.background_task import background_task
from ipam.host_records import HostRecord
from ipam.lease import Lease, LeaseAttributes, held_by
from ipam.lease_source import LeaseRequest, LeaseSourceError, Snapshot
from ipam.network import NetworkConfig
from kube.annotations import (
    AnnotationNames,
    format_attributes,
    node_addresses,
    overwritten,
    parse_attributes,
)
from kube.client import Json, KubeClient
from kube.config_file import FileConfig, follow_config, read_config
from kube.errors import BrokenObjectError, KubeError, NotFoundError
from kube.follow import ObjectChanges, ObjectView
from kube.node_facts import NODES, NodeFacts, lease_of, own_subnets, parse_node, record_of

HOLD_TIMEOUT = 30.0  # seconds
COALESCE = 0.005
"""Seconds in which a burst of changes becomes one snapshot."""
NETWORK_UP = {"reason": "FlannelIsUp", "message": "Flannel is running on this node"}
"""As flannel's own condition: what looks for it needs no change."""

log = logging.getLogger("kube.node_source")


@dataclass(slots=True)
class NodeLeaseSource:
    """The Nodes of one cluster, seen from one of them."""

    client: KubeClient
    node_name: str
    names: AnnotationNames
    config_path: Path
    set_network_unavailable: bool = True
    """Whether the Node's condition NetworkUnavailable is cleared when pods are served."""
    _view: ObjectView[NodeFacts] = field(init=False)
    _config: FileConfig | None = None
    _leases: dict[str, Lease] = field(default_factory=dict)
    """By the Node's name."""
    _changed_at: dict[str, float] = field(default_factory=dict)
    _problem: str | None = None
    _refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._view = ObjectView(self.client, NODES, lambda item: parse_node(item, self.names))

    # -- what all leases are --------------------------------------------------------------

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Follow the Nodes and the config. See `LeaseSource`."""
        news: asyncio.Queue[ObjectChanges[NodeFacts] | FileConfig] = asyncio.Queue()

        async def follow_nodes() -> None:
            async for changes in self._view.changes():
                news.put_nowait(changes)

        async def follow_file() -> None:
            async for config in follow_config(self.config_path):
                news.put_nowait(config)

        last: Snapshot | None = None
        own: NodeFacts | None = None
        async with (
            background_task(follow_nodes(), "follow nodes"),
            background_task(follow_file(), "follow the cluster config"),
        ):
            while True:
                batch = [await news.get()]
                await asyncio.sleep(COALESCE)
                while not news.empty():
                    batch.append(news.get_nowait())
                now = self._taken(batch, last)
                before, own = own, self._view.known.get(self.node_name)
                if now is not None and (last is None or own != before or _differs(now, last)):
                    last = now
                    yield now

    def _taken(
        self, batch: list[ObjectChanges[NodeFacts] | FileConfig], last: Snapshot | None
    ) -> Snapshot | None:
        """The snapshot after some news; None before both Nodes and config are known."""
        names: set[str] = set()
        lost = False
        for one in batch:
            if isinstance(one, FileConfig):
                self._config = one
                names.update(self._view.known)
            else:
                gone = sum(node is None for node in one.objects.values())
                lost |= one.listed and gone > len(self._view.known) and gone > 1
                names.update(one.objects)
        if self._config is None or not self._view.listed:
            return None
        for name in names:
            self._take_node(name)
        leases = self._by_key()
        before = last.leases if last is not None else {}
        changed = frozenset(
            key for key in before.keys() | leases.keys() if before.get(key) != leases.get(key)
        )
        if last is not None:
            self._changed_at |= dict.fromkeys(changed & leases.keys(), time.time())
        gone_leases = {key: before[key] for key in changed if key not in leases}
        return Snapshot(
            self._for_nodes(self._config.config),
            self._config.error,
            leases,
            changed,
            expired=gone_leases if lost else {},
            history=(last.history if last is not None else 0) + lost,
            config_missing=self._config.missing,
        )

    def _for_nodes(self, config: NetworkConfig | None) -> NetworkConfig | None:
        """The config with the subnets' length as the cluster chose it, not as flannel's default."""
        own = self._view.known.get(self.node_name)
        if config is None or own is None:
            return replace(config, lengths_chosen=False) if config is not None else None
        v4, v6 = own.pod_cidr(4), own.pod_cidr(6)
        return replace(
            config,
            subnet_len=v4.prefixlen if v4 is not None and config.network else config.subnet_len,
            ipv6_subnet_len=(
                v6.prefixlen if v6 is not None and config.ipv6_network else config.ipv6_subnet_len
            ),
            lengths_chosen=False,
        )

    def _take_node(self, name: str) -> None:
        node = self._view.known.get(name)
        config = self._config.config if self._config is not None else None
        lease = None
        try:
            if node is not None and config is not None:
                lease = lease_of(node, config, self.names)
            self._refused.pop(name, None)
        except BrokenObjectError as error:
            self._report(name, f"it is no peer: {error}")
        if lease is not None:
            self._leases[name] = lease
        else:
            self._leases.pop(name, None)

    def _report(self, name: str, problem: str) -> None:
        if self._refused.get(name) != problem:
            log.warning("node %s: %s", name, problem)
        self._refused[name] = problem

    def _by_key(self) -> dict[str, Lease]:
        """Of two Nodes with one podCIDR the older has it."""
        found: dict[str, Lease] = {}
        for lease in self._leases.values():
            other = found.setdefault(lease.key, lease)
            if other is not lease and _order(lease) < _order(other):
                found[lease.key] = lease
        return found

    # -- this host's own ------------------------------------------------------------------

    async def check(self) -> None:
        """Ask for this host's Node. See `LeaseSource`."""
        await self._own_node()

    def expected(
        self,
        leases: Mapping[str, Lease],
        config: NetworkConfig,
        host: LeaseAttributes,
        previous: Lease | None,
    ) -> Lease | None:
        """The lease of this host's Node, if it is annotated. See `LeaseSource`."""
        del config, previous
        own = self._leases.get(self.node_name)
        return own or held_by(leases, host.public_ip, host.public_ipv6)

    def public_addresses(self) -> tuple[IPv4Address | None, IPv6Address | None]:
        """Those of the Node's annotations node-public-ip. See `LeaseSource`."""
        node = self._view.known.get(self.node_name)
        try:
            return node_addresses(node.annotations if node is not None else {}, self.names)
        except BrokenObjectError as error:
            self._report(self.node_name, f"{error}; the underlay's own address is published")
            return None, None

    async def hold(self, request: LeaseRequest) -> Lease:
        """Annotate this host's Node. See `LeaseSource`."""
        try:
            async with asyncio.timeout(HOLD_TIMEOUT):
                held = await self._hold(request)
        except TimeoutError:
            self._problem = f"the API server has not answered for {HOLD_TIMEOUT:.0f} s"
        except KubeError as error:
            self._problem = str(error)
        else:
            self._problem = None
            return held
        raise LeaseSourceError(self._problem)

    async def _hold(self, request: LeaseRequest) -> Lease:
        node = self._view.known.get(self.node_name) or await self._own_node()
        families = tuple(n.version for n in request.config.networks)
        v4, v6 = own_subnets(node, request.config)
        said: LeaseAttributes | None = None
        if node.annotations.get(self.names.managed) == "true":
            try:
                said = parse_attributes(node.annotations, self.names, families)
            except BrokenObjectError as error:
                log.warning("node %s: %s; written again", node.name, error)
        wanted = await request.attributes(said)
        annotations = format_attributes(wanted, node.annotations, self.names)
        published = overwritten(wanted, node.annotations, self.names)
        if any(node.annotations.get(name) != value for name, value in annotations.items()):
            await self._patch_status({"metadata": {"annotations": annotations}})
            log.info("node %s is annotated: %s", node.name, annotations)
        return Lease(v4, v6, published, origin=node.name, since=node.created)

    async def held_before(self) -> Lease | None:
        """The annotated Node's lease. See `LeaseSource`."""
        if self._config is None:
            self._config = read_config(self.config_path)
        config = self._config.config if self._config is not None else None
        try:
            node = await self._own_node()
            return lease_of(node, config, self.names) if config is not None else None
        except (NotFoundError, BrokenObjectError):
            return None
        except KubeError as error:
            raise LeaseSourceError(str(error)) from error

    async def release(self, lease: Lease) -> None:
        """Take our annotations from the Node; its podCIDR stays. See `LeaseSource`."""
        del lease
        gone = [self.names.managed, self.names.backend_type]
        for family in (4, 6):
            gone += [self.names.backend_data(family), self.names.public_ip(family)]
        try:
            await self._patch_status({"metadata": {"annotations": dict.fromkeys(gone)}})
        except NotFoundError:
            pass
        except KubeError as error:
            raise LeaseSourceError(str(error)) from error

    async def announce(self, record: HostRecord) -> None:
        """Clear the Node's condition NetworkUnavailable once pods are served."""
        node = self._view.known.get(self.node_name)
        unavailable = node is not None and node.network_unavailable != "False"
        if not (self.set_network_unavailable and record.ready and unavailable):
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        times = {"lastHeartbeatTime": now, "lastTransitionTime": now}
        condition = {"type": "NetworkUnavailable", "status": "False", **NETWORK_UP, **times}
        try:
            await self._patch_status({"status": {"conditions": [condition]}})
        except KubeError as error:
            raise LeaseSourceError(str(error)) from error

    async def _own_node(self) -> NodeFacts:
        try:
            return parse_node(await self.client.get(f"{NODES}/{self.node_name}"), self.names)
        except NotFoundError:
            raise NotFoundError(
                f"there is no node {self.node_name}: its kubelet has not registered yet, or "
                "NODE_NAME is another's"
            ) from None

    async def _patch_status(self, body: Json) -> None:
        await self.client.patch(f"{NODES}/{self.node_name}/status", body)

    # -- what is known --------------------------------------------------------------------

    def hosts(self) -> Mapping[str, HostRecord]:
        """The Nodes' names. See `LeaseSource`."""
        known = self._view.known
        return {
            lease.key: record_of(known[name])
            for name, lease in list(self._leases.items())
            if name in known
        }

    def changed(self) -> Mapping[str, float]:
        """When leases changed. See `LeaseSource`."""
        return self._changed_at.copy()

    async def time_left(self) -> float | None:
        """It does not end. See `LeaseSource`."""
        return None

    def connect_anew(self) -> None:
        """Connect anew. See `LeaseSource`."""
        self.client.connect_anew()

    def problem(self) -> str | None:
        """Why the lease is not held. See `LeaseSource`."""
        return (None if self._view.listed else self._view.trouble) or self._problem

    async def close(self) -> None:
        """Nothing is renewed; the annotations stay."""


def _order(lease: Lease) -> tuple[int, str]:
    return lease.since, str(lease.origin)


def _differs(now: Snapshot, last: Snapshot) -> bool:
    return bool(now.changed) or not now.has_config_of(last)
