# SPDX-License-Identifier: Apache-2.0
"""The container's network namespace, opened and checked.

A namespace that does not exist any more is an error for ADD and CHECK, and none for DEL. The
host's own namespace is always refused: a runtime never means to attach the host to itself, or
to delete the host's eth0.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cni.config.request import CniRequest
from cni.errors import INVALID_ENVIRONMENT, SAME_NETNS, CniError
from hostnet import netns as namespaces


@contextlib.contextmanager
def open_container_netns(request: CniRequest) -> Iterator[int]:
    """An open descriptor of the namespace, for the block. Raises CniError (4, 8)."""
    fd = request.call.netns_fd
    close = fd is None
    if fd is None:
        if not request.call.same_mounts:
            raise _refused(request, "the runtime could not open it")
        try:
            fd = os.open(request.netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _refused(request, str(reason)) from None
    try:
        if not namespaces.is_namespace(fd):
            raise _refused(request, "it is no network namespace")
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
def open_container_netns_if_present(request: CniRequest) -> Iterator[int | None]:
    """Like `open_container_netns`, with None instead of an error."""
    with contextlib.ExitStack() as stack:
        fd = None
        if request.netns:
            with contextlib.suppress(CniError):
                fd = stack.enter_context(open_container_netns(request))
        yield fd


def _refused(request: CniRequest, reason: str) -> CniError:
    return CniError(
        INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns!r} can't be opened as a namespace: {reason}"
    )
