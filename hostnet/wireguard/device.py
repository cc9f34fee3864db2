# SPDX-License-Identifier: Apache-2.0
"""The network device of a WireGuard tunnel, however WireGuard itself is done.

In the kernel it is a device of its own kind. wireguard-go works on a TUN device, which we
make for it and make *persistent*: the device, its addresses and routes outlive the process.
So when wireguard-go dies, packets for pods are dropped; without the device its routes would
be gone too, and the packets would leave through the default route, in clear.

Sources: linux/if_tun.h, Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from hostnet.find_link import find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import add_link, change_link, delete_link, settings
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.ownership import LINK_ALIAS

TUN = "/dev/net/tun"
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB  # linux/if_tun.h
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000
KERNEL_KIND, TUN_KIND = "wireguard", "tun"


class TunBusyError(OSError):
    """Another process holds the TUN device."""


def find_device(name: str) -> ActualLink | None:
    """The device of that name in the caller's namespace. Raises NetlinkError."""
    with NetlinkSocket() as sock:
        return find_link(sock, name)


def make_kernel_device(name: str) -> None:
    """`ip link add NAME type wireguard`, with our mark. Raises NetlinkError."""
    with NetlinkSocket() as sock:
        request = add_link(KERNEL_KIND, settings(name=name, alias=LINK_ALIAS))
        sock.request(request, f"ip link add {name} type {KERNEL_KIND}")


def delete_device(name: str) -> None:
    """`ip link del NAME`; that it is gone is fine. Raises NetlinkError."""
    with NetlinkSocket() as sock:
        try:
            sock.request(delete_link(name), f"ip link del {name}")
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise


def open_tun(name: str, *, offload: bool) -> int:
    """A descriptor of the persistent TUN device, which is made if it isn't there.

    A packet is preceded by a struct tun_pi, with `offload` by a struct virtio_net_hdr instead:
    the formats of older and newer wireguard-go. The descriptor is non-blocking.
    Raises TunBusyError while another descriptor is attached; OSError: no /dev/net/tun, or a
    device of another kind has the name.
    """
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = IFF_TUN | (IFF_NO_PI | IFF_VNET_HDR if offload else 0)
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise TunBusyError(errno.EBUSY, "another process holds the device", name) from None
            raise OSError(error.errno, error.strerror, name) from None
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        with NetlinkSocket() as sock:
            mark = change_link(name, settings(alias=LINK_ALIAS))
            sock.request(mark, f"ip link set {name} alias {LINK_ALIAS}")
    except BaseException:
        os.close(fd)
        raise
    return fd
