# SPDX-License-Identifier: Apache-2.0
"""Many small UDP datagrams, as fast as the kernel accepts them, and how many of them arrive.

    python -m bench.small_packets receive PORT SECONDS
    python -m bench.small_packets send ADDRESS PORT SECONDS [--flows 8] [--size 64]

iperf3 sends one datagram a call and reads the clock for each, so that it is slower than what
it measures. This sends a batch a call (sendmmsg), from a number of sockets one after the other, and
receives a batch a call (recvmmsg). Every datagram is one of its own to the kernel: no
segmentation offload on either side.

The receiver prints one JSON line: datagrams received in its SECONDS, and those seconds. They
begin WARM_UP seconds after the first one came, when the caches are filled.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import time

import click

BATCH = 64  # datagrams a call
WARM_UP = 0.3  # seconds
RECEIVE_INTERVAL = 0.0005  # seconds: waking for each datagram would limit the rate
FIRST_DATAGRAM_TIMEOUT = 10.0  # seconds for the first datagram to come
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BUFFER = 4 << 20  # bytes
MSG_WAITFORONE = 0x10000  # linux/socket.h


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of 64-bit Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Iovec)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class _Batch:
    """Datagrams of one size for sendmmsg() and recvmmsg()."""

    def __init__(self, size: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._buffer = ctypes.create_string_buffer(size * BATCH)
        address = ctypes.addressof(self._buffer)
        self._parts = (_Iovec * BATCH)(*(_Iovec(address + i * size, size) for i in range(BATCH)))
        self._messages = (_Message * BATCH)()
        for message, part in zip(self._messages, self._parts, strict=True):
            message.header.parts = ctypes.pointer(part)
            message.header.part_count = 1

    def send(self, fd: int) -> None:
        """Send the batch; what the kernel has no room for is lost, as on any wire."""
        self._libc.sendmmsg(fd, self._messages, BATCH, 0)

    def receive(self, fd: int) -> int:
        """Take the datagrams that are there, wait for one if there is none; returns how many.

        Raises OSError.
        """
        count: int = self._libc.recvmmsg(fd, self._messages, BATCH, MSG_WAITFORONE, None)
        if count < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        if count < BATCH:
            time.sleep(RECEIVE_INTERVAL)
        return count


@click.group()
def main() -> None:
    """Send or receive."""


@main.command()
@click.argument("address")
@click.argument("port", type=int)
@click.argument("seconds", type=float)
@click.option("--flows", default=8, show_default=True)
@click.option("--size", default=64, show_default=True, help="Bytes of payload.")
def send(address: str, port: int, seconds: float, flows: int, size: int) -> None:
    """Send to ADDRESS for SECONDS."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(flows)]
    for sock in sockets:
        sock.connect((address, port))
    fds, batch = [sock.fileno() for sock in sockets], _Batch(size)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for fd in fds:
            batch.send(fd)


@main.command()
@click.argument("port", type=int)
@click.argument("seconds", type=float)
def receive(port: int, seconds: float) -> None:
    """Count what comes for SECONDS."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    sock.bind(("::", port))
    print("ready", flush=True)
    # the kernel's timeout: Python's own would make the socket non-blocking
    sock.setsockopt(
        socket.SOL_SOCKET,
        socket.SO_RCVTIMEO,
        int(FIRST_DATAGRAM_TIMEOUT).to_bytes(8, "little") + bytes(8),
    )
    fd, batch, count = sock.fileno(), _Batch(2048), 0
    batch.receive(fd)
    begin = time.monotonic() + WARM_UP
    while time.monotonic() < begin:
        batch.receive(fd)
    begin = now = time.monotonic()
    while now < begin + seconds:
        count += batch.receive(fd)
        now = time.monotonic()
    print(json.dumps({"datagrams": count, "seconds": now - begin}), flush=True)


if __name__ == "__main__":
    main()
