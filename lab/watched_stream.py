# SPDX-License-Identifier: Apache-2.0
"""Datagrams from one pod to another at a constant rate, counted at both ends.

What a change, a crash or a fault costs running traffic is the difference between the two
counts. The sockets are opened in the pods and held by this process.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from hostnet.netns import run_in
from lab.processes import NETNS_DIR
from lab.spec import LabPod
from lab.time_factor import scaled

SEND_INTERVAL = 0.002  # seconds between two datagrams
SILENCE_TIMEOUT = 1.0  # seconds without a datagram, after the last was sent
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; root may go beyond net.core.rmem_max
RECEIVE_BUFFER = 1 << 22  # bytes: a receiver that a busy machine delays must not lose datagrams


@dataclass(slots=True)
class WatchedStream:
    """The counts so far; final when the block is left."""

    sent: int = 0
    refused: int = 0
    """Not even sent: the kernel had no route."""
    received: int = 0

    @property
    def lost(self) -> int:
        """Datagrams that never arrived."""
        return self.sent + self.refused - self.received


@contextlib.contextmanager
def watched_stream(sender: LabPod, receiver: LabPod) -> Iterator[WatchedStream]:
    """Send inside the block; wait for what is under way at its end."""
    family = socket.AF_INET6 if ":" in receiver.addresses[0] else socket.AF_INET

    def opened() -> socket.socket:
        datagram = socket.socket(family, socket.SOCK_DGRAM)
        datagram.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        datagram.bind(("", 0))
        datagram.settimeout(scaled(SILENCE_TIMEOUT))
        return datagram

    stream, over, all_sent = WatchedStream(), threading.Event(), threading.Event()
    with (
        run_in(NETNS_DIR / sender.netns, opened) as outward,
        run_in(NETNS_DIR / receiver.netns, opened) as inward,
    ):
        target = (receiver.addresses[0], inward.getsockname()[1])

        def send() -> None:
            while not over.wait(SEND_INTERVAL):
                try:
                    outward.sendto(b"x", target)
                    stream.sent += 1
                except OSError:
                    stream.refused += 1

        def receive() -> None:
            # `sent` is final only when the sender has ended: the last datagram is counted after it
            # has left, and may have arrived or not by then
            while not all_sent.is_set() or stream.received < stream.sent:
                try:
                    inward.recvfrom(16)
                    stream.received += 1
                except TimeoutError:
                    if all_sent.is_set():
                        return

        sending, receiving = threading.Thread(target=send), threading.Thread(target=receive)
        receiving.start()
        sending.start()
        try:
            yield stream
        finally:
            over.set()
            sending.join()
            all_sent.set()
            receiving.join()
