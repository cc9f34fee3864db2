"""The mesh in Open vSwitch, kept as the leases say.

Each look is the same: rows of OVSDB against the rows wanted, one transaction; port numbers as
ovs-vswitchd gave them; flows against the flows wanted, one bundle. Whatever restarted in
between (this daemon, ovs-vswitchd, ovsdb-server), the next look puts right what differs and
touches nothing else, so that packets in flight don't notice.

A look at thousands of flows takes time. What it found is kept (`Settled`), and as long as
nobody says that something may have changed, the next change is the difference to that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from hostnet import netns
from hostnet.count import Count
from hostnet.find_link import find_link
from hostnet.gateway_bridge import ensure_addresses, ensure_gateway_bridge, set_up
from hostnet.kernel import Kernel
from hostnet.kinds.offload import turn_tx_checksum_off
from hostnet.netlink.socket import NetlinkSocket
from hostnet.underlay import Underlay
from ipam.addresses import AddressBookError
from ipam.lease import Lease, PeerUnusableError
from ovs_mesh import topology
from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.desired_rows import desired_rows
from ovs_mesh.devices import (
    KBR0,
    KBR0_VETH,
    OBR0,
    OBR0_VETH,
    UNDERLAY_BRIDGE,
    UNDERLAY_BRIDGE_VETH,
)
from ovs_mesh.flow_updates import expected_updates
from ovs_mesh.flows import PeerFlowCache, all_flows
from ovs_mesh.inputs import HostSide
from ovs_mesh.openflow import FlowChange, OpenFlowError, Switch, difference
from ovs_mesh.ovsdb import Ovsdb, OvsdbError
from ovs_mesh.pods import PodEntry, pods_in_book
from ovs_mesh.rows import ActualBridge, BridgeRow, RowChange, row_changes
from ovs_mesh.topology import Peer
from ovs_mesh.userspace import UserspaceUnderlay, underlay_bridge_flows
from ovs_mesh.watch import Watch

log = logging.getLogger("ovs")
ATTACH_FILE = "attach.json"  # read by the CNI plugins: cni.pod.attach_mode
PATIENCE = 5.0  # seconds for ovs-vswitchd to open a port


@dataclass(frozen=True, slots=True)
class Settled:
    """What is there, as far as we know."""

    rows: list[BridgeRow]
    ofports: dict[str, int]
    """Numbers of obr0's ports by name."""
    flows: frozenset[str]
    """Of obr0, as they were written."""
    plugged: dict[str, int]
    """Cables of pods that are ports: ifindex by name."""

    def replaced(self, plugged: dict[str, int]) -> bool:
        """Whether a cable was made anew under a name that we knew."""
        return any(self.plugged.get(name, index) != index for name, index in plugged.items())


class OvsDataPlane:
    """Open vSwitch on this host: fits backend.protocol.DataPlane."""

    def __init__(
        self, config: OvsConfig, datapath: Datapath, state_dir: Path, run_dir: Path, rundir: Path
    ) -> None:
        """Touch nothing yet."""
        self.config = config
        self.plugs_pods = config.attach == OBR0
        self.datapath = datapath
        self.state_dir = state_dir
        self.run_dir = run_dir
        self.rundir = rundir
        self.userspace = UserspaceUnderlay(rundir)
        self._db: Ovsdb | None = None
        self._watch: Watch | None = None
        self._problem: str | None = "obr0 is not set up yet"
        self._said: set[str] = set()
        self._settled: Settled | None = None
        self._own: Lease | None = None
        self._peers: dict[int, tuple[Lease, Peer]] = {}
        """By id(lease): a lease that didn't change is the same object, and so is its Peer."""
        self._peer_flows = PeerFlowCache()
        self._finished: set[int] = set()
        """Cables, by ifindex, whose pod computes its checksums."""

    # -- backend.protocol.DataPlane -----------------------------------------------------

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Make the devices that routes refer to. Raises OSError."""
        if self._settled is not None:
            return
        with self._noting_problems():
            mtu = self.config.mtu(underlay)
            gateways = [ip_interface(text) for text in _gateways(own)]
            if self.config.attach == KBR0:
                (self.run_dir / ATTACH_FILE).unlink(missing_ok=True)
                with NetlinkSocket() as sock:
                    ensure_gateway_bridge(sock, KBR0, mtu, gateways)
                return
            wanted = desired_rows(self.config, self.datapath, underlay.mac, [], [], [])
            missing = [c for c in self._row_changes(wanted) if c.verb == "add-br"]
            self._database().apply(missing)
            with NetlinkSocket() as sock:
                link = set_up(sock, OBR0, mtu, link_local=True)  # ND of a router needs one
                if link is None:
                    raise OvsdbError("ovs-vswitchd made no device obr0: see its log")
                ensure_addresses(sock, link, [str(gateway) for gateway in gateways])
            _write(self.run_dir / ATTACH_FILE, json.dumps({"bridge": None, "mode": "ovs"}))

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Make rows and flows agree with the leases; returns the changes. Raises OSError."""
        with self._noting_problems():
            before, self._settled = self._settled, None  # nothing is, until all is done
            mesh = self._mesh(peers, own)
            pods = self._pods()
            plugged = self._plugged(pods)
            if before is not None and before.replaced(plugged):
                before = None
            wanted = self._wanted(mesh, plugged, underlay)
            rows = self._make_rows(wanted, before)
            moved = before is None or _devices(wanted) != _devices(before.rows)
            userspace = self.datapath.userspace and moved
            lines = rows + (self._userspace(underlay, wanted) if userspace else [])
            ofports = self._ofports(wanted) if before is None or rows else before.ofports
            with NetlinkSocket() as sock:
                if before is None:
                    set_up(sock, OBR0_VETH)
                local = self._local(sock, own, pods, ofports)
            self._finish_checksums(pods, plugged)
            text = all_flows(self.config, local, mesh, ofports, self._peer_flows)
            settled = Settled(wanted, ofports, frozenset(text), plugged)
            changes = self._make_flows(settled.flows, before)
            self._settled = settled
        if self._watch is not None:
            self._watch.ready()
        return lines + [change.line(OBR0) for change in changes]

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """What `reconcile` would do, as far as it follows from what is there. Raises OSError."""
        mesh, pods = self._mesh(peers, own), self._pods()
        wanted = self._wanted(mesh, self._plugged(pods), underlay)
        lines = [change.line() for change in self._row_changes(wanted)]
        lines.append(f"# datapath {self.datapath.type}: {self.datapath.reason}")
        ofports = self._database().ofports(OBR0)
        with NetlinkSocket() as sock, contextlib.suppress(OvsdbError):
            local = self._local(sock, own, pods, ofports)
            text = all_flows(self.config, local, mesh, ofports)
            lines += [change.line(OBR0) for change in Switch(self.rundir, OBR0).changes(text)]
        return lines

    def problem(self) -> str | None:
        """Why pods can't reach other hosts now, or None."""
        return self._problem

    def counts(self) -> list[Count]:
        """Packets dropped; nothing while the switch doesn't answer."""
        try:
            dropped = Switch(self.rundir, OBR0).dropped()
        except OpenFlowError:
            return []
        what = "Packets that obr0 dropped since Open vSwitch started"
        return [
            Count("ovs_dropped_packets", what, packets, {"reason": reason})
            for reason, packets in dropped.items()
        ]

    def look_again(self) -> None:
        """Something may have changed: the next `reconcile` takes nothing for granted."""
        self._settled = None

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when Open vSwitch restarts, or its rows or flows are changed."""
        if self._watch is None:
            self._watch = Watch(self.rundir, OBR0, changed)

    def close(self) -> None:
        """Let go: rows and flows stay, packets flow on."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._db is not None:
            self._db.close()
            self._db = None

    def cleanup(self) -> None:
        """Remove bridges, redirect and the plugins' note. Raises OSError."""
        try:
            if (self.rundir / "db.sock").exists():
                database = self._database()
                database.apply(self._row_changes([]))
            self.userspace.remove()
        finally:
            (self.run_dir / ATTACH_FILE).unlink(missing_ok=True)
            self.close()

    # -- looking -----------------------------------------------------------------------

    def _database(self) -> Ovsdb:
        if self._db is None:
            self._db = Ovsdb(self.rundir)
        return self._db

    def _row_changes(self, wanted: Sequence[BridgeRow]) -> list[RowChange]:
        database = self._database()
        database.refresh()
        return row_changes(wanted, database.found())

    def _make_rows(self, wanted: list[BridgeRow], before: Settled | None) -> list[str]:
        if before is None:
            changes = self._row_changes(wanted)
        else:
            found = {bridge.name: ActualBridge(bridge, ours=True) for bridge in before.rows}
            changes = row_changes(wanted, found)
        with self._expecting(rows=changes):
            self._database().apply(changes)
        return [change.line() for change in changes]

    def _make_flows(self, wanted: frozenset[str], before: Settled | None) -> list[FlowChange]:
        switch = Switch(self.rundir, OBR0)
        changes = switch.changes(wanted) if before is None else difference(before.flows, wanted)
        with self._expecting(flows=changes):
            switch.apply(changes)
        return changes

    def _expecting(
        self, *, rows: Iterable[RowChange] = (), flows: Iterable[FlowChange] = ()
    ) -> contextlib.AbstractContextManager[None]:
        """Tell the watch that these are ours."""
        if self._watch is None:
            return contextlib.nullcontext()
        ports = [(c.verb, c.port.name) for c in rows if c.port and c.bridge.name == OBR0]
        come, go = ([n for v, n in ports if v == verb] for verb in ("add-port", "del-port"))
        return self._watch.expecting(expected_updates(flows, come, go))

    def _mesh(self, peers: Sequence[Lease], own: Lease) -> list[Peer]:
        before = self._peers if own is self._own else {}
        self._own, self._peers = own, {}
        for lease in peers:
            known = before.get(id(lease))
            if known is None:
                try:
                    known = (lease, topology.peer_of(self.config, lease, own))
                except PeerUnusableError:  # reported by whoever chose the peers
                    continue
            self._peers[id(lease)] = known
        return [peer for _, peer in self._peers.values()]

    def _pods(self) -> list[PodEntry]:
        try:
            return pods_in_book(self.state_dir)
        except AddressBookError as error:
            raise OSError(str(error)) from None

    def _plugged(self, pods: Sequence[PodEntry]) -> dict[str, int]:
        """Cables of pods that belong into obr0: ifindex by name."""
        if self.config.attach != OBR0:
            return {}
        with NetlinkSocket() as sock:
            links = {pod.host_link: find_link(sock, pod.host_link) for pod in pods}
        return {name: link.index for name, link in links.items() if link is not None}

    def _wanted(
        self, mesh: Sequence[Peer], plugged: Iterable[str], underlay: Underlay
    ) -> list[BridgeRow]:
        tunnels = topology.tunnel_ports(self.config, mesh)
        return desired_rows(self.config, self.datapath, underlay.mac, tunnels, mesh, plugged)

    def _finish_checksums(self, pods: Sequence[PodEntry], plugged: dict[str, int]) -> None:
        if not self.datapath.userspace:
            return
        cables = {plugged[pod.host_link]: pod for pod in pods if pod.host_link in plugged}
        self._finished &= cables.keys()
        for index in cables.keys() - self._finished:
            _finish_checksums(cables[index])
            self._finished.add(index)

    def _userspace(self, underlay: Underlay, wanted: Sequence[BridgeRow]) -> list[str]:
        with Kernel() as kernel:
            switched = sorted(_devices(wanted) & {link.name for link in kernel.links()})
            lines = self.userspace.reconcile(underlay, self.config.tunnels, switched, kernel)
        if self.config.attach == KBR0 and turn_tx_checksum_off(KBR0_VETH):
            lines.append(f"ethtool -K {KBR0_VETH} tx off")
        if self.config.attach == OBR0 and turn_tx_checksum_off(OBR0):
            lines.append(f"ethtool -K {OBR0} tx off")
        cable = self._database().ofports(UNDERLAY_BRIDGE).get(UNDERLAY_BRIDGE_VETH)
        if cable is None:
            raise OvsdbError(f"ovs-vswitchd can't open {UNDERLAY_BRIDGE_VETH} yet")
        switch = Switch(self.rundir, UNDERLAY_BRIDGE)
        changes = switch.changes(underlay_bridge_flows(cable))
        switch.apply(changes)
        return lines + [change.line(UNDERLAY_BRIDGE) for change in changes]

    def _ofports(self, wanted: Sequence[BridgeRow]) -> dict[str, int]:
        """Numbers of obr0's ports; waits for those that ovs-vswitchd hasn't opened yet."""
        names = {port.name for bridge in wanted if bridge.name == OBR0 for port in bridge.ports}
        database = self._database()
        deadline = time.monotonic() + PATIENCE
        while names - (there := database.ofports(OBR0)).keys() - database.errors(OBR0).keys():
            if time.monotonic() > deadline:
                break
            database.refresh()
        for name, error in database.errors(OBR0).items():
            if name not in there and f"{name} {error}" not in self._said:
                self._said.add(f"{name} {error}")
                log.warning("obr0: port %s: %s", name, error)
        return there

    def _local(
        self,
        sock: NetlinkSocket,
        own: Lease,
        pods: Sequence[PodEntry],
        ofports: dict[str, int],
    ) -> HostSide:
        on_switch = self.config.attach == OBR0
        gateway = find_link(sock, OBR0 if on_switch else KBR0)
        port = "LOCAL" if on_switch else ofports.get(OBR0_VETH)
        if gateway is None or port is None:
            raise OvsdbError(f"obr0: port {OBR0_VETH} is not open yet")
        return HostSide(
            gateway_port=port,
            gateway_mac=gateway.mac,
            gateways=tuple(text.partition("/")[0] for text in _gateways(own)),
            subnets=tuple(s for s in (own.subnet, own.ipv6_subnet) if s is not None),
            sources=tuple(
                str(address)
                for address in (own.attributes.public_ip, own.attributes.public_ipv6)
                if address is not None
            ),
            pods=tuple(
                pod.at(ofports.get(pod.host_link) if on_switch else None)
                for pod in pods
                if not on_switch or pod.host_link in ofports
            ),
            on_switch=on_switch,
        )

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._problem = f"ovs: {error}"
            if isinstance(error, OvsdbError):
                self._forget_connection()
            raise
        self._problem = None

    def _forget_connection(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _gateways(own: Lease) -> list[str]:
    """The first address of each subnet, with the prefix length: what pods have as gateway."""
    return [
        f"{subnet.network_address + 1}/{subnet.prefixlen}"
        for subnet in (own.subnet, own.ipv6_subnet)
        if subnet is not None
    ]


def _finish_checksums(pod: PodEntry) -> None:
    """A pod straight on a userspace switch must compute its checksums itself."""
    try:
        netns.run_in(pod.netns, lambda: turn_tx_checksum_off(pod.ifname))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise  # the pod is going


def _devices(rows: Iterable[BridgeRow]) -> set[str]:
    """The host's own devices that are ports."""
    return {port.name for bridge in rows for port in bridge.ports if not port.type}


def _write(path: Path, text: str) -> None:
    """Replace a file whole; unchanged content is left alone."""
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            return
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
