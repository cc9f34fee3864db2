# SPDX-License-Identifier: Apache-2.0
"""The mesh in Open vSwitch, made to agree with the leases.

Each reconcile is the same: rows of OVSDB against the desired rows, one transaction; port
numbers as ovs-vswitchd gave them; flows against the desired flows, one bundle. Whatever
restarted in between (this daemon, ovs-vswitchd, ovsdb-server), the next reconcile changes what
differs and nothing else, so that packets in flight are not lost.

To read and compare thousands of flows takes time. What a reconcile applied is kept
(`AppliedState`), and the next one applies the difference to that, unless `mark_dirty` has said
that another program may have changed something.

Every call to ovsdb-server, ovs-vswitchd or ovs-ofctl has a deadline of its own, and the first
that fails ends the reconcile. What it had done by then is kept by Open vSwitch and found by the
next one, which compares everything.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from backend.isolation import Isolation
from backend.metric_sample import MetricSample
from hostnet.address_mac import GATEWAY_PREFIX, mac_after
from hostnet.find_link import find_link
from hostnet.gateway_bridge import set_up
from hostnet.kernel import Kernel
from hostnet.kinds.link import read_links
from hostnet.netlink.attributes import pack_address
from hostnet.netlink.socket import NetlinkSocket
from hostnet.underlay import Underlay
from ipam.address_store import Attachment
from ipam.lease import Lease
from ovs_mesh import attach_file, topology
from ovs_mesh.applied import AppliedState
from ovs_mesh.clients import port_config
from ovs_mesh.clients.jsonrpc import request
from ovs_mesh.clients.openflow import FlowChange, Switch, difference
from ovs_mesh.clients.ovsdb import Ovsdb, OvsdbError
from ovs_mesh.config import OvsConfig
from ovs_mesh.datapath import Datapath
from ovs_mesh.desired_rows import desired_rows
from ovs_mesh.devices import (
    KBR0,
    OBR0,
    OBR0_VETH,
    UNDERLAY_BRIDGE,
    UNDERLAY_BRIDGE_VETH,
)
from ovs_mesh.errors import OvsError
from ovs_mesh.flow_updates import expected_updates
from ovs_mesh.flows import PeerFlowCache, all_flows
from ovs_mesh.host_side import gateway_addresses, read_host_side
from ovs_mesh.inputs import HostSide
from ovs_mesh.pod_checksums import PodChecksums
from ovs_mesh.pods import Pod, pods_of_host, veths_of
from ovs_mesh.rows import ActualBridge, BridgeRow, RowChange, row_changes, without_ports
from ovs_mesh.rows_watch import RowsWatch
from ovs_mesh.topology import KnownPeers, Peer
from ovs_mesh.tunnel_obstacle import unopened_tunnel
from ovs_mesh.userspace import UserspaceUnderlay, not_opened, underlay_bridge_flows
from ovs_mesh.watch import Watch

log = logging.getLogger("ovs")
PORT_TIMEOUT = 5.0  # seconds for ovs-vswitchd to open a port
PROBE_TIMEOUT = 1.0  # seconds for ovsdb-server to say that it is there
PORT_INTERVAL = 0.01  # seconds between checks whether it has


class OvsDataPlane:
    """Open vSwitch on this host: fits backend.protocol.DataPlane. One thread at a time."""

    def __init__(
        self, config: OvsConfig, datapath: Datapath, state_dir: Path, run_dir: Path, rundir: Path
    ) -> None:
        """Touch nothing yet; `rundir` is Open vSwitch's run directory."""
        self.config = config
        self.depends_on_pods = self.keeps_state_outside = True
        self.attaches_pods = config.attach == OBR0
        self.isolation: Isolation | None = None
        self.datapath = datapath
        self.state_dir = state_dir
        self.run_dir = run_dir
        self.rundir = rundir
        self.userspace = UserspaceUnderlay(rundir)
        self._db: Ovsdb | None = None
        self._watch: Watch | None = None
        """Of obr0."""
        self._watches: list[Watch] = []
        self._rows_watch: RowsWatch | None = None
        self._underlay_in_doubt = False
        self._mac: str | None = None
        self._problem: str | None = "obr0 is not set up yet"
        self._reported: set[str] = set()
        self._applied: AppliedState | None = None
        self._peers = KnownPeers()
        self._peer_flows = PeerFlowCache()
        self._pod_checksums = PodChecksums()
        self._pod_ports: dict[int, Attachment] = {}
        """The pods at ports of obr0."""

    # -- backend.protocol.DataPlane -----------------------------------------------------

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Have Open vSwitch make obr0, where routes refer to its device. Raises OSError."""
        if self._applied is not None:
            return
        with self._recording_problems():
            if self.config.attach == KBR0:
                attach_file.withdraw(self.run_dir)
                return
            rows = self._desired_rows(own, [], [], underlay)
            missing = [c for c in self._row_changes(rows) if c.verb == "add-br"]
            self._database().apply(missing)
            attach_file.publish(self.run_dir)

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Make rows and flows agree with the leases; returns the changes. Raises OSError."""
        with self._recording_problems():
            # what an interrupted reconcile leaves is not known: the next one compares everything
            before, self._applied = self._applied, None
            if self.attaches_pods:
                attach_file.publish(self.run_dir)  # whoever emptied the directory took it, too
            mesh = self._peers.peers_of(self.config, peers, own)
            pods = pods_of_host(self.state_dir)
            pod_veths = veths_of(pods) if self.attaches_pods else {}
            if before is not None and before.has_other_veth(pod_veths):
                before = None
            rows = self._desired_rows(own, mesh, pod_veths, underlay)
            lines: list[str] = []
            if self.datapath.userspace and (before is None or self._underlay_in_doubt):
                lines = self._open_again(rows)
                before = None if lines else before
            lines += self._apply_rows(rows, before)
            devices_changed = before is None or _devices(rows) != _devices(before.rows)
            ports_changed = before is None or bool(lines)
            if self.datapath.userspace and (devices_changed or self._underlay_in_doubt):
                lines += self._connect_to_underlay(underlay, rows)
                self._underlay_in_doubt = False
            ofports = self._ofports(rows) if ports_changed or before is None else before.ofports
            if before is None:
                with NetlinkSocket() as sock:
                    set_up(sock, OBR0_VETH)
            host = self._host_side(own, pods, ofports)
            if self.datapath.userspace:
                self._pod_checksums.turn_off(pods, pod_veths)
            flows = frozenset(all_flows(self.config, host, mesh, ofports, self._peer_flows))
            changes = self._apply_flows(flows, before)
            if before is None:
                lines += self._allow_ports(rows)
            self._applied = AppliedState(rows, ofports, flows, pod_veths)
            at = {pod.host_link: pod.attachment for pod in pods} if self.attaches_pods else {}
            self._pod_ports = {ofports[name]: at[name] for name in at.keys() & ofports.keys()}
            for watch in self._watches:
                watch.ready()
            self._require_tunnels(rows, ofports)
        return lines + [change.line(OBR0) for change in changes]

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """What `reconcile` would do, as far as it follows from what is there. Raises OSError."""
        mesh = self._peers.peers_of(self.config, peers, own)
        pods = pods_of_host(self.state_dir)
        pod_veths = veths_of(pods) if self.attaches_pods else {}
        rows = self._desired_rows(own, mesh, pod_veths, underlay)
        lines = [change.line() for change in self._row_changes(rows)]
        lines.append(f"# datapath {self.datapath.type}: {self.datapath.reason}")
        ofports = self._database().ofports(OBR0)
        with contextlib.suppress(OvsError):
            host = self._host_side(own, pods, ofports)
            flows = all_flows(self.config, host, mesh, ofports)
            lines += [change.line(OBR0) for change in Switch(self.rundir, OBR0).changes(flows)]
            lines += self._allow_ports(rows, plan=True)
        return lines

    def problem(self) -> str | None:
        """Why pods can't reach other hosts now, or None; asks the database, PROBE_TIMEOUT at most.

        Without it the userspace datapath stands still, and no pod can be added on any.
        """
        if self._problem is not None:
            return self._problem
        try:
            request(str(self.rundir / "db.sock"), "echo", [], PROBE_TIMEOUT)
        except OvsError as error:
            return f"ovs: database: {error}"
        return None

    def samples(self) -> list[MetricSample]:
        """Packets dropped; nothing while the switch doesn't answer."""
        switch, ports = Switch(self.rundir, OBR0), self._pod_ports
        try:
            dropped = switch.dropped()
            refused = switch.refused() if ports else {}
        except OvsError:
            return []
        what = "Packets that obr0 dropped since Open vSwitch started"
        samples = [
            MetricSample("ovs_dropped_packets", what, packets, {"reason": reason})
            for reason, packets in dropped.items()
        ]
        whose = "Packets of a pod that were refused: not its addresses, or only routers send such"
        for port, (network, container, ifname) in ports.items():
            labels = {"network": network, "container": container, "ifname": ifname}
            count = refused.get(port, 0)
            samples.append(MetricSample("pod_refused_packets", whose, count, labels))
        return samples

    def mark_dirty(self) -> None:
        """Something may have changed: the next `reconcile` reads all rows and flows."""
        self._applied = None

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when Open vSwitch restarts, or its rows, ports or flows are changed."""
        if self._watch is None:
            self._watch = Watch(self.rundir, OBR0, changed)
            self._rows_watch = RowsWatch(self.rundir, self._applied_rows, changed)
            self._watches = [self._watch]
            if self.datapath.userspace:
                self._watches.append(Watch(self.rundir, UNDERLAY_BRIDGE, changed))

    def expect_drift(self) -> None:
        """Nobody tells of the switch's own routes, nor of the addresses of its bridge."""
        self._underlay_in_doubt = True

    def _applied_rows(self) -> Sequence[BridgeRow] | None:
        applied = self._applied
        return applied.rows if applied is not None else None

    def close(self) -> None:
        """Close connections: rows and flows stay, and packets go on."""
        for watch in self._watches:
            watch.close()
        if self._rows_watch is not None:
            self._rows_watch.close()
        self._watch, self._rows_watch, self._watches = None, None, []
        self._disconnect()

    def cleanup(self) -> None:
        """Remove bridges, redirect and attach file. Raises OSError."""
        try:
            if (self.rundir / "db.sock").exists():
                self._database().apply(self._row_changes([]))
            self.userspace.remove()
        finally:
            attach_file.withdraw(self.run_dir)
            self.close()

    # -- rows --------------------------------------------------------------------------

    def _database(self) -> Ovsdb:
        if self._db is None:
            self._db = Ovsdb(self.rundir)
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _desired_rows(
        self, own: Lease, mesh: Sequence[Peer], pod_veths: Iterable[str], underlay: Underlay
    ) -> list[BridgeRow]:
        tunnels = topology.tunnel_ports(self.config, mesh)
        macs = underlay.mac, self._switch_mac(own)
        return desired_rows(self.config, self.datapath, macs[0], tunnels, mesh, pod_veths, macs[1])

    def _switch_mac(self, own: Lease) -> str | None:
        """obr0's MAC, which pods have in their neighbour caches: kept when obr0 is made anew."""
        if self.attaches_pods and self._mac is None:
            with NetlinkSocket() as sock:
                found = find_link(sock, OBR0)
            if found is not None:
                self._mac = found.mac
            else:
                _, packed = pack_address(gateway_addresses(own)[0].partition("/")[0])
                self._mac = mac_after(packed, GATEWAY_PREFIX)
        return self._mac

    def _row_changes(self, rows: Sequence[BridgeRow]) -> list[RowChange]:
        database = self._database()
        database.refresh()
        return row_changes(rows, database.actual())

    def _apply_rows(self, rows: list[BridgeRow], before: AppliedState | None) -> list[str]:
        if before is None:
            changes = self._row_changes(rows)
        else:
            applied = {bridge.name: ActualBridge(bridge, ours=True) for bridge in before.rows}
            changes = row_changes(rows, applied)
        with self._expecting(rows=changes):
            self._database().apply(changes)
        return [change.line() for change in changes]

    def _open_again(self, rows: Sequence[BridgeRow]) -> list[str]:
        """Take away ports whose device was made anew: they are added again right after.

        ovs-vswitchd goes on to read the device that is gone.
        """
        database = self._database()
        database.refresh()
        with NetlinkSocket() as sock:
            links = read_links(sock)
        lost = not_opened(_devices(rows) & database.ports_open(), links)
        if not lost:
            return []
        changes = row_changes(without_ports(rows, lost), database.actual())
        with self._expecting(rows=changes):
            database.apply(changes)
        return [change.line() for change in changes]

    def _ofports(self, rows: Sequence[BridgeRow]) -> dict[str, int]:
        """Numbers of obr0's ports; waits for those that ovs-vswitchd hasn't opened yet."""
        names = {port.name for bridge in rows if bridge.name == OBR0 for port in bridge.ports}
        database = self._database()
        deadline = time.monotonic() + PORT_TIMEOUT
        while names - (there := database.ofports(OBR0)).keys() - database.errors(OBR0).keys():
            if time.monotonic() > deadline:
                break
            time.sleep(PORT_INTERVAL)
            database.refresh()
        for name, error in database.errors(OBR0).items():
            if name not in there and f"{name} {error}" not in self._reported:
                self._reported.add(f"{name} {error}")
                log.warning("obr0: port %s: %s", name, error)
        return there

    def _require_tunnels(self, rows: Sequence[BridgeRow], ofports: Mapping[str, int]) -> None:
        database, ports = self._database(), (tunnel.port for tunnel in self.config.tunnels)
        why = unopened_tunnel(database, rows, ofports, ports)
        if why is not None:
            self._applied = None
            database.open_again()
            raise OvsdbError(why)

    # -- flows -------------------------------------------------------------------------

    def _host_side(self, own: Lease, pods: Sequence[Pod], ofports: Mapping[str, int]) -> HostSide:
        read = partial(read_host_side, datapath=self.datapath, isolation=self.isolation)
        return read(own, pods, ofports, on_switch=self.attaches_pods)

    def _apply_flows(self, flows: frozenset[str], before: AppliedState | None) -> list[FlowChange]:
        switch = Switch(self.rundir, OBR0)
        changes = switch.changes(flows) if before is None else difference(before.flows, flows)
        with self._expecting(flows=changes):
            switch.apply(changes)
        return changes

    def _allow_ports(self, rows: Iterable[BridgeRow], *, plan: bool = False) -> list[str]:
        """Take back what another program has forbidden our ports."""
        lines = []
        for bridge in rows:
            switch = Switch(self.rundir, bridge.name)
            wrong = port_config.changes(switch, {port.name for port in bridge.ports})
            if not plan:
                port_config.apply(switch, wrong)
            lines += [change.line(bridge.name) for change in wrong]
        return lines

    def _expecting(
        self, *, rows: Iterable[RowChange] = (), flows: Iterable[FlowChange] = ()
    ) -> contextlib.AbstractContextManager[None]:
        """Tell the watch which updates these changes will cause."""
        if self._watch is None:
            return contextlib.nullcontext()
        ports = [(c.verb, c.port.name) for c in rows if c.port and c.bridge.name == OBR0]
        added, deleted = ([n for v, n in ports if v == verb] for verb in ("add-port", "del-port"))
        return self._watch.expecting(expected_updates(flows, added, deleted))

    # -- the userspace datapath --------------------------------------------------------

    def _connect_to_underlay(self, underlay: Underlay, rows: Sequence[BridgeRow]) -> list[str]:
        with Kernel() as kernel:
            switched = sorted(_devices(rows) & {link.name for link in kernel.links()})
            lines = self.userspace.reconcile(underlay, self.config.tunnels, switched, kernel)
        veth = self._database().ofports(UNDERLAY_BRIDGE).get(UNDERLAY_BRIDGE_VETH)
        if veth is None:
            raise OvsdbError(f"ovs-vswitchd can't open {UNDERLAY_BRIDGE_VETH} yet")
        switch = Switch(self.rundir, UNDERLAY_BRIDGE)
        changes = switch.changes(underlay_bridge_flows(veth))
        switch.apply(changes)
        return lines + [change.line(UNDERLAY_BRIDGE) for change in changes]

    @contextlib.contextmanager
    def _recording_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._problem = f"ovs: {error}"
            self._disconnect()
            raise
        self._problem = None


def _devices(rows: Iterable[BridgeRow]) -> set[str]:
    """The host's own devices that are ports."""
    return {port.name for bridge in rows for port in bridge.ports if not port.type}
