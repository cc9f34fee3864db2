# SPDX-License-Identifier: Apache-2.0
"""The supervisor of one pod: holds its namespaces, is its containers' parent, keeps their logs.

It outlives the worker. A worker that starts later finds it by its socket: every connection gets
the pod's status as a JSON line, at once and at each change, and may send commands, a JSON object
a line: `start`, `stop`, `signal`, `quit`. The status is in `status.json` as well, so that how a
container has ended is known even when supervisor and worker are both gone. If the supervisor is
killed, the kernel ends its containers (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import linux
from scheduler.runtime.process.cgroup import Cgroups
from scheduler.runtime.process.log_file import LogFile
from scheduler.runtime.process.messages import container_from_json
from scheduler.runtime.process.supervised import Supervised, signal_number
from scheduler.runtime.protocol import ContainerState

SOCKET = "control.sock"
POD = "pod.json"
STATUS = "status.json"
BACKLOG = 16
MAX_UNREAD = 4 * 1024 * 1024  # bytes a connection may leave unread or unfinished


class Supervisor:
    """The loop; one thread, as namespaces are a thread's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pod: dict[str, Any] = json.loads((directory / POD).read_text())
        self.cgroups = Cgroups.found()
        self.containers: dict[str, Supervised] = {}
        self.selector = selectors.DefaultSelector()
        self.clients: dict[socket.socket, bytearray] = {}
        self.quitting = False

    def prepare(self) -> None:
        """Make the namespaces and the socket."""
        own = linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
        linux.unshare(own if self.pod["host_network"] else own | linux.CLONE_NEWNET)
        if not self.pod["host_network"]:
            linux.loopback_up()
        socket.sethostname(self.pod["hostname"])
        linux.prctl(linux.PR_SET_NAME, b"fm-supervisor\0")
        os.chdir(self.directory)  # a socket's path may have 107 bytes
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        os.umask(0o077)
        listener.bind(SOCKET)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, self._accept)
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a service manager stops the worker, not pods
        self.selector.register(wake, selectors.EVENT_READ, self._reap)
        self._write_status()

    def run(self) -> None:
        """Until `quit`."""
        while not (self.quitting and not self._running()):
            for key, _ in self.selector.select(self._timeout()):
                key.data(key.fileobj)
            now = time.monotonic()
            for container in self._running():
                if container.kill_at and container.kill_at <= now:
                    container.kill_at = now + 1.0  # once more, should it not have helped
                    container.signal(signal.SIGKILL)
        self.cgroups.remove(self.pod["cgroup"])

    def _running(self) -> list[Supervised]:
        return [c for c in self.containers.values() if c.state is ContainerState.RUNNING]

    def _timeout(self) -> float | None:
        deadlines = [c.kill_at for c in self._running() if c.kill_at]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    # -- what the worker asks for ------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            client.setblocking(False)
            self.clients[client] = bytearray()
            self.selector.register(client, selectors.EVENT_READ, self._receive)
            self._send(client, self._status_line())

    def _receive(self, client: socket.socket) -> None:
        try:
            data = client.recv(1024 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer = self.clients[client]
        buffer += data
        if not data or len(buffer) > MAX_UNREAD:
            self._drop(client)
            return
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            self._obey(json.loads(line))

    def _drop(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        del self.clients[client]
        client.close()

    def _send(self, client: socket.socket, data: bytes) -> None:
        try:
            sent = client.send(data)
        except OSError:
            sent = -1
        if sent != len(data) and client in self.clients:
            self._drop(client)  # it connects anew and reads the whole status

    def _obey(self, command: dict[str, Any]) -> None:
        what = command["op"]
        if what == "start":
            self._start(command)
        elif what == "stop":
            for container in self._running():
                with contextlib.suppress(RuntimeCallError):
                    container.stop(command["grace"])
        elif what == "signal":
            for container in self._running():
                with contextlib.suppress(RuntimeCallError):
                    container.signal(signal_number(command["signal"]))
        elif what == "quit":
            self.quitting = True
            for container in self._running():
                container.kill_at = time.monotonic() + 1.0
                container.signal(signal.SIGKILL)

    def _start(self, command: dict[str, Any]) -> None:
        etc = tuple((name, text) for name, text in command["etc"].items())
        hidden = list(map(Path, command["hidden"]))
        for data in command["containers"]:
            config = container_from_json(data)
            if config.name in self.containers:
                continue  # the worker asks again after a restart
            log = LogFile(
                Path(self.pod["logs"], f"{config.name}.log"),
                config.log.max_bytes,
                config.log.max_files,
            )
            container = Supervised(config, f"{self.pod['cgroup']}/{config.name}", log)
            self.containers[config.name] = container
            scratch = Path(self.pod["scratch"], config.name)
            container.start(self.cgroups, scratch, etc, hidden)
            for descriptor in container.outputs:
                self.selector.register(descriptor, selectors.EVENT_READ, self._output)
        self._write_status()

    # -- what the containers do --------------------------------------------------------

    def _output(self, descriptor: int) -> None:
        for container in self.containers.values():
            if descriptor in container.outputs:
                self._read(container, descriptor)

    def _read(self, container: Supervised, descriptor: int) -> None:
        if not container.read(descriptor):
            self.selector.unregister(descriptor)

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        changed = False
        for container in self._running():
            pid, status = os.waitpid(container.pid, os.WNOHANG)
            if pid:
                for descriptor in container.outputs:
                    self.selector.unregister(descriptor)
                container.ended(status, self.cgroups)
                changed = True
        if changed:
            self._write_status()

    # -- what is told ------------------------------------------------------------------

    def _status_line(self) -> bytes:
        status = {
            "pid": os.getpid(),
            "containers": [c.status() for c in self.containers.values()],
        }
        return json.dumps(status).encode() + b"\n"

    def _write_status(self) -> None:
        line = self._status_line()
        with contextlib.suppress(OSError):  # a full disk: connections are told all the same
            Path(f".{STATUS}").write_bytes(line)
            Path(f".{STATUS}").replace(STATUS)
        for client in list(self.clients):
            self._send(client, line)
