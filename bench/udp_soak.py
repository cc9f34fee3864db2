# SPDX-License-Identifier: Apache-2.0
"""Random data through a backend, both ways at once, hashed at both ends.

    python -m bench.udp_soak [--gib 100] [--streams 4]

Between two hosts of a lab, from pod to pod, each stream is a TCP connection of its own with its
own data, written in pieces of 1 byte to 256 KiB. The SHA-256 of what was sent must be that of
what was received. Prints one line per stream and the data plane's counters; the exit status is 1
when a stream was corrupted, or when a data plane dropped a packet as malformed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.prerequisites import progress, require, run
from flannel.udp.control import UdpFiles, call
from lab import processes
from lab.cluster import Lab
from lab.spec import LabSpec

PIECES = (1, 100, 1448, 4096, 1 << 16, 1 << 18)  # bytes; a write has up to one of these
POOL = 16 << 20  # bytes of random data: every piece is a cut from somewhere in it
SILENCE_TIMEOUT = 60.0  # seconds without a byte
CORRUPTION = ("rx_checksum_wrong", "drop_rx_malformed", "drop_tx_malformed", "drop_rx_truncated")


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """What one end of a stream sent or received."""

    size: int
    """Bytes."""
    digest: str


def send(sock: socket.socket, size: int, seed: int) -> StreamEnd:
    """Write `size` bytes in pieces."""
    chance = random.Random(seed)
    pool = memoryview(chance.randbytes(POOL))
    digest, left = hashlib.sha256(), size
    while left:
        most = min(left, chance.choice(PIECES))
        length = chance.randint(max(most // 2, 1), most)
        start = chance.randrange(POOL - length)
        piece = pool[start : start + length]
        digest.update(piece)
        sock.sendall(piece)
        left -= length
    sock.shutdown(socket.SHUT_WR)
    return StreamEnd(size, digest.hexdigest())


def receive(sock: socket.socket) -> StreamEnd:
    """Read to the end."""
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    while count := sock.recv_into(buffer):
        digest.update(view[:count])
        size += count
    return StreamEnd(size, digest.hexdigest())


def _start(netns: str, *arguments: str) -> subprocess.Popen[str]:
    program = (sys.executable, "-I", "-m", "bench.udp_soak", *arguments)
    return subprocess.Popen([*processes.enter(netns), *program], stdout=subprocess.PIPE, text=True)


def _answer(process: subprocess.Popen[str]) -> Any:
    """One line of a child's output as JSON; None when it ended without."""
    line = process.stdout.readline() if process.stdout else ""
    return json.loads(line) if line else None


def soak(lab: Lab, size: int, streams: int) -> list[tuple[StreamEnd | None, StreamEnd | None]]:
    """Send `size` bytes in all; returns both ends of each stream, None for one that broke off."""
    one, other = lab.pods[0], lab.pods[-1]
    started: list[subprocess.Popen[str]] = []
    pairs = []
    try:
        for number in range(streams):
            near, far = (one, other) if number % 2 == 0 else (other, one)
            receiver = _start(far.netns, "receive", far.addresses[0])
            started.append(receiver)
            port = _answer(receiver)
            share = (size // streams, number)
            sender = _start(near.netns, "send", far.addresses[0], str(port), *map(str, share))
            started.append(sender)
            pairs.append((sender, receiver))
        ends = [(_answer(sender), _answer(receiver)) for sender, receiver in pairs]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [(StreamEnd(**a) if a else None, StreamEnd(**b) if b else None) for a, b in ends]


def counters(lab: Lab) -> dict[str, int]:
    """The data planes' counters, of all hosts together, without zeros."""
    total: dict[str, int] = {}
    for number in lab.host_numbers:
        files = UdpFiles(lab.host_dir(number) / "run")
        for name, value in call(files, {"op": "status"})["counters"].items():
            total[name] = total.get(name, 0) + value
    return {name: value for name, value in total.items() if value}


@click.group(invoke_without_command=True)
@click.option("--gib", default=100.0, show_default=True, help="In all.")
@click.option("--streams", default=4, show_default=True, help="Alternately in either direction.")
@click.pass_context
def main(context: click.Context, gib: float, streams: int) -> None:
    """Soak the udp backend."""
    if context.invoked_subcommand:
        return
    require("ip", "nsenter")
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(LabSpec(f"soak{os.getpid()}", 2, 1, {"Type": "udp"}), Path(directory))
        try:
            lab.up()
            progress(f"{gib:g} GiB in {streams} streams")
            ends = soak(lab, int(gib * 2**30), streams)
            counted = counters(lab)
        finally:
            lab.down()
    for sent, received in ends:
        state = "ok" if sent is not None and sent == received else "CORRUPTED"
        click.echo(f"{state}: sent {sent}, received {received}")
    click.echo(json.dumps(counted))
    corrupted = any(sent is None or sent != received for sent, received in ends)
    sys.exit(1 if corrupted or any(counted.get(name) for name in CORRUPTION) else 0)


@main.command("send", hidden=True)
@click.argument("address")
@click.argument("port", type=int)
@click.argument("size", type=int)
@click.argument("seed", type=int)
def _send(address: str, port: int, size: int, seed: int) -> None:
    with socket.create_connection((address, port), SILENCE_TIMEOUT) as sock:
        _print_end(send(sock, size, seed))


@main.command("receive", hidden=True)
@click.argument("address")
def _receive(address: str) -> None:
    with socket.create_server((address, 0)) as listener:
        listener.settimeout(SILENCE_TIMEOUT)
        click.echo(str(listener.getsockname()[1]))
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(SILENCE_TIMEOUT)
            _print_end(receive(sock))


def _print_end(end: StreamEnd) -> None:
    click.echo(json.dumps({"size": end.size, "digest": end.digest}))


if __name__ == "__main__":
    run(main)
