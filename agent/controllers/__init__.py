# SPDX-License-Identifier: Apache-2.0
"""The controllers of this daemon, in the order in which a host is first set up.

A new controller is a module here and a line in `CONTROLLERS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.backends import data_planes_here
from agent.controller import Controller
from agent.controllers.closed_networks import ClosedNetworks
from agent.controllers.data_plane import DataPlaneController
from agent.controllers.devices import DevicesController
from agent.controllers.encryption import ClearTextController, EncryptionController
from agent.controllers.forwarding import ForwardingController
from agent.controllers.host_firewall import HostFirewallController
from agent.controllers.mesh import MeshController
from agent.controllers.names import NamesController
from agent.controllers.overlay import OverlayController
from agent.controllers.pod_guard import PodGuardController, concerns_guard
from agent.controllers.pod_wiring import PodWiringController
from agent.controllers.policy import PolicyController, concerns_policies
from agent.controllers.publish import PublishController
from agent.controllers.ready import ReadyController
from agent.controllers.services import ServicesController
from agent.controllers.underlay_announcements import UnderlayAnnouncements
from agent.controllers.vips import VipsController
from agent.data_plane_owner import DataPlaneOwner
from agent.etcd_addresses import EtcdAddresses
from agent.kernel_applier import KernelApplier
from agent.policy.feed import PolicyFeed
from agent.services.feed import ServiceFeed
from agent.services.judged import JudgedServices
from agent.settings import Settings
from cni.config.bridge_config import DEFAULT_BRIDGE
from cni.host import PluginHost
from cni.wiring.firewall import concerns_pods
from hostnet.iptables.watch import concerns_forwarding
from hostnet.kinds.foreign.pod_links import PodLinkWatch
from hostnet.nft.chain_table import ChainTableSocket
from hostnet.nft.watch import NftWatch
from hostnet.ownership import ENCRYPTION, FORWARDING, MESH, OVERLAY, SERVICES
from ovs_mesh.userspace import concerns_redirect
from services.vip.holder import VipHolder


@dataclass(slots=True)
class Resources:
    """What controllers are made from: sockets in this namespace, and the data plane."""

    settings: Settings
    overlay: KernelApplier
    forwarding: KernelApplier
    forward_chains: NftWatch
    pod_guard: NftWatch
    redirect: NftWatch
    pod_links: PodLinkWatch
    pod_tables: NftWatch
    encryption: KernelApplier
    services: KernelApplier
    mesh: KernelApplier
    etcd: EtcdAddresses
    feed: ServiceFeed
    vips: VipHolder
    policy_socket: ChainTableSocket
    policy_table: NftWatch
    policies: PolicyFeed
    judged: JudgedServices = field(default_factory=JudgedServices)
    data_plane: DataPlaneOwner = field(default_factory=DataPlaneOwner)
    checks: list[Callable[[], str | None]] = field(default_factory=list)
    """The status of each controller that carries pods' packets."""

    def obstacle(self) -> str | None:
        """Why pods' packets are not carried, as one line."""
        return next((why for check in self.checks if (why := check()) is not None), None)


def open_resources(
    settings: Settings, stack: contextlib.AsyncExitStack | contextlib.ExitStack
) -> Resources:
    """Open the sockets; `stack` closes them. Raises OSError.

    Netlink messages on changes that one of our appliers makes are not shown to the others.
    """
    overlay, forwarding = KernelApplier(OVERLAY), KernelApplier(FORWARDING)
    encryption, services = KernelApplier(ENCRYPTION), KernelApplier(SERVICES)
    mesh = KernelApplier(MESH)
    forward_chains, pod_guard = NftWatch(concerns_forwarding), NftWatch(concerns_guard)
    redirect, pod_links = NftWatch(concerns_redirect), PodLinkWatch()
    pod_tables, policy_socket = NftWatch(concerns_pods), ChainTableSocket()
    stack.callback(policy_socket.close)
    policy_table = NftWatch(concerns_policies, ignore=policy_socket.port)
    stack.callback(policy_table.close)
    stack.callback(pod_tables.close)
    for opened in (overlay, forwarding, encryption, services, mesh):
        stack.callback(opened.close)
    for watch in (forward_chains, pod_guard, redirect, pod_links):
        stack.callback(watch.close)
    overlay.monitor.ignore(forwarding.port, services.port, mesh.port)
    forwarding.monitor.ignore(overlay.port, mesh.port)
    mesh.monitor.ignore(overlay.port, forwarding.port)
    many = services.element_port, mesh.element_port
    for applier in (overlay, forwarding, encryption, services, mesh):
        applier.monitor.ignore(*many)
    for nft_watch in (forward_chains, pod_guard, redirect, pod_tables):
        nft_watch.ignore(many)
    etcd = EtcdAddresses(settings.etcd.endpoints if settings.etcd is not None else ())
    watches = forward_chains, pod_guard, redirect, pod_links, pod_tables
    prefix = settings.etcd.prefix if settings.etcd is not None else ""
    feed, vips = ServiceFeed(prefix), VipHolder(prefix)
    policies = PolicyFeed(settings.network_policy)
    return Resources(
        *(settings, overlay, forwarding, *watches, encryption, services, mesh, etcd, feed, vips),
        *(policy_socket, policy_table, policies),
    )


Factory = Callable[[Resources], Controller[Any]]


def _data_plane(resources: Resources) -> Controller[Any]:
    settings = resources.settings
    controller = DataPlaneController(
        resources.data_plane,
        lambda: data_planes_here(settings.state_dir, settings.run_dir),
        resources.policies,
    )
    resources.checks.append(controller.status)
    return controller


def _overlay(resources: Resources) -> Controller[Any]:
    bridge = DEFAULT_BRIDGE if resources.settings.docker_bridge else ""
    controller = OverlayController(resources.overlay, bridge)
    resources.checks.append(controller.status)
    return controller


def _forwarding(resources: Resources) -> Controller[Any]:
    settings = resources.settings
    etcd = resources.etcd
    return ForwardingController(resources.forwarding, etcd, settings.healthz_port)


def _plugin_host(settings: Settings) -> PluginHost:
    return PluginHost(settings.run_dir, settings.state_dir, settings.subnet_file)


def _encryption(resources: Resources) -> Controller[Any]:
    closed = ClosedNetworks(_plugin_host(resources.settings))
    return EncryptionController(resources.encryption, closed)


def _pod_guard(resources: Resources) -> Controller[Any]:
    return PodGuardController(resources.pod_guard, _plugin_host(resources.settings))


def _pod_wiring(resources: Resources) -> Controller[Any]:
    return PodWiringController(resources.pod_links, _plugin_host(resources.settings))


CONTROLLERS: dict[str, Factory] = {
    "encryption": _encryption,
    "publish": lambda resources: PublishController(resources.settings.subnet_file),
    "devices": lambda resources: DevicesController(resources.data_plane),
    "overlay": _overlay,
    "forwarding": _forwarding,
    "host firewall": lambda resources: HostFirewallController(
        resources.forward_chains,
        resources.settings.subnet_file,
        wanted=resources.settings.forward_rules,
    ),
    "services": lambda resources: ServicesController(
        resources.services,
        resources.feed,
        resources.etcd,
        resources.settings.healthz_port,
        resources.judged,
        tracked=resources.settings.network_policy,
    ),
    "mesh": lambda resources: MeshController(resources.mesh, resources.judged),
    "vips": lambda resources: VipsController(resources.settings, resources.vips),
    "network policy": lambda resources: PolicyController(
        resources.policies, resources.policy_socket, _plugin_host(resources.settings)
    ),
    "names": lambda resources: NamesController(resources.settings, resources.feed),
    "pod guard": _pod_guard,
    "pod wiring": _pod_wiring,
    "data plane": _data_plane,
    "announcements": lambda _: UnderlayAnnouncements(),
    "clear text": lambda resources: ClearTextController(resources.encryption, resources.obstacle),
    "ready": lambda resources: ReadyController(resources.settings.run_dir, resources.obstacle),
}


def make_controllers(resources: Resources) -> list[Controller[Any]]:
    """One of each, in order."""
    return [make(resources) for make in CONTROLLERS.values()]
