# SPDX-License-Identifier: Apache-2.0
"""The CNI executable of a host without a compiler: client.c in Python.

`cni.install` copies this file under the plugins' names, after a line `#!<python> -ISE`. It
imports only `_socket` and `posix`, which need no Python file: `socket`, `os` and `json` would
double the time to start. protocol.py describes the protocol, client.c everything else.
"""

import _socket
import posix
import sys

SEND_TIMEOUT = 10.0  # seconds
ANSWER_TIMEOUT = 100.0  # seconds
MAX_STDIN = 16 << 20  # bytes, as in request.py
RUN_IT_YOURSELF = 254  # as in protocol.py
O_CLOEXEC = posix.O_CLOEXEC


def read_input() -> bytes:
    """Read all of stdin, or one byte more than allowed, so that the answer can refuse it."""
    if posix.isatty(0):
        return b""
    parts, size = [], 0
    while size <= MAX_STDIN:
        try:
            part = posix.read(0, 1 << 16)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        size += len(part)
    return b"".join(parts)[: MAX_STDIN + 1]


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, or as much as the reader takes before it closes."""
    try:
        while data:
            data = data[posix.write(fd, data) :]
    except OSError:
        return


def number(value: int) -> bytes:
    """Pack a 32-bit number in the machine's byte order."""
    return value.to_bytes(4, sys.byteorder)


def open_netns(netns: bytes) -> bytes:
    """Open the container's namespace. Where that fails, the answer will say so."""
    try:
        return number(posix.open(netns, posix.O_RDONLY | O_CLOEXEC | posix.O_NONBLOCK))
    except OSError:
        return b""


def ask(plugin: bytes, stdin: bytes) -> "tuple[int, bytes] | None":
    """Send the call to the daemon; returns its exit status and stdout, None to run it here.

    Raises TimeoutError when a daemon has the request and does not answer.
    """
    env = posix.environ
    path = env.get(b"FLATMESH_SOCKET") or (
        (env.get(b"FLATMESH_RUN_DIR") or b"/run/flatmesh") + b"/cni.sock"
    )
    block = b"".join([k + b"=" + v + b"\0" for k, v in env.items()])
    fds = b""
    for name in (b"/proc/self/ns/net", b"/proc/self/ns/mnt"):
        fds += number(posix.open(name, posix.O_RDONLY | O_CLOEXEC))
    netns = env.get(b"CNI_NETNS")
    if netns:
        fds += open_netns(netns)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(SEND_TIMEOUT)
    try:
        connection.connect(path)
        credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) not in (0, posix.geteuid()):
            return None
        header = b"FMQ1" + number(len(plugin)) + number(len(block)) + number(len(stdin))
        message = header + plugin + block + stdin
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)]
        sent = connection.sendmsg([message], rights, _socket.MSG_NOSIGNAL)
        if sent < len(message):
            connection.sendall(message[sent:], _socket.MSG_NOSIGNAL)
    except OSError:
        return None
    connection.settimeout(ANSWER_TIMEOUT)
    head = receive(connection, 12)
    if len(head) < 12 or not head.startswith(b"FMA1"):
        return None
    status = int.from_bytes(head[4:8], sys.byteorder)
    length = int.from_bytes(head[8:12], sys.byteorder)
    if status == RUN_IT_YOURSELF:
        return None
    body = receive(connection, length)
    if len(body) < length:
        raise TimeoutError
    return status, body


def receive(connection: "_socket.socket", length: int) -> bytes:
    """Read `length` bytes, fewer when the daemon closes. Raises TimeoutError."""
    data = b""
    while len(data) < length:
        try:
            part = connection.recv(length - len(data))
        except TimeoutError:
            raise
        except OSError:
            break
        if not part:
            break
        data += part
    return data


def main() -> None:
    """Answer one call."""
    plugin = sys.argv[0].encode(sys.getfilesystemencoding(), "surrogateescape")
    plugin = plugin[plugin.rfind(b"/") + 1 :]
    stdin = read_input()
    try:
        answer = ask(plugin, stdin)
    except TimeoutError:
        write_all(
            1,
            b'{"cniVersion": "1.0.0", "code": 11, '
            b'"msg": "the flatmesh daemon did not answer in time; try again later"}\n',
        )
        posix._exit(1)  # noqa: SLF001 - nothing to flush, nothing to wait for
    if answer is not None:
        write_all(1, answer[1])
        posix._exit(answer[0])  # noqa: SLF001
    memory = posix.memfd_create("cni-stdin", 0)
    write_all(memory, stdin)
    posix.lseek(memory, 0, 0)
    posix.dup2(memory, 0)
    arguments: list[str | bytes] = [sys.executable, "-I", "-m", "cni.main", plugin]
    posix.execv(sys.executable, arguments)


if __name__ == "__main__":
    main()
