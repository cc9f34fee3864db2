# SPDX-License-Identifier: Apache-2.0
"""The changes of an ADD, in order: record, bridge, veth pair, addresses, nftables, `ready`.

Whatever fails in between, the caller undoes it with `removal.detach`, which works from the
record. So the record holds everything that an undo needs before the change is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cni.address_pool import AddressPool
from cni.attachment.store import AttachmentStore, BegunAttachment
from cni.config.request import CniRequest
from cni.crash_points import crash_point
from cni.delegate.remembered import to_remember
from cni.delegate.run import NEED_INTERFACE, add_addresses, call_delegate
from cni.errors import NO_ADDRESS, TRY_AGAIN_LATER, CniError
from cni.host import PluginHost
from cni.other_gateway import SWITCH, require_no_other_gateway
from cni.pod import firewall, source_guard, unanswered
from cni.pod.add_plan import AddPlan
from cni.pod.announce import announce
from cni.pod.bridge import ensure_bridge
from cni.pod.gateways import gateway_addresses, with_gateways
from cni.pod.naming import HOST_PREFIX, POD_PREFIX, host_interface_alias, mac_for
from cni.pod.pod_addresses import configure_pod
from cni.pod.pod_sysctls import enable_forwarding, enable_ipv6, refuse_routers
from cni.pod.source_guard import GuardedPod
from cni.pod.veth_pair import PodSockets, VethPair, attach_veth, set_mac
from cni.result.model import CniResult, ResultAddress, ResultInterface, ResultRoute
from cni.wiring import compare as wiring
from hostnet.address_mac import mac_after
from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.bridge_fdb import has_port_with_mac
from ipam.address_allocator import Address


class Attacher(NamedTuple):
    """The values that every step of one ADD needs. Used by one thread."""

    request: CniRequest
    plan: AddPlan
    store: AttachmentStore
    sockets: PodSockets
    host: PluginHost
    metadata: dict[str, Any]
    """What is stored with the record so far."""

    def attach(self) -> CniResult:
        """Make every change; returns the result. Raises CniError, NetlinkError, OSError."""
        plan, pool, dns = self.plan, self.plan.pool, self.plan.dns
        self.metadata[source_guard.RECORDED] = {
            "bridge": plan.bridge.bridge if plan.attach.to_bridge else "",
            "check": plan.bridge.spoof_check,
            "trunk": bool(plan.bridge.vlan_trunk),
            "mac": plan.bridge.mac,
        }
        if plan.delegate:
            self.metadata["delegate"] = to_remember(plan.delegate, self.request)
        ips, last_macs = self._begin(pool)
        crash_point("add-recorded")
        ips, routes = with_gateways(ips, pool.routes if pool else (), plan.bridge)
        bridge = self._bridge(ips)
        pair = VethPair(
            plan.host_name,
            plan.key.ifname,
            plan.bridge.mac or mac_for(ips, POD_PREFIX),
            mac_for(ips, HOST_PREFIX),
            plan.bridge.mtu,
            host_interface_alias(plan.key),
        )
        interface = attach_veth(self.sockets, pair, bridge, plan.bridge)
        crash_point("add-veth")
        if plan.delegate:
            given = self._delegated_addresses()
            crash_point("add-delegated")
            ips, routes = with_gateways(given.ips, given.routes, plan.bridge)
            last_macs = self.store.last_macs(ips)
            dns = given.dns
            bridge = self._bridge(ips)
            if not plan.bridge.mac and plan.delegate not in NEED_INTERFACE:
                pair = pair._replace(mac=mac_for(ips, POD_PREFIX))
                set_mac(self.sockets.pod, interface, pair.mac)
        self._guard(pair, ips)
        self.host.protect(str(self.metadata.get("pod", "")), [ip.address for ip in ips])
        crash_point("add-guarded")
        unusual = self._announce(bridge, pair, ips, last_macs)
        self._configure(interface, ips, routes)
        crash_point("add-configured")
        self._firewall(pair, ips)
        crash_point("add-firewalled")
        self.metadata.update(mac=pair.mac, ips=[ip.address for ip in ips])
        gateways = gateway_addresses(ips) if plan.bridge.is_gateway else ()
        self.metadata[wiring.RECORDED] = wiring.to_record(plan.bridge, bridge, gateways)
        interfaces = _interfaces(plan, pair, bridge, interface)
        of_pod = len(interfaces) - 1
        ips = tuple(ip._replace(interface=of_pod) for ip in ips)
        result = CniResult(interfaces, ips, routes, dns)
        if plan.previous is not None:
            result = result.after(plan.previous)
        unanswered.keep(plan.key, result, self.host)
        self.store.finish(plan.key, pair.host_name, self.metadata, pair.mac, unusual)
        crash_point("add-ready")
        return result

    def _begin(self, pool: AddressPool | None) -> BegunAttachment:
        """Record the attachment; where no address is free, after a sweep. Raises CniError."""
        plan = self.plan
        arguments = plan.netns, plan.key, pool, self.metadata, self._in_use
        try:
            return self.store.begin(*arguments)
        except CniError as error:
            if error.code != NO_ADDRESS:
                raise
            from cni.pod.collect import sweep  # noqa: PLC0415 - rarely needed

            if not sweep(self.host, same_mounts=self.request.call.same_mounts):
                raise
            return self.store.begin(*arguments)

    def _in_use(self, address: Address) -> bool:
        """Whether a pod on the bridge was given the address, though it is recorded for none.

        The MAC of the host's end of its veth pair follows from the address.
        """
        if not self.plan.attach.to_bridge:
            return False
        mac = mac_after(address.packed, HOST_PREFIX)
        return has_port_with_mac(self.sockets.host, self.plan.bridge.bridge, mac)

    def _bridge(self, ips: tuple[ResultAddress, ...]) -> ActualLink | None:
        """The bridge with its gateway addresses; None where the daemon attaches pods itself."""
        gateways = gateway_addresses(ips) if self.plan.bridge.is_gateway else []
        if gateways:
            enable_forwarding({gateway.family for gateway in gateways})
        if not self.plan.attach.to_bridge:
            require_no_other_gateway(self.sockets.host, SWITCH, gateways)
            return None
        bridge = ensure_bridge(self.sockets.host, self.plan.bridge, gateways)
        crash_point("add-bridge")
        return bridge

    def _delegated_addresses(self) -> CniResult:
        """Addresses from the delegated IPAM plugin. Raises CniError.

        The veth pair exists by now: a dhcp plugin sends its requests through it.
        """
        plan = self.plan
        try:
            return add_addresses(plan.delegate, self.request, self.host)
        except CniError as error:
            # The specification wants DEL called after a failed ADD. A plugin that refuses a
            # config refuses it in DEL too; if its DEL were tried again until it succeeds, the
            # record would stay for ever. So the plugin is removed from the record, unless it
            # was cut short and may have given an address.
            with contextlib.suppress(CniError):
                config = self.request.config.raw
                call_delegate(plan.delegate, "DEL", config, self.request, self.host)
            if error.code != TRY_AGAIN_LATER:
                del self.metadata["delegate"]
                self.store.set_metadata(plan.key, self.metadata)
            raise

    def _guard(self, pair: VethPair, ips: tuple[ResultAddress, ...]) -> None:
        """Let the pod send from its own addresses only, before it can send at all.

        Where MAC and addresses don't follow from the record, they are recorded first: the daemon
        removes elements of pods that it knows nothing of.
        """
        sockets = self.sockets
        refuse_routers(pair.host_name, pair.pod_name, sockets.pod_netns, sockets.own_netns)
        if not self.plan.attach.to_bridge:
            return  # a table of Open vSwitch does it
        if self.plan.delegate or not ips:
            self.metadata.update(mac=pair.mac, ips=[ip.address for ip in ips])
            self.store.set_metadata(self.plan.key, self.metadata)
        bridge = self.plan.bridge
        addresses = tuple(ip.address.partition("/")[0] for ip in ips)
        pod = GuardedPod(
            pair.host_name, pair.mac, addresses, bridge.spoof_check, bool(bridge.vlan_trunk)
        )
        source_guard.add(pod)

    def _announce(
        self,
        bridge: ActualLink | None,
        pair: VethPair,
        ips: Sequence[ResultAddress],
        before: Mapping[str, str],
    ) -> list[ResultAddress]:
        """Announce addresses that had another MAC; returns those whose MAC has to be recorded."""
        config = self.plan.bridge
        if bridge is None or not config.container_interface_up:
            return []
        usual = mac_for(ips, POD_PREFIX)
        other = [ip for ip in ips if before.get(ip.address, usual) != pair.mac]
        if other:
            announce(self.sockets.host, bridge, pair, other, config, self.host)
        # what is not recorded follows from the address: most ADDs write nothing
        return [ip for ip in ips if before.get(ip.address, mac_for([ip], POD_PREFIX)) != pair.mac]

    def _configure(
        self,
        interface: ActualLink,
        ips: tuple[ResultAddress, ...],
        routes: tuple[ResultRoute, ...],
    ) -> None:
        if self.plan.bridge.container_interface_up:
            enable_ipv6(interface.name, self.sockets.pod_netns, ips)
            configure_pod(self.sockets.pod, interface, ips, routes)

    def _firewall(self, pair: VethPair, ips: tuple[ResultAddress, ...]) -> None:
        """Add the pod's nftables elements.

        They are recorded first: DEL deletes what is recorded, and an element that was never
        added costs it nothing.
        """
        metadata = self.metadata
        if self.plan.bridge.ip_masq and ips:
            metadata["masquerade"] = [ip.address for ip in ips]
        if self.plan.bridge.mac_spoof_check:
            metadata["guard"] = [pair.host_name, pair.mac]
        if "masquerade" not in metadata and "guard" not in metadata:
            return
        self.store.set_metadata(self.plan.key, metadata)
        if "masquerade" in metadata:
            firewall.add_masquerade(metadata["masquerade"])
        if "guard" in metadata:
            firewall.add_mac_spoof_check(*metadata["guard"])


def _interfaces(
    plan: AddPlan, pair: VethPair, bridge: ActualLink | None, interface: ActualLink
) -> tuple[ResultInterface, ...]:
    """For the result: the bridge if we use one, the host's end, the pod's end."""
    interfaces = [
        ResultInterface(pair.host_name, pair.host_mac, mtu=interface.mtu),
        ResultInterface(pair.pod_name, pair.mac, plan.netns, interface.mtu),
    ]
    if bridge is not None:
        interfaces.insert(0, ResultInterface(bridge.name, bridge.mac, mtu=bridge.mtu))
    return tuple(interfaces)
