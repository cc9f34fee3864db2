# SPDX-License-Identifier: Apache-2.0
"""Starts, replaces and ends the responder's process, from the daemon's side. One thread."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from base.private_files import make_private_directory, open_private
from services.names.control import LOG, SOCKET, NamesClient, NamesConfig, NamesError, build
from services.names.records import NamedService

START_TIMEOUT = 9.0  # seconds until a new process answers
STOP_TIMEOUT = 3.0  # seconds for a process to end after it was told to
POLL_INTERVAL = 0.02  # seconds
AT_ONCE = 500  # services of one request


@dataclass(slots=True)
class NamesLifecycle:
    """The responder of one run directory."""

    run_dir: Path
    state: str = ""
    """What it answers by, as far as we know."""
    counts: Mapping[str, int] = field(default_factory=dict)
    _child: subprocess.Popen[bytes] | None = None
    _build: str = field(default_factory=build)

    def apply(
        self,
        config: NamesConfig,
        everything: Mapping[str, NamedService] | None,
        changed: Mapping[str, NamedService | None],
    ) -> int:
        """Have it answer by this; returns how much was told. Raises NamesError, OSError.

        `everything` None: the services are not known yet; it answers by what it has.
        """
        client, status = self._running()
        try:
            told = 0
            if everything is None:
                pass
            elif status["state"] != self.state or not self.state:
                told += self._tell(client, dict(everything), whole=True)
            elif changed:
                told += self._tell(client, changed, whole=False)
            if status["config"] != _plain(config):
                client.call("configure", config=config.to_json())
                told += 1
            self.counts = status["counts"]
            return told
        finally:
            client.close()

    def _tell(
        self, client: NamesClient, services: Mapping[str, NamedService | None], *, whole: bool
    ) -> int:
        names = sorted(services)
        for start in range(0, max(len(names), 1), AT_ONCE):
            part = {name: services[name] for name in names[start : start + AT_ONCE]}
            before, self.state = self.state, secrets.token_hex(8)
            more = whole and start + AT_ONCE < len(names)
            client.call(
                "records",
                services=part,
                whole=whole,
                more=more,
                before=before,
                after=self.state,
            )
        return len(names)

    def _running(self) -> tuple[NamesClient, dict[str, Any]]:
        """A connection to a process of this version, which is started if need be."""
        with contextlib.suppress(FileNotFoundError, ConnectionError):
            client = NamesClient(self.run_dir)
            try:
                status = client.call("status")
            except BaseException:
                client.close()
                raise
            if status["build"] == self._build:
                return client, status
            client.close()
            self.stop()
        return self._start()

    def _start(self) -> tuple[NamesClient, dict[str, Any]]:
        make_private_directory(self.run_dir)
        self._reap()
        with open(self.run_dir / LOG, "wb", opener=open_private) as output:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-m", "services.names.process", str(self.run_dir)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._child.poll() is None:
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                client = NamesClient(self.run_dir)
                status = client.call("status")
                if status["pid"] == self._child.pid:
                    return client, status
                client.close()
            time.sleep(POLL_INTERVAL)
        lines = (self.run_dir / LOG).read_text(errors="replace").strip().splitlines()
        raise NamesError(f"the responder for names does not start: {(lines or ['no output'])[-1]}")

    def status(self) -> dict[str, Any] | None:
        """What it says; None: there is none. Raises NamesError, OSError."""
        with contextlib.suppress(FileNotFoundError, ConnectionError):
            client = NamesClient(self.run_dir)
            try:
                return client.call("status")
            finally:
                client.close()
        return None

    def stop(self) -> bool:
        """End whatever process there is; whether there was one. Raises NamesError, OSError."""
        self.state = ""
        try:
            status = self.status()
        except (NamesError, TimeoutError):
            status = None
            (self.run_dir / SOCKET).unlink(missing_ok=True)  # it ends when it goes on
        if status is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(status["pid"])
            try:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(descriptor, number)
                    if select.select([descriptor], [], [], STOP_TIMEOUT)[0]:
                        break
            finally:
                os.close(descriptor)
        self._reap()
        return True

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None


def _plain(config: NamesConfig) -> dict[str, Any]:
    document = config.to_json()
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in document.items()
    }
