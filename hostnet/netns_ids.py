# SPDX-License-Identifier: Apache-2.0
"""Reads devices of another namespace that is known by its number in ours only.

The kernel gives each namespace that a veth pair leads to a number in the namespace at the pair's
other end (`ip link` shows it as `link-netnsid`). Devices and addresses there can be read by that
number, without a file that names the namespace (RTM_GETNSID, linux/net_namespace.h; the attributes
for it are in Linux since 4.20).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.link_messages import get_link, parse_link
from hostnet.netlink.address_messages import ActualAddress, dump_addresses, parse_addresses
from hostnet.netlink.attributes import attr_u32, attributes
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request
from hostnet.netns import is_namespace

RTM_GETNSID = 90
NETNSA_NSID, NETNSA_FD = 1, 3  # linux/net_namespace.h
IFLA_TARGET_NETNSID, IFA_TARGET_NETNSID = 46, 10
NO_NUMBER = -1


def link_in(sock: NetlinkSocket, number: int, index: int) -> ActualLink | None:
    """A device of the namespace with this number; None when it is gone. Raises NetlinkError."""
    request = get_link(index)
    body = request.body + attr_u32(IFLA_TARGET_NETNSID, number)
    try:
        return parse_link(sock.get(request._replace(body=body), f"ip link show #{index}"))
    except NetlinkError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return None
        raise


def addresses_in(sock: NetlinkSocket, number: int, index: int) -> list[ActualAddress]:
    """The addresses of a device there; none when it is gone. Raises NetlinkError."""
    request = dump_addresses(0, index)
    body = request.body + attr_u32(IFA_TARGET_NETNSID, number)
    try:
        parts = sock.dump(request.type, body, f"ip addr show #{index}")
    except NetlinkError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return []
        raise
    return [each for each in parse_addresses(parts, {}) if each.ifindex == index]


def numbers_of(sock: NetlinkSocket, files: Iterable[Path]) -> Iterator[tuple[int, Path]]:
    """The numbers of the namespaces that these files name, as far as they have one."""
    for file in files:
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if is_namespace(fd):
                number = _number_of(sock, fd)
                if number != NO_NUMBER:
                    yield number, file
        finally:
            os.close(fd)


def _number_of(sock: NetlinkSocket, fd: int) -> int:
    request = Request(RTM_GETNSID, 0, struct.pack("=B3x", 0) + attr_u32(NETNSA_FD, fd))
    try:
        data, begin, end = sock.get(request, "RTM_GETNSID")
    except NetlinkError:
        return NO_NUMBER
    found = attributes(data, begin + 4, end).get(NETNSA_NSID)
    return int(struct.unpack("=i", found)[0]) if found else NO_NUMBER
