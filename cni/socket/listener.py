# SPDX-License-Identifier: Apache-2.0
"""The unix sockets on which the daemon listens: for CNI calls, and for who asks how it is."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from base.errors import FlatmeshError
from base.private_files import make_private_directory

BACKLOG = 1024  # connections
MAX_PATH = 107  # bytes: sun_path less the terminating zero, unix(7)
PROBE_TIMEOUT = 1.0  # seconds to find out whether somebody serves a socket file
_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class CniServerError(FlatmeshError):
    """The socket can't be opened; one line says why and what to do."""


def open_listener(socket_path: Path) -> socket.socket:
    """Listen at this path, for root and our own user alone. Raises CniServerError.

    A socket file that a killed daemon left is replaced. One that somebody serves is another
    daemon's, and an error.
    """
    path = str(socket_path)
    # Bound under a temporary name, and renamed when it has its mode and is listening: so
    # no other user can ever connect, and no client ever finds a socket without a listener.
    temporary = socket_path.with_name(f".{socket_path.name[0]}{os.getpid()}")
    if max(len(os.fsencode(p)) for p in (path, temporary)) > MAX_PATH:
        raise CniServerError(f"socket {path}: longer than {MAX_PATH} bytes; use a shorter path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        make_private_directory(socket_path.parent)
        _require_unserved(path)
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(BACKLOG)
        temporary.rename(socket_path)
    except OSError as error:
        listener.close()
        raise CniServerError(f"socket {path}: {error.strerror}") from None
    except CniServerError:
        listener.close()
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return listener


def _require_unserved(path: str) -> None:
    if _is_served(path):
        raise CniServerError(f"socket {path}: another daemon serves it; stop that first")


def _is_served(path: str) -> bool:
    """Whether somebody listens on a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except TimeoutError:
            return True  # its backlog is full
        except OSError:
            return False
        return True


def peer_user(connection: socket.socket) -> int | None:
    """The user that the process at the other end runs as; None when that can't be told."""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return None
    _, uid, _ = _UCRED.unpack(credentials)
    return int(uid)
