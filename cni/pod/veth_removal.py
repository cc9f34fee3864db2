"""Delete veths without waiting for the kernel's last reference to them.

Theory of operation: `ip link del` of a veth is over in half a millisecond, as far as anyone
can see: both ends have left their namespaces, the address is free. The call returns much
later (16 ms and more), when a grace period has passed and the memory can be given back
(netdev_run_todo, rcu_barrier). So the call is made by a thread of its own, and its caller
waits for the kernel's word that the device has gone (RTM_DELLINK). Nothing is lost when the
process dies then: the system call is under way, and nobody can stop it.

The threads that wait for memory are counted: past PENDING of them, deletions are waited for.
"""

from __future__ import annotations

import errno
import select
import socket
import threading

from hostnet.kinds.link import RTM_DELLINK, delete_link, parse_link
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, messages
from hostnet.netns import NetnsRef

RTNLGRP_LINK = 1  # linux/rtnetlink.h
PENDING = 64  # threads
LOOK = 5.0  # seconds without word, after which we ask again
GONE = (errno.ENODEV, errno.EINVAL)  # EINVAL: the device is being dismantled already

_slots = threading.BoundedSemaphore(PENDING)


def delete(index: int, netns: NetnsRef | None = None) -> None:
    """Delete the device with this index; returns when nobody can see it any more.

    That there is none is success. Raises NetlinkError, OSError.
    """
    with NetlinkSocket(netns, groups=(RTNLGRP_LINK,)) as news:
        ended, end = socket.socketpair()
        failure: list[OSError] = []
        with ended:
            _slots.acquire()
            try:
                order = NetlinkSocket(netns)
            except BaseException:
                _slots.release()
                end.close()
                raise
            threading.Thread(
                target=_delete, args=(order, index, end, failure), name="veth-removal", daemon=False
            ).start()
            while not _has_gone(news, index):
                ready, _, _ = select.select([news.fileno(), ended.fileno()], [], [], LOOK)
                if ended.fileno() in ready:
                    break
        if failure:
            raise failure[0]


def _delete(order: NetlinkSocket, index: int, end: socket.socket, failure: list[OSError]) -> None:
    try:
        with order, end:
            try:
                order.request(delete_link(index), f"ip link del #{index}")
            except NetlinkError as error:
                if error.errno not in GONE:
                    failure.append(error)
            except OSError as error:
                failure.append(error)
    finally:
        _slots.release()


def _has_gone(news: NetlinkSocket, index: int) -> bool:
    """Read what has been announced; whether our device's end was among it."""
    while True:
        try:
            data = news.receive()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue  # announcements were lost; the thread's own end remains
        for kind, _, (buffer, begin, end) in messages(data):
            # a bridge announces its port's leaving in the same words, but in its own family
            of_a_bridge = buffer[begin] == socket.AF_BRIDGE
            if of_a_bridge or kind != RTM_DELLINK:
                continue
            if parse_link((buffer, begin, end)).index == index:
                return True
