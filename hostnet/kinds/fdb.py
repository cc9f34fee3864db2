# SPDX-License-Identifier: Apache-2.0
"""FDB entries of VXLAN devices in rtnetlink: encode and parse, fast for thousands.

What `bridge fdb` does (rtnetlink(7), linux/neighbour.h): RTM_*NEIGH messages of family AF_BRIDGE.
An entry of a VXLAN device needs NTF_SELF (the device's own table, not its bridge's) and
NUD_NOARP beside NUD_PERMANENT.
"""

from __future__ import annotations

import errno
import socket
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
from hostnet.kinds.neighbour import (
    ADD,
    FRONT,
    HEADER,
    NDA_CACHEINFO,
    NDA_DST,
    NDA_LLADDR,
    NTF_SELF,
    NUD_NOARP,
    NUD_PERMANENT,
    PUT,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
)
from hostnet.kinds.watcher import NETLINK_ROUTE, Deletion, WatchView
from hostnet.netlink.attributes import (
    ATTRIBUTE,
    attributes,
    pack_address,
    unpack_address,
    unpack_mac,
)
from hostnet.netlink.buffers import Part as Message
from hostnet.netlink.buffers import parts_of
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request, RequestBatch
from hostnet.netlink.table_reader import TableReader
from hostnet.ownership import Mark
from hostnet.state import HostState, Occupant

DETOURS = {6: "port", 7: "vni", 8: "via"}
"""NDA_PORT, NDA_VNI, NDA_IFINDEX: the kernel names them where they differ from the device's own."""


class FdbEntry(NamedTuple):
    """A permanent forwarding entry. `bridge fdb replace MAC dev LINK dst REMOTE self permanent`."""

    link: str
    mac: str
    remote: str
    """Underlay address of the VTEP."""
    detour: str = ""
    """What else packets are sent by, and no entry of ours has: `port 4789`, `vni 7`, `via 3`."""

    @property
    def key(self) -> tuple[str, str]:
        """One destination per device and MAC: we never flood to several."""
        return (self.link, self.mac)


def put_fdb(
    entries: Iterable[FdbEntry], index: Mapping[str, int], *, replace: bool = True
) -> RequestBatch:
    """`bridge fdb replace MAC dev LINK dst REMOTE self permanent` each.

    Raises KeyError for a link that `index` lacks, OSError or ValueError for a bad address.
    """
    state = NUD_PERMANENT | NUD_NOARP
    return RequestBatch(RTM_NEWNEIGH, PUT if replace else ADD, _fdb(entries, index, state))


def delete_fdb(entries: Iterable[FdbEntry], index: Mapping[str, int]) -> RequestBatch:
    """`bridge fdb del MAC dev LINK dst REMOTE self` each."""
    return RequestBatch(RTM_DELNEIGH, 0, _fdb(entries, index, 0))


def _fdb(entries: Iterable[FdbEntry], index: Mapping[str, int], state: int) -> list[bytes]:
    bodies, unhex = [], bytes.fromhex
    heads: dict[str, bytes] = {}
    dst4 = b"\0\0" + ATTRIBUTE.pack(8, NDA_DST)
    dst6 = b"\0\0" + ATTRIBUTE.pack(20, NDA_DST)
    for link, mac, remote, _ in entries:
        head = heads.get(link)
        if head is None:
            head = HEADER.pack(socket.AF_BRIDGE, 0, 0, index[link], state, NTF_SELF, 0)
            head += ATTRIBUTE.pack(10, NDA_LLADDR)
            heads[link] = head
        family, packed = pack_address(remote)
        dst = dst4 if family == socket.AF_INET else dst6
        bodies.append(head + unhex(mac.replace(":", "")) + dst + packed)
    return bodies


def dump_fdb(ifindex: int) -> Request:
    """Ask for the forwarding entries of one device."""
    return Request(RTM_GETNEIGH, 0, HEADER.pack(socket.AF_BRIDGE, 0, 0, ifindex, 0, 0, 0))


def parse_fdb(part: Message, names: Mapping[int, str]) -> tuple[FdbEntry | None, int]:
    """Read an RTM_NEWNEIGH message: a permanent forwarding entry and its device's index.

    None for any other entry, and for one without a remote.
    """
    data, begin, end = part
    family, _, _, index, state, _, _ = HEADER.unpack_from(data, begin)
    if family != socket.AF_BRIDGE or not state & NUD_PERMANENT:
        return None, index
    found = attributes(data, begin + 12, end)
    if NDA_DST not in found or len(found.get(NDA_LLADDR, b"")) != 6:
        return None, index
    mac, remote = unpack_mac(found[NDA_LLADDR]), unpack_address(found[NDA_DST])
    detour = ""
    if not found.keys().isdisjoint(DETOURS):
        words = [f"{DETOURS[kind]} {found[kind].hex()}" for kind in DETOURS if kind in found]
        detour = " ".join(words)
    return FdbEntry(names.get(index, ""), mac, remote, detour), index


class FdbKind:
    """Permanent forwarding entries of VXLAN devices. Fits `hostnet.kinds.kind.Kind`."""

    name = "fdb"
    types = (FdbEntry,)
    deletes_last = False

    def __init__(self) -> None:
        self._readers: dict[tuple[str, int], TableReader[FdbEntry]] = {}

    def read(self, view: KernelView, wanted: HostState) -> Iterable[FdbEntry | Occupant]:
        """All on VXLAN devices of ours, which are made for them; elsewhere those at wanted keys.

        An equal entry of another program is as good as one of ours.
        """
        yield from self._elsewhere(view, wanted)
        for link in view.links:
            if link.kind != "vxlan":
                continue
            family = socket.AF_INET6 if link.over_ipv6 else socket.AF_INET
            request = dump_fdb(link.index)
            buffers = view.socket.dump_what_there_is(request, f"bridge fdb show dev {link.name}")
            reader = self._readers.setdefault(
                (link.name, family), TableReader(parse_fdb, FRONT[family])
            )
            yield from (one for one in reader.read(buffers, view.names) if one.link == link.name)

    def _elsewhere(self, view: KernelView, wanted: HostState) -> Iterable[FdbEntry | Occupant]:
        ours = {link.name for link in view.links if link.kind == "vxlan"}
        right = {one.key: one for one in wanted.of(FdbEntry) if one.link not in ours}
        for name in sorted({link for link, _ in right} & view.index.keys()):
            request = dump_fdb(view.index[name])
            for buffer in view.socket.dump_what_there_is(request, f"bridge fdb show dev {name}"):
                for part in parts_of(buffer):
                    one, _ = parse_fdb(part, view.names)
                    if one is None or one.key not in right:
                        continue
                    yield one if one == right[one.key] else _occupant(one)

    def diff(self, context: DiffContext) -> PlanPart:
        """Wrong ones are overwritten, stale ones deleted."""
        return diff_entries(self, FdbEntry, context)

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""

        def overwrite(objects: Sequence[FdbEntry]) -> RequestBatch:
            return put_fdb(objects, view.index)

        def add(objects: Sequence[FdbEntry]) -> RequestBatch:
            return put_fdb(objects, view.index, replace=False)

        def delete(objects: Sequence[FdbEntry]) -> RequestBatch:
            return delete_fdb(objects, view.index)

        if step.verb == "delete":
            return apply_batch(step, view, delete)[0]
        elsewhere = [one for one in step.objects if one.link not in view.overlay]
        if not elsewhere:
            return apply_batch(step, view, overwrite)[0]
        ours = changed(step, objects=[one for one in step.objects if one.link in view.overlay])
        failures = apply_batch(ours, view, overwrite)[0]
        return (
            failures + apply_batch(changed(step, objects=elsewhere), view, add, explain=_explain)[0]
        )

    def watcher(self, mark: Mark) -> FdbWatcher:
        """Tells that one was changed."""
        del mark
        return FdbWatcher()

    def line(self, verb: str, one: FdbEntry) -> str:
        """`bridge fdb replace MAC dev LINK dst REMOTE self permanent`."""
        word, state = ("del", "") if verb == "delete" else ("replace", " permanent")
        return f"bridge fdb {word} {one.mac} dev {one.link} dst {one.remote} self{state}"


def _occupant(one: FdbEntry) -> Occupant:
    text = (
        f"a forwarding entry {one.mac} dst {one.remote} on {one.link} is not ours: "
        f"remove it (bridge fdb del {one.mac} dev {one.link} dst {one.remote} self)"
    )
    return Occupant(FdbEntry, one.key, text)


def _explain(one: FdbEntry, error: NetlinkError) -> str:
    if error.errno == errno.EEXIST:
        return f"another program has an entry for {one.mac} on {one.link}: remove it"
    return error.reason


class FdbWatcher:
    """Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_ROUTE
    groups = (3,)  # RTNLGRP_NEIGH
    messages = (RTM_NEWNEIGH, RTM_DELNEIGH)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Message, view: WatchView) -> str | None:
        """Those of overlay devices, whoever wrote them; learned ones may go."""
        data, begin, _ = part
        family, _, _, index, state, _, _ = HEADER.unpack_from(data, begin)
        if family != socket.AF_BRIDGE or not view.is_overlay(index):
            return None
        found = attributes(*_behind_header(part))
        if NDA_CACHEINFO not in found:
            return None  # kernels before 6.14 tell twice: the device's driver, and without remote
        link = view.links[index].name
        if message == RTM_NEWNEIGH:
            ours = view.written and parse_fdb(part, {index: link})[0] in view.written
            return None if ours else f"a forwarding entry of {link} was set"
        if view.deleted:
            mac = found.get(NDA_LLADDR)
            if mac and (link, unpack_mac(mac)) in view.deleted:
                return None
        return f"a forwarding entry of {link} was deleted" if state & NUD_PERMANENT else None

    def deletion(self, one: object) -> Deletion | None:
        """The messages bear no sender: device and hardware address."""
        return (one.link, one.mac) if isinstance(one, FdbEntry) else None

    def writing(self, one: object) -> object | None:
        """The messages bear no sender: the entry."""
        return one if isinstance(one, FdbEntry) else None


def _behind_header(part: Message) -> Message:
    data, begin, end = part
    return data, begin + HEADER.size, end
