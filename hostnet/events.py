# SPDX-License-Identifier: Apache-2.0
"""Tells when the kernel's tables have to be read again, from the messages it sends on changes.

Theory of operation
-------------------
The kernel sends a message for every change to devices, addresses, routes, rules, neighbours,
forwarding entries, nexthop objects and nftables. We never act on what a message says: it only
decides whether the tables are read again (`hostnet.apply.reconcile`), so a lost, doubled or
reordered one does no harm. That the socket's buffer overran is itself a reason to read them.

Reading the tables is expensive, so a change that can't concern us must not cause it. Each kind of
object has a watcher that judges the messages on it (`hostnet.kinds.watcher`):

* our own changes: the kernel drops the messages before they reach us, by the sender's port number
  (`ignore`; a socket filter, linux/filter.h). Messages on forwarding entries, and on the deletion
  of neighbours, have no sender: they are a reason unless what they tell of was in a plan that was
  just applied (`settle`);
* ARP and ND at work: neighbours that the kernel resolves are dropped by the filter too;
* pods that come and go: veths in bridges, with our alias, or named `veth...`;
* routes and addresses that others make, unless they bear our mark, pass through an overlay device
  or lead where a route of ours leads; a default route is a reason: it tells where the underlay is;
* nftables tables that aren't ours.

With asyncio: `loop.add_reader(monitor.fileno(), ...)`, then `drain()`.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Iterable, Sequence
from typing import Self

from hostnet.kinds.kind import Kind
from hostnet.kinds.message_filter import packet_filter
from hostnet.kinds.table import make_kinds
from hostnet.kinds.watcher import NETLINK_ROUTE, Deletion, Watcher, WatchView
from hostnet.netlink.buffers import Part, messages
from hostnet.netlink.sender_filter import sender_filter
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import NetnsRef
from hostnet.ownership import MARK, Mark
from hostnet.plan import Plan

RECEIVE_BUFFER = 16 * 1024 * 1024  # bytes: 20,000 messages of a kilobyte each, kernel overhead in
REASONS = 16  # as many are told; one is enough to read the tables
NO_SUCH_PROTOCOL = frozenset({errno.EPROTONOSUPPORT, errno.ENOENT})


class Monitor:
    """Watches one network namespace (None: the caller's). Close it when done."""

    def __init__(
        self,
        netns: NetnsRef | None = None,
        *,
        ignore: Iterable[int] = (),
        mark: Mark = MARK,
        kinds: Sequence[Kind] | None = None,
    ) -> None:
        """Start to watch. `ignore`: ports whose changes are our own (`kernel.socket.port`).

        `kinds` are those of the `Kernel` that makes the changes: they know what is ours. Without
        them (None) a watcher judges a message by what it says alone. A monitor with the kinds of a
        kernel is not used while that kernel is. Raises NetnsError, OSError.
        """
        self._ports = set(ignore)
        self._sockets: dict[int, NetlinkSocket] = {}
        self._view = WatchView(mark)
        found = ((kind, kind.watcher(mark)) for kind in kinds or make_kinds())
        self._watchers: dict[str, Watcher] = {
            kind.name: watcher
            for kind, watcher in found
            if watcher is not None and mark.has(kind.name)
        }
        self._by_message: dict[tuple[int, int], list[Watcher]] = {}
        for watcher in self._watchers.values():
            for message in watcher.messages:
                self._by_message.setdefault((watcher.protocol, message), []).append(watcher)
        self._poll = select.epoll()
        try:
            self._open(netns)
            self._attach_filter()
        except BaseException:
            self.close()
            raise

    def _open(self, netns: NetnsRef | None) -> None:
        missing: set[int] = set()
        for watcher in self._watchers.values():
            if watcher.protocol in missing:
                continue
            if watcher.protocol not in self._sockets:
                try:
                    sock = NetlinkSocket(netns, protocol=watcher.protocol)
                except OSError as error:
                    if error.errno not in NO_SUCH_PROTOCOL:
                        raise
                    missing.add(watcher.protocol)  # a kernel without nftables
                    continue
                sock.receive_buffer(RECEIVE_BUFFER)
                self._sockets[watcher.protocol] = sock
                self._poll.register(sock.fileno(), select.EPOLLIN)
            for group in watcher.groups:
                try:
                    self._sockets[watcher.protocol].join(group)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise  # EINVAL: an older kernel, without this group
        with NetlinkSocket(netns) as dump:
            for watcher in self._watchers.values():
                watcher.begin(dump, self._view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching; again is harmless."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets = {}
        self._poll.close()

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to drain."""
        return self._poll.fileno()

    def ignore(self, *ports: int) -> None:
        """Changes that come from these netlink ports are our own: no reason to read the tables."""
        if not self._ports.issuperset(ports):
            self._ports |= set(ports)
            self._attach_filter()

    def _attach_filter(self) -> None:
        for protocol, sock in self._sockets.items():
            make = packet_filter if protocol == NETLINK_ROUTE else sender_filter
            sock.attach_filter(make(self._ports))

    def settle(self, plans: Iterable[Plan]) -> list[str]:
        """Drain after applying `plans`: what they did is no reason. Returns as `drain` does.

        The kernel queues its messages before the apply's last answer, so all of them are
        there by now, and nothing need be remembered for later.
        """
        deleted: set[Deletion] = set()
        written: set[object] = set()
        for step in (step for plan in plans for step in plan.steps):
            watcher = self._watchers.get(step.kind)
            if watcher is None:
                continue
            if step.verb == "delete":
                deleted.update(d for d in map(watcher.deletion, step.objects) if d is not None)
            else:
                written.update(w for w in map(watcher.writing, step.objects) if w is not None)
        self._view.deleted, self._view.written = frozenset(deleted), frozenset(written)
        try:
            return self.drain()
        finally:
            self._view.deleted, self._view.written = frozenset(), frozenset()

    def drain(self) -> list[str]:
        """Read all that has arrived; the reasons to read the tables again, a few words each.

        Empty: nothing that concerns us. Never waits. Raises OSError.
        """
        reasons: dict[str, None] = {}
        for protocol, sock in self._sockets.items():
            while True:
                try:
                    data = sock.receive()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    reasons["more happened than the socket's buffer holds"] = None
                    continue
                for message, port, part in messages(data):
                    reason = (
                        None if port in self._ports else self._reason((protocol, message), part)
                    )
                    if reason and len(reasons) < REASONS:
                        reasons[reason] = None
        return list(reasons)

    def _reason(self, message: tuple[int, int], part: Part) -> str | None:
        """Why a message is a reason to read the tables, or None."""
        for watcher in self._by_message.get(message, ()):
            reason = watcher.reason(message[1], part, self._view)
            if reason is not None:
                return reason
        return None
