# SPDX-License-Identifier: Apache-2.0
"""Delete veth pairs without waiting until the kernel has freed their memory.

Half a millisecond after `ip link del` of a veth, both ends have left their namespaces and the
address can be used again. But the system call returns 16 ms or more later, when a grace period
has passed and the memory is freed (netdev_run_todo, rcu_barrier). So a thread of its own makes
the call, and the caller waits for the kernel's message that the device is gone (RTM_DELLINK).
Should the process die meanwhile, the kernel finishes the deletion all the same.

At most MAX_PENDING threads wait for freed memory; with that many, a deletion waits for one.
"""

from __future__ import annotations

import errno
import select
import socket
import threading

from hostnet.kinds.link_messages import RTM_DELLINK, delete_link, parse_link
from hostnet.netlink.buffers import messages
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.netns import NetnsRef

RTNLGRP_LINK = 1  # linux/rtnetlink.h
MAX_PENDING = 64  # threads
WAIT_INTERVAL = 5.0  # seconds to wait for a message before the sockets are looked at again
GONE = (errno.ENODEV, errno.EINVAL)  # EINVAL: the kernel is deleting the device already

_slots = threading.BoundedSemaphore(MAX_PENDING)


def delete_veth(index: int, netns: NetnsRef | None = None) -> None:
    """Delete the device with this index; returns when it has left its namespace.

    Succeeds when there is none. Any thread may call it. Raises NetlinkError, OSError.
    """
    with NetlinkSocket(netns, groups=(RTNLGRP_LINK,)) as events:
        ended, end = socket.socketpair()
        failure: list[OSError] = []
        with ended:
            _slots.acquire()
            try:
                sock = NetlinkSocket(netns)
            except BaseException:
                _slots.release()
                end.close()
                raise
            threading.Thread(
                target=_delete, args=(sock, index, end, failure), name="veth-removal", daemon=False
            ).start()
            while not _is_gone(events, index):
                ready, _, _ = select.select(
                    [events.fileno(), ended.fileno()], [], [], WAIT_INTERVAL
                )
                if ended.fileno() in ready:
                    break
        if failure:
            raise failure[0]


def _delete(sock: NetlinkSocket, index: int, end: socket.socket, failure: list[OSError]) -> None:
    try:
        with sock, end:
            try:
                sock.request(delete_link(index), f"ip link del #{index}")
            except NetlinkError as error:
                if error.errno not in GONE:
                    failure.append(error)
            except OSError as error:
                failure.append(error)
    finally:
        _slots.release()


def _is_gone(sock: NetlinkSocket, index: int) -> bool:
    """Read the messages that are there; whether one says that this device was deleted."""
    while True:
        try:
            data = sock.receive()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue  # messages were lost; the end of the thread tells as well
        for kind, _, (buffer, begin, end) in messages(data):
            # a bridge tells with an RTM_DELLINK of its own family that a port has left it
            port_left = buffer[begin] == socket.AF_BRIDGE
            if port_left or kind != RTM_DELLINK:
                continue
            if parse_link((buffer, begin, end)).index == index:
                return True
