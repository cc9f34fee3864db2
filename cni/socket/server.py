# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the CNI executables: a unix socket, a fixed number of workers.

Each worker thread waits for the one listening socket, accepts a connection, reads one request,
answers it, and waits again (`cni.socket.shared_listener`). So no request passes from one thread to
another, the number of workers bounds the concurrency, and further clients wait in the socket's
backlog (or, when that is full, in connect). A connection on which nothing arrives is left to
`IdleConnections`: a client sends its request at once, and one that doesn't must not occupy a
worker.

Only root and the user we run as are answered: the socket file has mode 0600, and the peer's
credentials are checked as well (SO_PEERCRED, unix(7)). A client in another network namespace
belongs to another host than this daemon's; it is told to answer the call in its own process.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from base.errors import FlatmeshError
from cni.errors import RunInClientError
from cni.handle import CniResponse, answered, handle, unanswerable
from cni.host import PluginHost, host_from_environment, socket_path
from cni.pod.collect import sweep
from cni.pod.living import find_living
from cni.socket import protocol
from cni.socket.guard_removals import GuardRemovals
from cni.socket.idle_connections import IdleConnections
from cni.socket.kept_listener import KeptListener
from cni.socket.listener import peer_user
from hostnet.announcements import FrameSender

SWEEP_INTERVAL = 30.0  # seconds; with a full pool an ADD sweeps itself
WORKERS = 32  # threads; more than processors, because calls wait for delegated plugins
FIRST_WAIT = 0.02  # seconds that a worker waits for the first bytes of a request
IDLE_TIMEOUT = 10.0  # seconds for a client to begin its request
REQUEST_TIMEOUT = 0.25  # seconds for the rest of it, which a client sends without waiting
ANSWER_TIMEOUT = 10.0  # seconds for a client to take its answer
COLLECTED_OBJECTS = 10_000  # new ones, between two looks for reference cycles

log = logging.getLogger("cni")


class CniServer:
    """Serves the CNI executables of one host. `start()` it, `close()` it."""

    def __init__(
        self,
        socket_path: Path,
        host: PluginHost,
        *,
        workers: int = WORKERS,
        sweep_interval: float = SWEEP_INTERVAL,
    ) -> None:
        self.socket_path = socket_path
        self._sweep_interval = sweep_interval
        self._removals = GuardRemovals()
        self._frames = FrameSender()
        self.host = replace(
            host,
            remove_from_guard=self._removals.add,
            send_frames=self._frames.send,
            find_living=partial(find_living, host.subnet_file),
            compare_store=True,
        )
        self.workers = workers
        self._listener = KeptListener(socket_path, partial(log.warning, "%s"))
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._idle = IdleConnections(self._serve_and_close, IDLE_TIMEOUT)

    def start(self) -> None:
        """Open the socket and serve. Raises CniServerError.

        A socket file that a killed daemon left is replaced. One that somebody serves is
        another daemon's, and an error.
        """
        _collect_rarely()
        self._listener.open()
        self._start("cni-socket", self._listener.keep)
        self._start("cni-sweep", self._sweep)
        self._start("cni-idle", self._idle.run)
        self._start("cni-guard", self._removals.run)
        for number in range(self.workers):
            self._start(f"cni-{number}", self._serve)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _sweep(self) -> None:
        """Remove what killed calls left, and pods that vanished; calls are served meanwhile."""
        failure = ""
        while not self._closing.is_set():
            try:
                for line in sweep(self.host, compare=True):
                    log.info("%s", line)
                failure = ""
            except (FlatmeshError, OSError) as error:
                if str(error) != failure:
                    failure = str(error)
                    log.warning("sweep: %s", failure)
            self._closing.wait(self._sweep_interval)

    def close(self, timeout: float = 30.0) -> None:
        """Stop accepting, and wait up to `timeout` seconds for the calls at work."""
        if not self._threads:
            return
        self._closing.set()
        # Connections in the backlog are reset, and their clients then answer the calls in their
        # own processes.
        self._listener.end()
        self._idle.close()
        self._removals.close()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        self._threads.clear()
        self.host.close()
        self._frames.close()

    def _serve(self) -> None:
        for connection in self._listener.connections():
            with contextlib.suppress(OSError):  # of this connection alone
                self._serve_soon(connection)

    def _serve_soon(self, connection: socket.socket) -> None:
        if not _may_call(connection):
            connection.close()
        elif _has_data(connection, FIRST_WAIT):
            self._serve_and_close(connection)
        else:
            self._idle.add(connection)

    def _serve_and_close(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._serve_connection(connection)
            except protocol.CniProtocolError as error:
                log.debug("client: %s", error)
            except OSError as error:
                log.debug("client closed the connection: %s", error)
            except Exception:
                log.exception("CNI request")

    def _serve_connection(self, connection: socket.socket) -> None:
        received = protocol.receive_call(connection, REQUEST_TIMEOUT)
        try:
            started = time.monotonic()
            response = self._answer(received, connection)
            environment = received.call.environment
            log.log(
                logging.INFO if response.status == 0 else logging.WARNING,
                "%s %s container=%s ifname=%s took=%.1fms%s",
                received.call.plugin,
                environment.get("CNI_COMMAND", "?"),
                environment.get("CNI_CONTAINERID", "-"),
                environment.get("CNI_IFNAME", "-"),
                (time.monotonic() - started) * 1e3,
                "" if response.status == 0 else f" refused: {response.stdout!r}",
            )
        finally:
            received.close()
        connection.settimeout(ANSWER_TIMEOUT)
        try:
            protocol.send_answer(connection, response.status, response.stdout)
        except OSError:
            unanswerable(response, self.host)
            raise
        answered(response, self.host)

    def _answer(self, received: protocol.ReceivedCall, connection: socket.socket) -> CniResponse:
        if not received.is_in_our_network():
            log.warning("a CNI client is in another network namespace; it answers its call itself")
            return CniResponse(protocol.RUN_IT_YOURSELF, b"")
        try:
            call = received.call._replace(same_mounts=received.has_our_mounts())
            with self.host.concurrency.slot():
                # An ADD that waited while its client was killed would come after the DEL that the
                # runtime sends then, and leave the pod's interface behind.
                if call.environment.get("CNI_COMMAND") == "ADD" and _has_ended(connection):
                    raise protocol.CniProtocolError("the client of an ADD ended before its turn")
                response = handle(call, self.host)
            if not response.no_descriptors:
                return response
            log.warning("no descriptors are left; the client answers its call itself")
            return CniResponse(protocol.RUN_IT_YOURSELF, b"")
        except RunInClientError:
            return CniResponse(protocol.RUN_IT_YOURSELF, b"")


def _collect_rarely() -> None:
    """Let Python look for reference cycles less often, and never again in what is loaded by now.

    A call leaves none behind, and the looking took 7 % of its processor time. By default it happens
    for each 700 objects, and now and then among all objects of the process.
    """
    gc.freeze()
    gc.set_threshold(COLLECTED_OBJECTS)


def _may_call(connection: socket.socket) -> bool:
    """Whether the client runs as root or as we do."""
    user = peer_user(connection)
    if user is None or user in (0, os.geteuid()):
        return user is not None
    log.warning("refused a CNI client: it runs as user %d", user)
    return False


def _has_data(connection: socket.socket, timeout: float) -> bool:
    """Whether something can be read from it, the end among it, within `timeout` seconds."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _has_ended(connection: socket.socket) -> bool:
    """Whether the process at the other end has closed its socket in both directions."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP is always told
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def main() -> int:
    """Run `python -m cni.socket.server`: the daemon's CNI server alone, until SIGTERM or SIGINT.

    For benchmarks and tests; paths come from the FLATMESH_* variables.
    """
    logging.basicConfig(level=os.environ.get("FLATMESH_LOG", "WARNING"))
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # before the threads that inherit it
    interval = float(os.environ.get("FLATMESH_SWEEP_INTERVAL") or SWEEP_INTERVAL)
    host = host_from_environment(os.environ)
    server = CniServer(Path(socket_path(os.environ)), host, sweep_interval=interval)
    server.start()
    print("ready", flush=True)
    signal.sigwait(wanted)
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
