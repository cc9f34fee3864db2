# SPDX-License-Identifier: Apache-2.0
"""The protocol between daemon and responder: a JSON line each way, many on one connection.

    {"op": "status"}                                    -> {"build", "pid", "state", "counts"}
    {"op": "configure", "config": {...}}                -> {}: listens as the config says
    {"op": "records", "services": {...}, "whole": bool, "more": bool,
     "before": "...", "after": "..."}                   -> {}: answers by them
    {"op": "stop"}                                      -> {}, and it ends

`state` names what the responder answers by. Records that are not the whole name the state that they
are a change of; a responder in another state refuses them, and is told the whole. The whole may
come in parts, all but the last with `more`; the responder answers by it when it has the last. An
answer with "error" says in one line what went wrong.

The files, below the daemon's run directory:

    names.sock   where the process answers; it ends when the file is deleted or replaced
    names.log    its output
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError
from base.socket_path import reachable

EXCHANGE_TIMEOUT = 5.0  # seconds for a request and its answer
SOCKET, LOG = "names.sock", "names.log"


class NamesError(FlatmeshError, OSError):
    """The responder can't be had, or refuses; `str()` is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(frozen=True, slots=True)
class NamesConfig:
    """What a responder serves."""

    zone: str
    gateways: tuple[str, ...]
    """Addresses to answer at."""
    networks: tuple[str, ...]
    """Clients are in one of them; their reverse names are ours."""
    resolv_conf: str

    def to_json(self) -> dict[str, Any]:
        """The document that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NamesConfig:
        """Read the document. Raises TypeError, KeyError."""
        gateways, networks = tuple(document["gateways"]), tuple(document["networks"])
        return cls(document["zone"], gateways, networks, document["resolv_conf"])


def build() -> str:
    """A digest of the responder's code: a process with another one is replaced."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class NamesClient:
    """A connection to the responder."""

    def __init__(self, run_dir: Path) -> None:
        """Connect. Raises OSError: none listens."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(EXCHANGE_TIMEOUT)
            with reachable(run_dir / SOCKET) as path:
                self._socket.connect(path)
            self._file = self._socket.makefile("rb")
        except BaseException:
            self._socket.close()
            raise

    def call(self, op: str, **more: Any) -> dict[str, Any]:
        """One request. Raises NamesError, OSError."""
        self._socket.sendall(json.dumps({"op": op, **more}).encode() + b"\n")
        try:
            answer = json.loads(self._file.readline())
        except ValueError:
            raise NamesError("the responder for names ended during a request") from None
        if "error" in answer:
            raise NamesError(f"responder for names: {answer['error']}")
        return dict(answer)

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()
