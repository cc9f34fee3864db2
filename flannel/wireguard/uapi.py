# SPDX-License-Identifier: Apache-2.0
"""The text protocol by which a WireGuard process is read and changed (UAPI).

Source: https://www.wireguard.com/xplatform/. A request is `get=1` or `set=1` with `key=value`
lines, ended by an empty line; keys are hexadecimal; the answer ends with `errno=` and an
empty line.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from base.errors import FlatmeshError
from base.socket_path import reachable
from hostnet.wireguard.state import (
    KEY_LENGTH,
    NO_KEY,
    DeviceChange,
    Endpoint,
    WireguardDevice,
    WireguardPeer,
    key_bytes,
    key_text,
)

UAPI_TIMEOUT = 5.0  # seconds for a connection, its request and the whole answer


class UapiError(FlatmeshError, OSError):
    """The process doesn't answer, or refuses; `str()` is one line."""

    def __str__(self) -> str:
        """`wireguard-go on SOCKET: reason`."""
        return f"wireguard-go on {self.filename}: {self.strerror}"


class Uapi:
    """One device's socket. Each call is a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def answers(self) -> bool:
        """Whether a process listens there. Only connects, so a stopped process counts as there."""
        try:
            self._connect().close()
        except UapiError:
            return False
        return True

    def pid(self) -> int | None:
        """The process that listens there, None when nobody does (unix(7), SO_PEERCRED)."""
        try:
            with self._connect() as connection:
                size = struct.calcsize("=iII")  # struct ucred: pid, uid, gid
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        except UapiError:
            return None
        return int(struct.unpack("=iII", peer)[0]) or None

    def read(self) -> WireguardDevice:
        """The device and its peers. Raises UapiError."""
        answer = self._ask("get=1\n\n")
        try:
            return parse_device(answer)
        except (ValueError, LookupError):
            raise self._error(errno.EPROTO, "its answer is not understood") from None

    def write(self, change: DeviceChange) -> None:
        """Change the device. Raises UapiError: the changes before the failing one are done."""
        self._ask(format_change(change))

    def _ask(self, request: str) -> str:
        deadline = time.monotonic() + UAPI_TIMEOUT
        chunks: list[bytes] = []
        with self._connect() as connection:
            try:
                _limit(connection, deadline)
                connection.sendall(request.encode())
                while not b"".join(chunks[-2:]).endswith(b"\n\n"):
                    _limit(connection, deadline)
                    chunk = connection.recv(1 << 18)
                    if not chunk:
                        raise self._error(errno.ECONNRESET, "went away in the midst of an answer")
                    chunks.append(chunk)
            except TimeoutError:
                raise self._error(errno.ETIMEDOUT, f"no answer in {UAPI_TIMEOUT:g} s") from None
            except OSError as error:
                raise self._error(error.errno, error.strerror) from None
        answer = b"".join(chunks).decode(errors="replace")
        number = dict(_lines(answer)).get("errno", "0").lstrip("-")
        if number != "0":
            code = int(number) if number.isdecimal() else errno.EPROTO
            raise self._error(code, f"refuses a change: {os.strerror(code)}")
        return answer

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(UAPI_TIMEOUT)
        try:
            with reachable(self.path) as path:
                connection.connect(path)
        except OSError as error:
            connection.close()
            raise self._error(error.errno, error.strerror) from None
        return connection

    def _error(self, number: int | None, text: str | None) -> UapiError:
        return UapiError(number or 0, text or "unknown error", str(self.path))


def _limit(connection: socket.socket, deadline: float) -> None:
    """Let the next call take until `deadline` (monotonic)."""
    connection.settimeout(max(deadline - time.monotonic(), 0.001))


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


def format_change(change: DeviceChange) -> str:
    """The `set` request that makes a change."""
    lines = ["set=1"]
    if change.private_key is not None:
        lines.append(f"private_key={_hex(change.private_key)}")
    if change.listen_port is not None:
        lines.append(f"listen_port={change.listen_port}")
    for peer in change.peers:
        lines.append(f"public_key={_hex(peer.public_key)}")
        if peer.remove:
            lines.append("remove=true")
            continue
        if not peer.new:
            lines.append("update_only=true")
        if peer.preshared_key is not None:
            lines.append(f"preshared_key={_hex(peer.preshared_key)}")
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        if peer.replace_allowed_ips:
            lines.append("replace_allowed_ips=true")
        lines += [f"allowed_ip={network}" for network in peer.allowed_ips]
        if peer.keepalive is not None:  # last: switching it on sends a packet at once
            lines.append(f"persistent_keepalive_interval={peer.keepalive}")
    return "\n".join(lines) + "\n\n"


def parse_device(answer: str) -> WireguardDevice:
    """Read the answer to a `get` request. Raises ValueError or LookupError for what isn't one."""
    private_key: str | None = None
    port = 0
    blocks: list[dict[str, str]] = []
    networks: list[set[str]] = []
    for name, value in _lines(answer):
        if name == "public_key":
            blocks.append({name: value})
            networks.append(set())
        elif name == "allowed_ip":
            networks[-1].add(value)
        elif blocks:
            blocks[-1][name] = value
        elif name == "private_key":
            private_key = _base64(value)
        elif name == "listen_port":
            port = int(value)
    peers = [_peer(block, ips) for block, ips in zip(blocks, networks, strict=True)]
    return WireguardDevice(private_key, port, {peer.public_key: peer for peer in peers})


def _peer(block: dict[str, str], networks: set[str]) -> WireguardPeer:
    psk = _base64(block["preshared_key"]) if "preshared_key" in block else NO_KEY
    nanoseconds = int(block.get("last_handshake_time_nsec", "0"))
    return WireguardPeer(
        _base64(block["public_key"]),
        Endpoint.parse(block["endpoint"]) if "endpoint" in block else None,
        frozenset(networks),
        int(block.get("persistent_keepalive_interval", "0")),
        psk if psk != NO_KEY else None,
        int(block.get("last_handshake_time_sec", "0")) + nanoseconds / 1e9,
        int(block.get("rx_bytes", "0")),
        int(block.get("tx_bytes", "0")),
    )


def _hex(key: str) -> str:
    return key_bytes(key).hex()


def _base64(key: str) -> str:
    raw = bytes.fromhex(key)
    if len(raw) != KEY_LENGTH:
        raise ValueError("not a key")
    return key_text(raw)
