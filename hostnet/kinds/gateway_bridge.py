"""The bridge that pods are ports of, with their subnets' gateway addresses, as a kind of object.

It belongs to the pods: it bears their mark, its addresses bear none, and no sweep removes it while
pods may be on it. A data plane that attaches the bridge to something else wants it to be there
before the first pod. It is made by `hostnet.gateway_bridge`, as the CNI plugins make it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hostnet.find_link import find_link
from hostnet.gateway_bridge import ensure_gateway_bridge
from hostnet.kinds.address import dump_addresses, parse_addresses
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


class GatewayBridgeKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "gateway bridge"
    types = (GatewayBridge,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[GatewayBridge | Occupant]:
        """The wanted bridges that are there; equal to the wanted value where nothing is to do."""
        for want in wanted.of(GatewayBridge):
            found = find_link(view.socket, want.name)
            if found is None:
                continue
            if found.kind != "bridge":
                text = f"device {want.name} exists and is no bridge: rename or remove it"
                yield Occupant(GatewayBridge, want.key, text)
                continue
            dump = dump_addresses(0, found.index)
            parts = view.socket.dump(dump.type, dump.body, f"ip addr show {want.name}")
            there = {
                each.address.address
                for each in parse_addresses(parts, {found.index: found.name})
                if each.ifindex == found.index
            }
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
        return PlanPart(
            first=step(self, "add", [one for one in put if one.name not in there])
            + step(self, "set", [one for one in put if one.name in there]),
            conflicts=conflicts,
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Make or complete each."""
        failures = []
        for one in step.objects:
            try:
                ensure_gateway_bridge(view.socket, one.name, one.mtu, one.gateways)
            except OSError as error:
                failures.append(Failure(self.line(step.verb, one), str(error)))
        remember(view, read_links(view.socket))
        return failures

    def watcher(self, mark: Mark) -> None:
        """It is a device with addresses: their watchers do."""

    def line(self, verb: str, one: GatewayBridge) -> str:
        """`ip link add NAME mtu MTU up type bridge && ip addr replace ADDRESS dev NAME ...`."""
        make = f"ip link add {one.name} mtu {one.mtu} up type bridge"
        commands = [make if verb == "add" else f"ip link set {one.name} mtu {one.mtu} up"]
        commands += [f"ip addr replace {address} dev {one.name}" for address in one.gateways]
        return " && ".join(commands)
