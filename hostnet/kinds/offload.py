# SPDX-License-Identifier: Apache-2.0
"""Transmit checksum offload of a device: `ethtool -K DEV tx off`.

A packet that leaves the kernel for a userspace switch must be finished: with offload on, its
checksum field holds only a part of the sum that hardware would complete, no hardware follows, and
receivers drop the packet. Turning it off on the device where packets enter the switch makes the
kernel compute checksums, and segment, there.

Sources: linux/ethtool.h; ethtool(8).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.watcher import WatchView
from hostnet.netlink.attributes import attributes, nested, text_of
from hostnet.netlink.buffers import Part
from hostnet.netlink.generic import GENL_HEADER, NETLINK_GENERIC, multicast_group
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import run_in
from hostnet.ownership import Mark
from hostnet.state import HostState

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
# linux/ethtool_netlink.h
ETHTOOL_MSG_FEATURES_NTF = 13
ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_HEADER_DEV_NAME = 1, 2
IFREQ = struct.Struct("16sQ16x")  # struct ifreq: name, pointer; 40 bytes
NOT_THERE = frozenset({errno.ENODEV, errno.EOPNOTSUPP})  # no such device, or no such setting


class TxChecksum(NamedTuple):
    """Whether a device is left to complete checksums. `ethtool -K LINK tx on|off`."""

    link: str
    on: bool

    @property
    def key(self) -> str:
        """A device has one such setting."""
        return self.link


class TxChecksumKind:
    """Offload settings: only those that are wanted are looked at, and none is ever taken back.

    Fits `hostnet.kinds.kind.Kind`.
    """

    name = "offload"
    types = (TxChecksum,)
    deletes_last = False

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        """The devices that were wanted at the last read."""

    def read(self, view: KernelView, wanted: HostState) -> Iterable[TxChecksum]:
        """The settings of the wanted devices that are there. Raises OSError."""
        names = sorted(one.link for one in wanted.of(TxChecksum))
        self.names = frozenset(names)

        def read_all() -> list[TxChecksum]:
            found = ((name, _read(name)) for name in names)
            return [TxChecksum(name, on) for name, on in found if on is not None]

        return run_in(view.netns_fd, read_all) if names else ()

    def diff(self, context: DiffContext) -> PlanPart:
        """What differs, after the devices have been made; anew on a device that is made anew."""
        right = {one for one in context.actual.of(TxChecksum) if one.link not in context.gone}
        return PlanPart(put=step(self, "put", sorted(context.desired.of(TxChecksum) - right)))

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them, past errors."""

        def write_all() -> list[Failure]:
            failures = []
            for one in step.objects:
                try:
                    _call(one.link, ETHTOOL_STXCSUM, one.on)
                except OSError as error:
                    failures.append(Failure(self.line("put", one), error.strerror or str(error)))
            return failures

        return run_in(view.netns_fd, write_all)

    def watcher(self, mark: Mark) -> TxChecksumWatcher | None:
        """Tells of other settings of a device; nothing where the kernel does not (Linux 5.6)."""
        if not mark.has(self.name):
            return None
        with contextlib.suppress(OSError), NetlinkSocket(protocol=NETLINK_GENERIC) as sock:
            found = multicast_group(sock, "ethtool", "monitor")
            if found is not None:
                return TxChecksumWatcher(self, *found)
        return None

    def line(self, verb: str, one: TxChecksum) -> str:
        """`ethtool -K LINK tx off`."""
        del verb
        return f"ethtool -K {one.link} tx {'on' if one.on else 'off'}"


class TxChecksumWatcher:
    """Of the kernel's messages on offload settings. Fits `hostnet.kinds.watcher.Watcher`."""

    protocol = NETLINK_GENERIC

    def __init__(self, kind: TxChecksumKind, message: int, group: int) -> None:
        self._kind = kind
        self.messages = (message,)
        self.groups = (group,)

    def begin(self, sock: NetlinkSocket, view: WatchView) -> None:
        """Nothing: a message is judged by itself."""

    def reason(self, message: int, part: Part, view: WatchView) -> str | None:
        """A device of ours whose settings we have not written just now."""
        del message
        data, begin, end = part
        if data[begin] != ETHTOOL_MSG_FEATURES_NTF:
            return None
        found = attributes(data, begin + GENL_HEADER.size, end)
        header = nested(found.get(ETHTOOL_A_FEATURES_HEADER, b""))
        name = text_of(header.get(ETHTOOL_A_HEADER_DEV_NAME))
        if name not in self._kind.names or name in view.written:
            return None
        return f"offload of {name} changed"

    def deletion(self, one: object) -> None:
        """A setting goes with its device."""

    def writing(self, one: object) -> str | None:
        """The device: the messages have no sender."""
        return one.link if isinstance(one, TxChecksum) else None


def turn_tx_checksum_off(name: str) -> bool:
    """Turn it off in the caller's namespace; returns whether it was on.

    Raises OSError (ENODEV: no such device).
    """
    if not _call(name, ETHTOOL_GTXCSUM, 0):
        return False
    _call(name, ETHTOOL_STXCSUM, 0)
    return True


def _read(name: str) -> bool | None:
    try:
        return bool(_call(name, ETHTOOL_GTXCSUM, 0))
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise


def _call(name: str, command: int, value: int) -> int:
    data = array.array("I", [command, value])  # struct ethtool_value
    request = IFREQ.pack(name.encode(), data.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    return data[1]
