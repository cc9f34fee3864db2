# SPDX-License-Identifier: Apache-2.0
"""Addresses on devices: the kind; its messages are in `hostnet.netlink.address_messages`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostnet.kinds.batch import apply_batch
from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.watcher import NETLINK_ROUTE, WatchView, is_of_a_pod
from hostnet.netlink.address_messages import (
    IFAPROT_KERNEL,
    RT_SCOPE_LINK,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    Address,
    delete_addresses,
    dump_addresses,
    parse_address,
    parse_addresses,
    put_addresses,
)
from hostnet.netlink.buffers import Part
from hostnet.netlink.floating_address import FLOATING
from hostnet.netlink.socket import (
    NetlinkSocket,
    RequestBatch,
)
from hostnet.ownership import Mark
from hostnet.state import HostState


class AddressKind:
    """Addresses on devices. Fits `hostnet.kinds.kind.Kind`."""

    name = "address"
    types = (Address,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Address]:
        """Those with our mark, on overlay devices of ours, or wanted: an equal one is as good."""
        parts = view.socket.dump(RTM_GETADDR, dump_addresses().body, "ip addr show")
        right = wanted.of(Address)
        for found in parse_addresses(parts, view.names):
            on_ours = (
                found.address.link in view.overlay
                and found.scope != RT_SCOPE_LINK
                and found.protocol not in IFAPROT_KERNEL
            )
            if found.protocol == view.mark.protocol or on_ours or found.address in right:
                yield found.address

    def diff(self, context: DiffContext) -> PlanPart:
        """New ones first, then the stale: a device is never without."""
        desired, actual = context.desired.of(Address), context.actual.of(Address)
        left = {one for one in actual if one.link not in context.gone}
        new = step(self, "put", sorted(desired - left))
        return PlanPart(put=new + step(self, "delete", sorted(left - desired), disturbs=True))

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""

        def encode(objects: Sequence[Address]) -> RequestBatch:
            if step.verb == "delete":
                return delete_addresses(objects, view.index)
            return put_addresses(objects, view.index, view.mark.protocol)

        return apply_batch(step, view, encode)[0]

    def watcher(self, mark: Mark) -> AddressWatcher:
        """Tells that one was changed."""
        del mark
        return AddressWatcher()

    def line(self, verb: str, one: Address) -> str:
        """`ip addr replace ADDRESS dev LINK`."""
        return f"ip addr {'del' if verb == 'delete' else 'replace'} {one.address} dev {one.link}"


class AddressWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (5, 9)  # RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR
    messages = (RTM_NEWADDR, RTM_DELADDR)

    def __init__(self) -> None:
        self._there: set[tuple[int, str]] = set()

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """All addresses: a message on one that is there only renews its lifetime."""
        del view
        request = dump_addresses()
        for part in sock.dump(request.type, request.body, "ip addr show"):
            found = parse_address(part, {})
            self._there.add((found.ifindex, found.address.address))

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Addresses that are not link-local (the kernel's own), on devices that aren't pods'."""
        found = parse_address(part, {})
        link = view.links.get(found.ifindex)
        if (
            found.scope == RT_SCOPE_LINK
            or found.protocol == FLOATING
            or (link is not None and is_of_a_pod(link))
        ):
            return None
        key = (found.ifindex, found.address.address)
        if message == RTM_NEWADDR and key in self._there:
            return None
        (self._there.add if message == RTM_NEWADDR else self._there.discard)(key)
        return f"address {found.address.address} came or went"

    def deletion(self, one: object) -> None:
        """The messages have a sender."""

    def writing(self, one: object) -> None:
        """Likewise."""
