# SPDX-License-Identifier: Apache-2.0
"""The responder's process: `python -m services.names.process RUN_DIR`.

It outlives the daemon: names are answered by what it was told last, also while etcd is away. It is
less urgent than the daemon (nice), so that pods that send queries without end slow nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import dns.name

from base.socket_path import reachable
from services.names.answer import Responder
from services.names.control import SOCKET, NamesConfig, build
from services.names.forwarder import Forwarder
from services.names.records import NamedService, ZoneRecords
from services.names.resolv_conf import ResolvConf
from services.names.server import NameServer

NICENESS = 5
LOOK_INTERVAL = 1.0  # seconds between two looks whether its socket's file is still there
MAX_LINE = 64 << 20  # bytes of a request


@dataclass(slots=True)
class NamesProcess:
    """What it was told, and the sockets that serve it."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    state: str = ""
    config: NamesConfig | None = None
    records: ZoneRecords = field(default_factory=ZoneRecords)
    staged: ZoneRecords = field(default_factory=ZoneRecords)
    """The parts of a whole that has not been told to its end."""
    server: NameServer | None = None
    counts: Counter[str] = field(default_factory=Counter)

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request; returns the answer. Raises OSError, ValueError and others: refused."""
        match request["op"]:
            case "status":
                counts = {name: self.counts[name] for name in sorted(self.counts)}
                pid, config = os.getpid(), self.config.to_json() if self.config else None
                about = {"build": BUILD, "pid": pid, "state": self.state}
                return about | {"config": config, "counts": counts}
            case "configure":
                await self._configure(NamesConfig.from_json(request["config"]))
            case "records":
                self._take(request)
            case "stop":
                self.stop.set()
            case other:
                return {"error": f"unknown request {other!r}"}
        return {}

    async def _configure(self, config: NamesConfig) -> None:
        if self.server is not None:
            self.server.close()
            await asyncio.sleep(0)
        self.server, self.config = None, None
        responder = Responder(
            dns.name.from_text(config.zone),
            self.records,
            [ip_network(one) for one in config.networks],
            config.gateways,
        )
        forwarder = Forwarder(ResolvConf(Path(config.resolv_conf), config.gateways))
        server = NameServer(responder, forwarder, self.counts)
        await server.listen()
        self.server, self.config = server, config
        self._answer_by_records()

    def _take(self, request: dict[str, Any]) -> None:
        if not request["whole"] and request["before"] != self.state:
            raise ValueError("the change is of another state")
        changed = {
            name: None if one is None else NamedService.from_json(one)
            for name, one in request["services"].items()
        }
        if request["whole"]:
            self.staged.update(changed)
            if request["more"]:
                return
            self.records, self.staged = self.staged, ZoneRecords()
        else:
            self.records.update(changed)
        self.state = request["after"]
        self._answer_by_records()

    def _answer_by_records(self) -> None:
        if self.server is not None:
            responder = self.server.responder
            responder.records, responder.known = self.records, bool(self.state)
            responder.serial += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the daemon's."""
        self.staged = ZoneRecords()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            while line := await reader.readline():
                try:
                    answer = await self.handle(json.loads(line))
                except Exception as error:  # noqa: BLE001 - the daemon says it on
                    answer = {"error": str(error) or repr(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()


BUILD = build()


async def run(run_dir: Path) -> None:
    """Serve until told to stop, or until the socket's file is gone."""
    process = NamesProcess()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop.set)
    path = run_dir / SOCKET
    path.unlink(missing_ok=True)
    with reachable(path) as name:
        os.umask(0o177)
        server = await asyncio.start_unix_server(process.serve, name, limit=MAX_LINE)
    inode = path.stat().st_ino
    while not process.stop.is_set() and _inode(path) == inode:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_INTERVAL):
                await process.stop.wait()
    server.close()
    if process.server is not None:
        process.server.close()
    if _inode(path) == inode:
        path.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


if __name__ == "__main__":
    os.nice(NICENESS)
    asyncio.run(run(Path(sys.argv[1])))
