# SPDX-License-Identifier: Apache-2.0
"""The device with the pods' gateway addresses, as a kind of object: a bridge, or a switch's device.

A bridge belongs to the pods: it bears their mark, its addresses bear none, and no sweep removes it
while pods may be on it. A data plane that attaches the bridge to something else wants it to be
there before the first pod. It is made by `hostnet.gateway_bridge`, as the CNI plugins make it.

A switch's own device (obr0) is made and removed by the switch, with all that is on it; only its
state is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hostnet.find_link import find_link
from hostnet.gateway_bridge import addresses_of, ensure_addresses, ensure_gateway_bridge, set_up
from hostnet.kinds.kind import (
    DiffContext,
    Failure,
    KernelView,
    PlanPart,
    Step,
    step,
    without_occupied,
)
from hostnet.kinds.link import read_links, remember
from hostnet.ownership import POD_ALIAS, Mark
from hostnet.state import HostState, Occupant


class GatewayBridge(NamedTuple):
    """The bridge, up, with these addresses. What else it has is left as it is."""

    name: str
    mtu: int
    """Bytes. A bridge that another program made keeps its own."""
    gateways: tuple[str, ...]
    """`10.5.76.1/24`; the bridge's hardware address follows from the first one."""

    @property
    def key(self) -> str:
        """The name, unique in a namespace."""
        return self.name


class GatewayDevice(NamedTuple):
    """A device that another program makes, up, with these addresses and a link-local one."""

    name: str
    mtu: int
    """Bytes."""
    gateways: tuple[str, ...]
    """`10.5.76.1/24`."""

    @property
    def key(self) -> str:
        """The name, unique in a namespace."""
        return self.name


class GatewayBridgeKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "gateway bridge"
    types = (GatewayBridge, GatewayDevice)
    deletes_last = False

    def read(
        self, view: KernelView, wanted: HostState
    ) -> Iterable[GatewayBridge | GatewayDevice | Occupant]:
        """The wanted ones that are there; equal to the wanted value where nothing is to do."""
        for device in wanted.of(GatewayDevice):
            found = find_link(view.socket, device.name)
            if found is not None:
                there = addresses_of(view.socket, found)
                gateways = tuple(one for one in device.gateways if one in there)
                yield GatewayDevice(device.name, found.mtu if found.up else 0, gateways)
        for want in wanted.of(GatewayBridge):
            found = find_link(view.socket, want.name)
            if found is None:
                continue
            if found.kind != "bridge":
                text = f"device {want.name} exists and is no bridge: rename or remove it"
                yield Occupant(GatewayBridge, want.key, text)
                continue
            there = addresses_of(view.socket, found)
            ours = not found.alias or found.alias.startswith(POD_ALIAS)
            right = found.up and bool(found.alias)
            mtu = found.mtu if ours else want.mtu
            gateways = tuple(one for one in want.gateways if one in there)
            yield GatewayBridge(want.name, mtu if right else 0, gateways)

    def diff(self, context: DiffContext) -> PlanPart:
        """It comes before all else: devices that are made later become its ports."""
        actual = context.actual.of(GatewayBridge)
        there = {one.name for one in actual}
        missing = sorted(context.desired.of(GatewayBridge) - actual)
        put, conflicts = without_occupied(missing, context, GatewayBridge)
        devices = context.desired.of(GatewayDevice) - context.actual.of(GatewayDevice)
        return PlanPart(
            first=step(self, "add", [one for one in put if one.name not in there])
            + step(self, "set", [one for one in put if one.name in there]),
            put=step(self, "set", sorted(devices)),
            conflicts=conflicts,
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Make or complete each."""
        failures = []
        for one in step.objects:
            try:
                if isinstance(one, GatewayDevice):
                    _ensure_device(view, one)
                else:
                    ensure_gateway_bridge(view.socket, one.name, one.mtu, one.gateways)
            except OSError as error:
                failures.append(Failure(self.line(step.verb, one), str(error)))
        remember(view, read_links(view.socket))
        return failures

    def watcher(self, mark: Mark) -> None:
        """It is a device with addresses: their watchers do."""

    def line(self, verb: str, one: GatewayBridge | GatewayDevice) -> str:
        """`ip link add NAME mtu MTU up type bridge && ip addr replace ADDRESS dev NAME ...`."""
        make = f"ip link add {one.name} mtu {one.mtu} up type bridge"
        commands = [make if verb == "add" else f"ip link set {one.name} mtu {one.mtu} up"]
        commands += [f"ip addr replace {address} dev {one.name}" for address in one.gateways]
        return " && ".join(commands)


def _ensure_device(view: KernelView, wanted: GatewayDevice) -> None:
    # neighbour discovery of a router needs a link-local address
    link = set_up(view.socket, wanted.name, wanted.mtu, link_local=True)
    if link is None:
        raise OSError(f"no device {wanted.name}: the switch that makes it has not done so yet")
    ensure_addresses(view.socket, link, wanted.gateways)
