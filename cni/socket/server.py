"""The daemon's side of the CNI executables: a unix socket, a fixed number of workers.

Theory of operation: each worker thread blocks in accept() on the one listening socket, reads
one request, works it off, answers, and accepts again. So there is no hand-over between
threads, concurrency is bounded by the number of workers, and what comes beyond waits in the
socket's backlog (and, past that, in the clients' connect). A client has REQUEST_TIMEOUT to
say what it wants.

Only root, or the user we run as, is answered: the socket file has mode 0600, and the peer's
credentials are looked at again (SO_PEERCRED, unix(7)). A client in another network namespace
is another host's, whose daemon is not us; it is told to do the work itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cni.errors import CniError, RunInClientError
from cni.handle import Response, handle
from cni.host import Host, from_environment, socket_path
from cni.pod import removal as pod_removal
from cni.socket import protocol as wire

WORKERS = 32  # threads; delegated plugins are waited for, so more than the processors
BACKLOG = 1024
REQUEST_TIMEOUT = 10.0  # seconds for a client to send its request
ANSWER_TIMEOUT = 10.0  # seconds for a client to take its answer
MAX_PATH = 107  # bytes: sun_path less the zero, unix(7)
RETRY = 0.05  # seconds after accept() found no descriptor left

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid

log = logging.getLogger("cni")


class ServerError(Exception):
    """The socket can't be opened; `str()` is one line with the mend."""


class CniServer:
    """Serves the CNI executables of one host. `start()` it, `close()` it."""

    def __init__(self, socket_path: Path, host: Host, *, workers: int = WORKERS) -> None:
        self.socket_path = socket_path
        self.host = host
        self.workers = workers
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._inode = 0

    def start(self) -> None:
        """Open the socket and serve. Raises ServerError.

        A socket file that a killed daemon left is replaced; one that answers is another
        daemon's, and an error.
        """
        self._listener = self._listen()
        self._start("cni-sweep", self._sweep)
        for number in range(self.workers):
            self._start(f"cni-{number}", self._serve)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _sweep(self) -> None:
        """Finish what a killed daemon or executable left; calls are served meanwhile."""
        try:
            for line in pod_removal.sweep(self.host):
                log.info("%s", line)
        except (CniError, OSError) as error:
            log.warning("sweep: %s", error)

    def close(self, timeout: float = 30.0) -> None:
        """Stop accepting, and wait up to `timeout` seconds for what is being worked off."""
        if self._listener is None:
            return
        self._closing.set()
        with contextlib.suppress(OSError):  # only our own file, not a successor's
            if self.socket_path.stat().st_ino == self._inode:
                self.socket_path.unlink()
        # wakes every thread out of accept(); connections in the backlog are reset, and their
        # clients then do the work themselves
        self._listener.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._listener.close()
        self._listener = None
        self._threads.clear()
        self.host.close()

    def _listen(self) -> socket.socket:
        path = str(self.socket_path)
        # Bound under a temporary name with its mode set, then renamed: at no moment can
        # anyone else connect, and at no moment is there a socket that nobody listens on.
        temporary = self.socket_path.with_name(f".{os.getpid()}")
        if max(len(os.fsencode(p)) for p in (path, temporary)) > MAX_PATH:
            raise ServerError(f"socket {path}: longer than {MAX_PATH} bytes; use a shorter path")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.socket_path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _require_unserved(path)
            temporary.unlink(missing_ok=True)
            listener.bind(str(temporary))
            temporary.chmod(0o600)
            listener.listen(BACKLOG)
            temporary.rename(self.socket_path)
            self._inode = self.socket_path.stat().st_ino
        except OSError as error:
            listener.close()
            raise ServerError(f"socket {path}: {error.strerror}") from None
        except ServerError:
            listener.close()
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return listener

    def _serve(self) -> None:
        listener = self._listener
        while listener is not None and not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._closing.is_set() or error.errno in (errno.EINVAL, errno.EBADF):
                    return
                self._closing.wait(RETRY)  # out of descriptors: others will give theirs back
                continue
            with connection:
                try:
                    self._converse(connection)
                except wire.WireError as error:
                    log.debug("client: %s", error)
                except OSError as error:
                    log.debug("client went away: %s", error)
                except Exception:
                    log.exception("CNI request")

    def _converse(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        if uid not in (0, os.geteuid()):
            log.warning("refused a CNI client of user %d", uid)
            return
        received = wire.receive(connection, REQUEST_TIMEOUT)
        try:
            started = time.monotonic()
            response = self._work(received)
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
        wire.answer(connection, response.status, response.stdout)

    def _work(self, received: wire.Received) -> Response:
        if not received.shares_network():
            log.warning("a CNI client in another network namespace; it does the work itself")
            return Response(wire.RUN_IT_YOURSELF, b"")
        try:
            call = replace(received.call, same_mounts=received.shares_mounts())
            with self.host.turns.taken():
                return handle(call, self.host)
        except RunInClientError:
            return Response(wire.RUN_IT_YOURSELF, b"")


def _require_unserved(path: str) -> None:
    if _answers(path):
        raise ServerError(f"socket {path}: another daemon serves it; stop that first")


def _answers(path: str) -> bool:
    """Whether somebody listens on a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except TimeoutError:
            return True  # its backlog is full
        except OSError:
            return False
        return True


def main() -> int:
    """Run `python -m cni.socket.server`: the CNI half of the daemon alone, until SIGTERM or SIGINT.

    For benchmarks and tests; paths come from the FLATMESH_* variables.
    """
    logging.basicConfig(level=os.environ.get("FLATMESH_LOG", "WARNING"))
    wanted = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # before the threads that inherit it
    server = CniServer(Path(socket_path(os.environ)), from_environment(os.environ))
    server.start()
    print("ready", flush=True)
    signal.sigwait(wanted)
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
