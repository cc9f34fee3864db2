# SPDX-License-Identifier: Apache-2.0
"""Multi-queue TUN devices: made, attached to, taken away.

A TUN device hands packets to whoever has a *queue* of it attached. Ours are persistent: the
device with its addresses and routes outlives the process, so that packets for pods are
dropped, not sent elsewhere, while nobody is attached.

With `IFF_VNET_HDR` each packet is preceded by a struct virtio_net_hdr, and may be a
super-packet of up to 64 KiB that nobody has cut into segments or summed yet; which kinds the
kernel may send us is set by TUNSETOFFLOAD. It takes all kinds from us without being asked.

Sources: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from hostnet.find_link import find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import delete_link
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.ownership import LINK_ALIAS

TUN = "/dev/net/tun"
KIND = "tun"
TUNSETIFF, TUNSETPERSIST, TUNSETOFFLOAD = 0x400454CA, 0x400454CB, 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x100, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40  # Linux 6.2
VNET_HEADER = 10  # bytes of struct virtio_net_hdr


class TunError(OSError):
    """A TUN device that can't be had; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


def find(name: str) -> ActualLink | None:
    """The device of that name, of whatever kind, in the caller's namespace.

    Raises NetlinkError.
    """
    with NetlinkSocket() as sock:
        return find_link(sock, name)


def make_persistent(name: str, *, single: bool) -> None:
    """Make the device in the caller's namespace, without mark and without a queue attached.

    `single` as for `attach`. Raises TunError without /dev/net/tun, OSError.
    """
    fd = attach(name, single=single)
    try:
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def attach(name: str, *, single: bool = False) -> int:
    """A descriptor of one more queue of the device, which is made if it isn't there.

    `single` asks for a plain device instead: one queue, no vnet header. Non-blocking.
    Raises TunError without /dev/net/tun; OSError, EINVAL when the device is of another make.
    """
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TunError(
            error.errno, f"{TUN}: {error.strerror}; load the module: modprobe tun"
        ) from None
    flags = IFF_TUN | IFF_NO_PI | (0 if single else IFF_MULTI_QUEUE | IFF_VNET_HDR)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if not single:
            fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER))
    except BaseException:
        os.close(fd)
        raise
    return fd


def take_super_packets(fd: int) -> bool:
    """Let the kernel hand out super-packets; whether UDP ones are among them (Linux 6.2).

    That holds for the device with all its queues.
    Raises OSError.
    """
    tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(fd, TUNSETOFFLOAD, tcp)
        return False
    return True


def remove(name: str) -> None:
    """`ip link delete NAME` if it is a TUN device of ours; anything else is left alone.

    Raises NetlinkError.
    """
    found = find(name)
    if found is None or found.kind != KIND or found.alias != LINK_ALIAS:
        return
    with NetlinkSocket() as sock:
        try:
            sock.request(delete_link(name), f"ip link delete {name}")
        except NetlinkError as error:
            if error.errno != errno.ENODEV:  # somebody else was faster
                raise
