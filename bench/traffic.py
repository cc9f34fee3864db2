# SPDX-License-Identifier: Apache-2.0
"""Measuring between two ends: throughput, small packets, round trips.

An end is a network namespace, of this machine or of another: a command prefix that runs a
program there. So the same functions measure between two namespaces, and between two real hosts
whose prefix begins with `ssh`.

    gigabits         received Gbit/s, by iperf3; a server must run at the other end
    small_packets    datagrams of 64 bytes received a second (bench/small_packets.py)
    round_trips      ping
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from base.errors import FlatmeshError
from lab import processes
from lab.time_factor import scaled

IPERF_PORT = 5201  # iperf3's own default
SMALL_PORT = 7777
DIE_WITH_CALLER = ("setpriv", "--pdeathsig", "KILL", "--")
START_TIMEOUT = 5.0  # seconds for an iperf3 server to listen
RUN_TIMEOUT = 30.0  # seconds that a measurement may take longer than it was asked to
SEND_MARGIN = 2  # seconds: the sender of small packets runs so much longer than the receiver
PING_INTERVAL = 0.01  # seconds


class MeasureError(FlatmeshError, RuntimeError):
    """A measurement gave no figure; the message says which, and what the program said."""


@dataclass(frozen=True, slots=True)
class TrafficEnd:
    """Where a program of a measurement runs."""

    enter: tuple[str, ...]
    """Command prefix: `nsenter --net=...`, on another host after `ssh HOST`."""
    python: str = sys.executable
    """The interpreter there; flatmesh is installed in it."""


def in_netns(netns: str) -> TrafficEnd:
    """Return a named network namespace of this machine as an end."""
    return TrafficEnd(processes.enter(netns))


@dataclass(frozen=True, slots=True)
class TrafficPath:
    """A way to measure: from a client to an address at a server's end."""

    name: str
    client: TrafficEnd
    server: TrafficEnd
    address: str


@contextlib.contextmanager
def iperf_server(end: TrafficEnd, *flags: str) -> Iterator[None]:
    """Run an iperf3 server. Raises MeasureError when it does not listen in time.

    The kernel ends it with the thread that started it, should this program be killed.
    """
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [*end.enter, *DIE_WITH_CALLER, "iperf3", "--server", "--forceflush", *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + scaled(START_TIMEOUT)
            while "listening" not in (text := _text(log)):
                if time.monotonic() > deadline or server.poll() is not None:
                    raise MeasureError(f"iperf3 --server does not start: {text.strip()}")
                time.sleep(0.02)
            yield
        finally:
            processes.stop([server.pid])


def _text(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def gigabits(path: TrafficPath, seconds: int, traffic: tuple[str, ...]) -> float:
    """Received Gbit/s of one iperf3 run. Raises MeasureError."""
    what = f"iperf3 over {path.name}"
    output = _run(
        path.client,
        ("iperf3", "--json", "--client", path.address, "--time", str(seconds), *traffic),
        seconds,
        what,
    )
    try:
        answer = json.loads(output)
    except ValueError:
        raise MeasureError(f"{what}: it prints no JSON: {output[-200:]!r}") from None
    if "error" in answer:
        raise MeasureError(f"{what}: {answer['error']}")
    end = answer["end"]
    received = end.get("sum_received") or end["sum"]
    return float(received["bits_per_second"]) / 1e9


def small_packets(path: TrafficPath, seconds: float) -> float:
    """Datagrams received a second. Raises MeasureError."""
    with contextlib.ExitStack() as stack:

        def start(end: TrafficEnd, *arguments: str) -> IO[str]:
            program = (end.python, "-I", "-m", "bench.small_packets")
            process = subprocess.Popen(
                [*end.enter, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.terminate)
            return cast("IO[str]", process.stdout)

        received = start(path.server, "receive", str(SMALL_PORT), f"{seconds:g}")
        received.readline()  # it listens
        duration = f"{seconds + SEND_MARGIN:g}"
        start(path.client, "send", path.address, str(SMALL_PORT), duration)
        line = received.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise MeasureError(f"small packets over {path.name}: none came") from None
    return float(answer["datagrams"] / answer["seconds"])


def round_trips(path: TrafficPath, seconds: float, interval: float = PING_INTERVAL) -> list[float]:
    """Round-trip times of pings, sorted, ms; a lost one counts as `seconds`."""
    count = max(1, int(seconds / interval))
    ping = ("ping", "-n", "-i", f"{interval:g}", "-c", str(count), "-W", "1", path.address)
    output = _run(path.client, ping, seconds, f"ping over {path.name}")
    times = [float(found) for found in re.findall(r"time=([0-9.]+) ms", output)]
    return sorted(times + [seconds * 1e3] * (count - len(times)))


def _run(end: TrafficEnd, command: tuple[str, ...], seconds: float, what: str) -> str:
    """Output of a program that ends by itself after about `seconds`. Raises MeasureError."""
    timeout = scaled(seconds + RUN_TIMEOUT)
    try:
        done = subprocess.run(
            [*end.enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeasureError(f"{what}: no end after {timeout:.0f} s") from None
    if not done.stdout and done.stderr:
        raise MeasureError(f"{what}: {done.stderr.strip()}")
    return done.stdout
