"""The container's network namespace of a call, opened and checked.

A namespace that is gone is an error for ADD and CHECK and none for DEL. Our own is always
one: plugging the host into itself, or deleting its eth0, is never what a runtime wants.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cni.errors import INVALID_ENVIRONMENT, CniError
from cni.request import Request
from hostnet import netns as namespaces

SAME_NETNS = 8  # libcni's ErrInvalidNetNS


@contextlib.contextmanager
def opened(request: Request) -> Iterator[int]:
    """An open descriptor of the namespace, for the block. Raises CniError (4, 8)."""
    fd = request.call.netns_fd
    close = fd is None
    if fd is None:
        if not request.call.same_mounts:
            raise _gone(request, "the runtime could not open it")
        try:
            fd = os.open(request.netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _gone(request, str(reason)) from None
    try:
        if not namespaces.is_namespace(fd):
            raise _gone(request, "it is no network namespace")
        theirs, ours = os.fstat(fd), os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - 5 us
        if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
            raise CniError(
                SAME_NETNS, f"CNI_NETNS {request.netns} is the host's own network namespace"
            )
        yield fd
    finally:
        if close:
            os.close(fd)


@contextlib.contextmanager
def opened_if_there(request: Request) -> Iterator[int | None]:
    """The same, None instead of an error."""
    with contextlib.ExitStack() as stack:
        fd = None
        if request.netns:
            with contextlib.suppress(CniError):
                fd = stack.enter_context(opened(request))
        yield fd


def _gone(request: Request, reason: str) -> CniError:
    return CniError(
        INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns!r} can't be opened as a namespace: {reason}"
    )
