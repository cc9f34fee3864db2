# SPDX-License-Identifier: Apache-2.0
"""The descriptors that the udp data plane works on: TUN queues, UDP and ICMP sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from base.errors import FlatmeshError
from flannel.udp.control import UdpSettings
from hostnet.kinds import tun as tun_device
from hostnet.port_owner import port_owner

BUFFER = 8 << 20  # bytes of a socket's buffers: some 128 super-packets
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2  # linux/in.h, linux/in6.h
UDP_GRO = 104  # linux/udp.h, Linux 5.0
ICMP_FILTER, ICMPV6_FILTER = 1, 1  # linux/icmp.h, linux/icmpv6.h


class SocketsError(FlatmeshError, OSError):
    """A descriptor can't be had; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(frozen=True, slots=True)
class Descriptors:
    """All of them; the holder of this value closes them. -1 stands for one that isn't there."""

    queues: tuple[tuple[int, int, int], ...]
    """Per queue: TUN, IPv4 UDP and IPv6 UDP."""
    icmp4: int
    icmp6: int
    udp_segmentation: bool
    """Whether the TUN device takes UDP super-packets."""

    def flat(self) -> list[int]:
        """All that are there, in the order in which `restore` takes them."""
        every = [fd for queue in self.queues for fd in queue] + [self.icmp4, self.icmp6]
        return [fd for fd in every if fd >= 0]

    @classmethod
    def restore(
        cls, settings: UdpSettings, fds: Sequence[int], *, udp_segmentation: bool
    ) -> Descriptors:
        """The inverse of `flat`. Raises SocketsError when a descriptor is missing."""
        left = list(fds)
        try:
            queues = tuple(
                (
                    left.pop(0),
                    left.pop(0) if settings.ipv4 else -1,
                    left.pop(0) if settings.ipv6 else -1,
                )
                for _ in range(settings.queues)
            )
            return cls(queues, left.pop(0), left.pop(0) if left else -1, udp_segmentation)
        except IndexError:
            close_all(fds)
            raise SocketsError(errno.EPROTO, "not all descriptors were handed over") from None

    def close(self) -> None:
        """Close them all."""
        close_all(self.flat())


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def open_all(settings: UdpSettings) -> Descriptors:
    """Attach to the TUN device and open the sockets. Raises SocketsError, TunError."""
    with contextlib.ExitStack() as undo:

        def keep(fd: int) -> int:
            if fd >= 0:
                undo.callback(os.close, fd)
            return fd

        queues, udp_segmentation = [], False
        for _ in range(settings.queues):
            tun = keep(_attach(settings))
            if not settings.single:
                udp_segmentation = tun_device.take_super_packets(tun)
            ipv4 = keep(_udp_socket(settings, socket.AF_INET, settings.ipv4))
            ipv6 = keep(_udp_socket(settings, socket.AF_INET6, settings.ipv6))
            queues.append((tun, ipv4, ipv6))
        icmp4 = keep(_icmp_socket(socket.AF_INET, socket.IPPROTO_ICMP))
        icmp6 = keep(_icmp_socket(socket.AF_INET6, socket.IPPROTO_ICMPV6))
        undo.pop_all()
        return Descriptors(tuple(queues), icmp4, icmp6, udp_segmentation)


def _attach(settings: UdpSettings) -> int:
    try:
        return tun_device.attach(settings.tun, single=settings.single)
    except tun_device.TunError:
        raise
    except OSError as error:
        raise SocketsError(error.errno, f"device {settings.tun}: {error.strerror}") from None


def _udp_socket(settings: UdpSettings, family: socket.AddressFamily, address: str | None) -> int:
    if address is None:
        return -1
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if settings.queues > 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        if not settings.single:
            with contextlib.suppress(OSError):  # older kernels give one packet a call
                sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        sock.bind((address, settings.port))
    except OSError as error:
        sock.close()
        where = f"UDP {address} port {settings.port}"
        text = f"{where}: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            owner = port_owner("udp", settings.port)
            text = f"{where} is in use by {owner}; stop it, or set Backend.Port"
        elif error.errno == errno.EADDRNOTAVAIL:
            text += "; this host doesn't have the address"
        raise SocketsError(error.errno, text) from None
    return sock.detach()


def _icmp_socket(family: socket.AddressFamily, protocol: int) -> int:
    """A raw socket for sending only: a filter drops all that arrives."""
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError:
        return -1  # a kernel without IPv6
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_RAW, ICMP_FILTER, struct.pack("I", 0xFFFFFFFF))
    else:
        sock.setsockopt(protocol, ICMPV6_FILTER, b"\xff" * 32)
    return sock.detach()
