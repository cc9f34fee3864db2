# SPDX-License-Identifier: Apache-2.0
"""Neighbours in rtnetlink: encode and parse, fast for thousands.

What `ip neigh` does (rtnetlink(7), linux/neighbour.h). All that we write is permanent: nothing
is ever resolved, learned or aged.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace as changed
from typing import NamedTuple

from hostnet.kinds.batch import apply_batch
from hostnet.kinds.kind import (
    DiffContext,
    Failure,
    KernelView,
    PlanPart,
    Step,
    diff_entries,
)
from hostnet.kinds.watcher import NETLINK_ROUTE, Deletion, WatchView
from hostnet.netlink.attributes import (
    ATTRIBUTE,
    attr,
    attr_u8,
    attr_u32,
    attributes,
    pack_address,
    pack_mac,
    unpack_address,
    unpack_mac,
)
from hostnet.netlink.buffers import Part, parts_of
from hostnet.netlink.socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    Request,
    RequestBatch,
)
from hostnet.netlink.table_reader import TableReader
from hostnet.ownership import Mark
from hostnet.state import HostState, Occupant

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_PROBES, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 3, 4, 8, 12
NUD_STALE, NUD_NOARP, NUD_PERMANENT = 0x04, 0x40, 0x80
NTF_SELF = 0x02

HEADER = struct.Struct("=BBHiHBB")  # struct ndmsg
PUT = NLM_F_CREATE | NLM_F_REPLACE
ADD = NLM_F_CREATE | NLM_F_EXCL


class Neighbour(NamedTuple):
    """A permanent neighbour entry. `ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent`."""

    link: str
    address: str
    mac: str

    @property
    def key(self) -> tuple[str, str]:
        """One entry per device and address."""
        return (self.link, self.address)


FRONT: Mapping[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 44}
"""Bytes of a dumped entry up to the end of its two addresses, by the family of the IP one."""


def put_neighbours(
    neighbours: Iterable[Neighbour],
    index: Mapping[str, int],
    protocol: int,
    *,
    replace: bool = True,
) -> RequestBatch:
    """`ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent proto P` each.

    Raises KeyError for a link that `index` lacks, OSError or ValueError for a bad address.
    """
    bodies, unhex = [], bytes.fromhex
    heads: dict[tuple[str, int], bytes] = {}
    lladdr, tail = ATTRIBUTE.pack(10, NDA_LLADDR), b"\0\0" + attr_u8(NDA_PROTOCOL, protocol)
    for link, address, mac in neighbours:
        family, packed = pack_address(address)
        head = heads.get((link, family))
        if head is None:
            head = HEADER.pack(family, 0, 0, index[link], NUD_PERMANENT, 0, 0)
            head += ATTRIBUTE.pack(4 + len(packed), NDA_DST)
            heads[link, family] = head
        bodies.append(head + packed + lladdr + unhex(mac.replace(":", "")) + tail)
    return RequestBatch(RTM_NEWNEIGH, PUT if replace else ADD, bodies)


def correct_neighbours(index: int, mac: str, addresses: Iterable[str]) -> RequestBatch:
    """Give learned entries of a device another MAC; where there is none, none is made (ENOENT)."""
    tail = attr(NDA_LLADDR, pack_mac(mac))
    bodies = []
    for address in addresses:
        family, packed = pack_address(address)
        head = HEADER.pack(family, 0, 0, index, NUD_STALE, 0, 0)
        bodies.append(head + attr(NDA_DST, packed) + tail)
    return RequestBatch(RTM_NEWNEIGH, NLM_F_REPLACE, bodies)


def delete_neighbours(neighbours: Iterable[Neighbour], index: Mapping[str, int]) -> RequestBatch:
    """`ip neigh del ADDRESS dev LINK` each."""
    bodies = []
    for link, address, _ in neighbours:
        family, packed = pack_address(address)
        body = HEADER.pack(family, 0, 0, index[link], 0, 0, 0) + attr(NDA_DST, packed)
        bodies.append(body)
    return RequestBatch(RTM_DELNEIGH, 0, bodies)


def dump_neighbours(family: int, ifindex: int) -> Request:
    """Ask for the neighbours of a family (AF_INET, AF_INET6) on one device."""
    head = HEADER.pack(family, 0, 0, 0, 0, 0, 0)
    return Request(RTM_GETNEIGH, 0, head + attr_u32(NDA_IFINDEX, ifindex))


def parse_neighbour(part: Part, names: Mapping[int, str]) -> tuple[Neighbour | None, int]:
    """Read an RTM_NEWNEIGH message: a permanent neighbour and its device's index.

    None for any other entry.
    """
    data, begin, end = part
    family, _, _, index, state, _, _ = HEADER.unpack_from(data, begin)
    if not state & NUD_PERMANENT or family not in FRONT:
        return None, index
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None, index
    address, mac = unpack_address(found[NDA_DST]), unpack_mac(found[NDA_LLADDR])
    return Neighbour(names.get(index, ""), address, mac), index


class NeighbourKind:
    """Permanent neighbours. Fits `hostnet.kinds.kind.Kind`."""

    name = "neighbour"
    types = (Neighbour,)
    deletes_last = False

    def __init__(self) -> None:
        self._readers: dict[tuple[str, int], TableReader[Neighbour]] = {}
        self._held: set[tuple[str, str]] = set()
        """Keys off overlay devices at which we have read or written an entry of ours."""

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Neighbour | Occupant]:
        """All on overlay devices of ours; elsewhere those at wanted keys, ours or not."""
        right = {one.key: one for one in wanted.of(Neighbour)}
        elsewhere = {one.link for one in right.values()} - view.overlay
        for name in sorted((view.overlay | elsewhere) & view.index.keys()):
            for family in FRONT:
                if name in view.overlay:
                    yield from self._on_device(view, name, family)
                    continue
                for one, protocol in _with_protocol(view, name, family):
                    if one.key not in right:
                        continue
                    if protocol == view.mark.protocol:
                        self._held.add(one.key)
                    if one.key in self._held or one == right[one.key]:
                        yield one
                    else:
                        yield Occupant(Neighbour, one.key, _in_the_way(one))

    def _on_device(self, view: KernelView, name: str, family: int) -> list[Neighbour]:
        request = dump_neighbours(family, view.index[name])
        buffers = view.socket.dump_what_there_is(request, f"ip neigh show dev {name}")
        reader = self._readers.setdefault(
            (name, family), TableReader(parse_neighbour, FRONT[family])
        )
        return [one for one in reader.read(buffers, view.names) if one.link == name]

    def diff(self, context: DiffContext) -> PlanPart:
        """Wrong ones are overwritten, stale ones deleted."""
        return diff_entries(self, Neighbour, context)

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""

        def overwrite(objects: Sequence[Neighbour]) -> RequestBatch:
            return put_neighbours(objects, view.index, view.mark.protocol)

        def add(objects: Sequence[Neighbour]) -> RequestBatch:
            return put_neighbours(objects, view.index, view.mark.protocol, replace=False)

        def delete(objects: Sequence[Neighbour]) -> RequestBatch:
            return delete_neighbours(objects, view.index)

        encode = {"put": overwrite, "add": add, "delete": delete}

        failures: list[Failure] = []
        steps = [step] if step.verb == "delete" else self._split(step, view)
        for one in steps:
            problems, failed = apply_batch(one, view, encode[one.verb], explain=_explain)
            failures += problems
            keys = {
                o.key
                for n, o in enumerate(one.objects)
                if o.link not in view.overlay and n not in failed
            }
            self._held = self._held - keys if step.verb == "delete" else self._held | keys
        return failures

    def _split(self, step: Step, view: KernelView) -> list[Step]:
        """What may be overwritten: on our devices, held before, or learned by the kernel."""
        others = [o for o in step.objects if o.link not in view.overlay]
        if not others:
            return [step]
        learned = _learned(view, {one.link for one in others})
        new = [one for one in others if one.key not in self._held and one.key not in learned]
        exclusive = set(new)
        rest = [one for one in step.objects if one not in exclusive]
        parts = [changed(step, objects=rest), changed(step, verb="add", objects=new)]
        return [part for part in parts if part.objects]

    def watcher(self, mark: Mark) -> NeighbourWatcher:
        """Tells that one was changed."""
        del mark
        return NeighbourWatcher()

    def line(self, verb: str, one: Neighbour) -> str:
        """`ip neigh replace ADDRESS lladdr MAC dev LINK nud permanent`."""
        if verb == "delete":
            return f"ip neigh del {one.address} dev {one.link}"
        return f"ip neigh replace {one.address} lladdr {one.mac} dev {one.link} nud permanent"


def _learned(view: KernelView, links: set[str]) -> set[tuple[str, str]]:
    """Keys of neighbours that the kernel resolved, or tries to: not written by a program."""
    found = set()
    for name, family in itertools.product(sorted(links & view.index.keys()), FRONT):
        request = dump_neighbours(family, view.index[name])
        for buffer in view.socket.dump_what_there_is(request, f"ip neigh show dev {name}"):
            for data, begin, end in parts_of(buffer):
                state = HEADER.unpack_from(data, begin)[4]
                address = attributes(data, begin + 12, end).get(NDA_DST)
                if address and not state & NUD_PERMANENT:
                    found.add((name, unpack_address(address)))
    return found


def _explain(one: Neighbour, error: NetlinkError) -> str:
    return _in_the_way(one) if error.errno == errno.EEXIST else error.reason


def _with_protocol(view: KernelView, name: str, family: int) -> Iterable[tuple[Neighbour, int]]:
    """The permanent neighbours on a device, each with its protocol number; 0: it has none."""
    request = dump_neighbours(family, view.index[name])
    for buffer in view.socket.dump_what_there_is(request, f"ip neigh show dev {name}"):
        for part in parts_of(buffer):
            one, _ = parse_neighbour(part, view.names)
            if one is not None:
                data, begin, end = part
                found = attributes(data, begin + HEADER.size, end)
                yield one, found.get(NDA_PROTOCOL, b"\0")[0]


def _in_the_way(one: Neighbour) -> str:
    return (
        f"a permanent neighbour {one.address} lladdr {one.mac} on {one.link} is not ours: "
        f"remove it (ip neigh del {one.address} dev {one.link})"
    )


class NeighbourWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (3,)  # RTNLGRP_NEIGH: forwarding entries as well
    messages = (RTM_NEWNEIGH, RTM_DELNEIGH)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """Those on overlay devices."""
        data, begin, end = part
        family, _, _, index, _, _, _ = HEADER.unpack_from(data, begin)
        if family == socket.AF_BRIDGE or not view.is_overlay(index):
            return None
        link = view.links[index].name
        if message == RTM_DELNEIGH and view.deleted:
            address = attributes(data, begin + HEADER.size, end).get(NDA_DST)
            if address and (link, unpack_address(address)) in view.deleted:
                return None
        return f"a neighbour on {link} was {'deleted' if message == RTM_DELNEIGH else 'set'}"

    def deletion(self, one: object) -> Deletion | None:
        """The messages bear no sender: device and address."""
        return (one.link, one.address) if isinstance(one, Neighbour) else None

    def writing(self, one: object) -> None:
        """That one was set has a sender."""
