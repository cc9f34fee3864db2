# SPDX-License-Identifier: Apache-2.0
"""One JSON-RPC request to a server of Open vSwitch, with a deadline.

ovsdb-server and the control sockets of all servers speak it (RFC 7047, ovs-appctl(8)). The
blocking calls of the `ovs` package have no deadline: a server that is stopped (SIGSTOP) or hangs
accepts the connection and never answers. So the replies are waited for here.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Sequence

import ovs.jsonrpc
import ovs.poller
import ovs.stream
import ovs.vlog

from ovs_mesh.errors import OvsError


class RefusedError(OvsError):
    """The server answers with an error, which is the message."""


def request(path: str, method: str, parameters: Sequence[str], timeout: float) -> object:
    """Call a method of the server at a unix socket; returns the result.

    `timeout` is in seconds, for everything. Raises RefusedError; OvsError, with errno ETIMEDOUT
    when no answer comes in time, or what keeps the connection from being made.
    """
    silence_package_log()
    deadline = time.monotonic() + timeout
    error, stream = ovs.stream.Stream.open_block(
        ovs.stream.Stream.open(f"unix:{path}"), int(timeout * 1000)
    )
    if error:
        raise OvsError(error, f"{path} does not take a connection")
    connection = ovs.jsonrpc.Connection(stream)
    try:
        message = ovs.jsonrpc.Message.create_request(method, list(parameters))
        error = connection.send(message)
        reply = None
        while not error and (reply is None or reply.id != message.id):
            left = deadline - time.monotonic()
            if left <= 0:
                raise OvsError(errno.ETIMEDOUT, f"{path}: no answer in {timeout:g} s")
            connection.run()
            error, reply = connection.recv()
            if error == errno.EAGAIN:
                error = 0
                _wait(connection, left)
        if error or reply is None:
            raise OvsError(errno.ECONNRESET, f"{path}: the connection broke")
    finally:
        connection.close()
    if reply.error is not None:
        raise RefusedError(errno.EPROTO, str(reply.error).strip())
    result: object = reply.result
    return result


def _wait(connection: ovs.jsonrpc.Connection, seconds: float) -> None:
    poller = ovs.poller.Poller()
    connection.wait(poller)
    connection.recv_wait(poller)
    poller.timer_wait(int(seconds * 1000) + 1)
    poller.block()


def silence_package_log() -> None:
    """Silence the log of the `ovs` package: our own errors have the same reasons, one line each."""
    ovs.vlog.Vlog.init()
    for destination in ("console", "file", "syslog"):
        logging.getLogger(destination).propagate = False
        ovs.vlog.Vlog.set_level("any", destination, "off")
