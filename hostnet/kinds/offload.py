"""Transmit checksum offload of a device: `ethtool -K DEV tx off`.

A packet that leaves the kernel for a userspace switch must be finished: with offload on, its
checksum field holds only a part of the sum that hardware would complete, no hardware follows, and
receivers drop the packet. Turning it off on the device where packets enter the switch makes the
kernel compute checksums, and segment, there.

Sources: linux/ethtool.h; ethtool(8).
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.netns import run_in
from hostnet.ownership import Mark
from hostnet.state import HostState

SIOCETHTOOL = 0x8946  # linux/sockios.h
ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x16, 0x17
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

    def read(self, view: KernelView, wanted: HostState) -> Iterable[TxChecksum]:
        """The settings of the wanted devices that are there. Raises OSError."""
        names = sorted(one.link for one in wanted.of(TxChecksum))

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

    def watcher(self, mark: Mark) -> None:
        """The kernel sends no messages on them."""

    def line(self, verb: str, one: TxChecksum) -> str:
        """`ethtool -K LINK tx off`."""
        del verb
        return f"ethtool -K {one.link} tx {'on' if one.on else 'off'}"


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
