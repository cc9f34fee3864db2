# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, without ever forking.

Theory of operation
-------------------
A network namespace belongs to a *thread*, not to a process (namespaces(7)), and a socket
belongs for ever to the namespace it was opened in. So whatever must happen in another
namespace happens in a fresh thread that enters it, does the work, and dies; sockets and
file descriptors opened there are handed back and used from anywhere. That costs 0.1 ms.
Forking a daemon that runs gRPC threads is not an alternative: it crashes children.

Named namespaces are what `ip netns` makes: a bind mount of the namespace on a file in
/run/netns, so both can be used on each other's (ip-netns(8)).

A namespace is named by its name (`host1`), a path (`/var/run/netns/cni-...`,
`/proc/123/ns/net`) or an open descriptor. Errors are `NetnsError`s, whose message is one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from base import paths

NETNS_DIR = Path(paths.NETNS_DIR)
CLONE_NEWNET = 0x40000000  # linux/sched.h
MS_BIND, MS_REC, MS_SHARED = 0x1000, 0x4000, 0x100000  # linux/mount.h
MNT_DETACH = 2
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

NetnsRef = str | Path | int
T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsError(OSError):
    """A namespace that can't be made, opened or entered; `str()` is one clear line."""

    def __str__(self) -> str:
        """`network namespace PATH: reason`."""
        where = f"network namespace {self.filename}: " if self.filename is not None else ""
        return f"{where}{self.strerror}"


def path_of(netns: NetnsRef) -> str:
    """The path by which a namespace is opened: a bare name is looked up in /run/netns."""
    if isinstance(netns, int):
        return f"/proc/self/fd/{netns}"
    text = str(netns)
    return text if "/" in text else str(NETNS_DIR / text)


def open_netns(netns: NetnsRef) -> int:
    """A new close-on-exec descriptor of the namespace; the caller closes it.

    Raises NetnsError when it is not there, or is a file that is no namespace (what is left
    in /run/netns by a reboot or a lost mount).
    """
    if isinstance(netns, int):
        return os.dup(netns)
    path = path_of(netns)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(error.errno, error.strerror, path) from None
    if not is_namespace(fd):
        os.close(fd)
        raise NetnsError(22, "is a file, but no network namespace", path)
    return fd


def is_namespace(fd: int) -> bool:
    """Whether a descriptor is one of a network namespace."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def enter(netns: NetnsRef) -> None:
    """Move the calling thread for good; only for threads that are made for it."""
    fd = open_netns(netns)
    try:
        _setns(fd, str(netns))
    finally:
        os.close(fd)


@contextlib.contextmanager
def own_netns() -> Iterator[int]:
    """A descriptor of the calling thread's namespace, for the block: the way back from others."""
    fd = open_netns("/proc/thread-self/ns/net")
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def entered(netns: int, own: int) -> Iterator[None]:
    """The calling thread is in the namespace inside the block, and back after it.

    `own` is from `own_netns`; opening it takes longer than both moves, so that whoever enters
    several times passes it on. For dedicated threads and single-threaded programs: never in an
    event loop's thread, where other work could run in between.
    """
    _setns(netns, f"descriptor {netns}")
    try:
        yield
    finally:
        _setns(own, "the thread's own")


def run_in(netns: NetnsRef | None, function: Callable[[], T]) -> T:
    """Call `function` in a fresh thread inside the namespace and return what it returns.

    None means the caller's own namespace: a plain call. Raises NetnsError, and whatever
    `function` raises.
    """
    if netns is None:
        return function()
    fd = open_netns(netns)
    try:
        return _in_thread(lambda: _setns(fd, str(netns)), function)
    finally:
        os.close(fd)


def run_in_new(function: Callable[[], T]) -> T:
    """Call `function` in a fresh thread inside a fresh namespace that dies with the thread."""
    return _in_thread(_unshare, function)


def create(name: str, *, loopback: bool = True, directory: Path = NETNS_DIR) -> Path:
    """Make a named namespace (`ip netns add NAME`), `lo` up unless told otherwise.

    Returns its path. Raises NetnsError, EEXIST when the name is taken.
    """
    path = directory / name
    _prepare(directory)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise NetnsError(error.errno, error.strerror, str(path)) from None

    def pin() -> None:
        if loopback:
            _loopback_up()
        _mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", path, MS_BIND)

    try:
        run_in_new(pin)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def remove(netns: str | Path) -> bool:
    """Unmount and unlink a named namespace; False when there was none.

    The kernel frees the namespace, its devices first, when its last process and socket
    are gone. Raises NetnsError when the file can't be removed.
    """
    path = path_of(netns)
    while _libc.umount2(path.encode(), MNT_DETACH) == 0:
        pass  # stacked mounts, left by a crash in between
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NetnsError(error.errno, error.strerror, path) from None
    return True


def names(directory: Path = NETNS_DIR) -> list[str]:
    """All named namespaces, sorted; leftovers of a reboot included."""
    try:
        return sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return []


def _prepare(directory: Path) -> None:
    """Make the directory a shared mount, as ip-netns does, so that mounts propagate."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount("none", directory, MS_SHARED | MS_REC)
    except NetnsError as error:
        if error.errno != 22:  # EINVAL: not a mount point yet
            raise
        _mount(str(directory), directory, MS_BIND | MS_REC)
        _mount("none", directory, MS_SHARED | MS_REC)


def _in_thread(move: Callable[[], None], function: Callable[[], T]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            move()
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failure.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _setns(fd: int, what: str) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise _last_error(what)


def _unshare() -> None:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise _last_error("(new)")


def _mount(source: str, target: Path, flags: int) -> None:
    if _libc.mount(source.encode(), str(target).encode(), b"none", flags, None) != 0:
        raise _last_error(str(target))


def _last_error(what: str) -> NetnsError:
    number = ctypes.get_errno()
    return NetnsError(number, os.strerror(number), what)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
