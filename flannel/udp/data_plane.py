"""The udp backend's TUN device and data-plane process, made to agree with the leases.

The process isn't ours to keep: it outlives the daemon, and is found again by its lock and its
socket (`udp_control`). A process is only ever started, told a new table, handed over to one of
newer code, or ended; so every turn of the daemon is

    prepare     the TUN device is there, and a process with the wanted settings answers
    reconcile   its table is the leases'
    close       nothing: packets flow on
    cleanup     process, device and files go
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flannel.udp.control import (
    ControlError,
    UdpFiles,
    UdpSettings,
    build,
    call,
    digest_of,
    end,
    holder,
    wait_gone,
)
from flannel.udp.table import UdpTable, table_of
from hostnet.count import Count
from hostnet.kinds import tun as tun_device
from hostnet.underlay import Underlay
from ipam.lease import Lease

log = logging.getLogger("flannel.udp")
START_TIMEOUT = 15.0  # seconds until a new process answers
STOP_TIMEOUT = 5.0  # seconds for one that was asked to end
POLL = 0.01  # seconds
LOG_LIMIT = 1 << 20  # bytes


class UdpError(OSError):
    """The data plane can't be had; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


@dataclass(slots=True)
class UdpDataPlane:
    """The data plane of one host. Used from the network namespace that it serves."""

    tun: str
    port: int
    queues: int
    run_dir: Path
    underlay_mtu: int = 0
    """Bytes; 0 takes the underlay device's."""
    single: bool = False
    """One packet a call: see `UdpSettings`."""
    files: UdpFiles = field(init=False)
    depends_on_pods: bool = False
    attaches_pods: bool = False
    keeps_state_outside: bool = False
    _child: subprocess.Popen[bytes] | None = None
    _problem: str | None = None

    def __post_init__(self) -> None:
        """Name the files."""
        self.files = UdpFiles(self.run_dir)

    def settings(self, underlay: Underlay) -> UdpSettings:
        """What the process has to run with."""
        ipv4, ipv6 = underlay.local(4), underlay.local(6)
        return UdpSettings(
            self.tun,
            self.port,
            str(ipv4) if ipv4 is not None else None,
            str(ipv6) if ipv6 is not None else None,
            self.underlay_mtu or underlay.mtu,
            1 if self.single else self.queues,
            self.single,
        )

    # -- the daemon's calls ------------------------------------------------------------

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Have the device and a process. Raises OSError."""
        del own
        try:
            self._prepare(self.settings(underlay))
        except OSError as error:
            self._problem = str(error)
            raise
        self._problem = None

    def _prepare(self, wanted: UdpSettings) -> None:
        self._reap()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        status, device = self._status(), tun_device.find(self.tun)
        if (
            status is not None
            and device is not None
            and (status["settings"], status["index"]) == (wanted.to_json(), device.index)
        ):
            # nothing may be done to the device here: the daemon would hear of it and come again
            if status["build"] == build():
                self._trim_log()
                return
            self._start("--take-over", instead_of=status["pid"])
            log.info("udp data plane handed over to new code")
            return
        tun_device.make(self.tun, single=self.single)
        self._stop()
        self._start("--settings", json.dumps(wanted.to_json()))
        log.info("started the udp data plane")

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Give the process the leases' table; returns the changes. Raises OSError."""
        del underlay
        wanted = table_of(own, peers)
        document = wanted.to_json()
        try:
            if call(self.files, {"op": "status"})["digest"] == digest_of(document):
                return []
            found = UdpTable.from_json(call(self.files, {"op": "table"})["table"])
            call(self.files, {"op": "set table", "table": document})
        except OSError as error:
            self._problem = str(error)
            raise
        return found.changes_to(wanted)

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """The lines that `prepare` and `reconcile` would do. Raises OSError."""
        lines, found = [], UdpTable()
        if tun_device.find(self.tun) is None:
            lines.append(f"ip tuntap add {self.tun} mode tun multi_queue vnet_hdr")
        status = self._status()
        if status is None or status["settings"] != self.settings(underlay).to_json():
            lines.append("python -m flannel.udp.process")
        elif status["build"] != build():
            lines.append("python -m flannel.udp.process --take-over")
        if status is not None:
            found = UdpTable.from_json(call(self.files, {"op": "table"})["table"])
        return lines + found.changes_to(table_of(own, peers))

    def problem(self) -> str | None:
        """Why pods can't reach other hosts now, or None."""
        if self._problem is None and self._status() is None:
            return "udp: the data plane is not running"
        return self._problem

    def counters(self) -> dict[str, int]:
        """What it counted, by name; `flannel.udp._plane.COUNTERS` says what each means.

        Counters go on across restarts of the daemon and handovers of the process. Empty when
        no process answers.
        """
        status = self._status()
        return dict(status["counters"]) if status is not None else {}

    def samples(self) -> list[Count]:
        """The same for Prometheus: what was dropped is one counter, by direction and reason."""
        from flannel.udp import _plane  # noqa: PLC0415 - absent where it could not be compiled

        found = []
        for name, value in self.counters().items():
            if name.startswith("drop_"):
                _, direction, reason = name.split("_", 2)
                labels = {"direction": direction, "reason": reason}
                found.append(Count("udp_dropped_packets", "Packets dropped", value, labels))
            else:
                found.append(Count(f"udp_{name}", _plane.COUNTERS.get(name, name), value))
        return found

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing: netlink tells of the device, and a dead process is found by `problem`."""
        del changed

    def mark_dirty(self) -> None:
        """Nothing: every `reconcile` reads all of it."""

    def close(self) -> None:
        """Nothing: device and process outlive the daemon."""

    def cleanup(self) -> None:
        """End the process, remove device and files. Raises OSError."""
        self._stop()
        self._reap()
        tun_device.remove(self.tun)
        self.files.remove()

    # -- the process --------------------------------------------------------------------

    def _status(self) -> dict[str, Any] | None:
        """What the process says; None when nobody answers sensibly."""
        try:
            return call(self.files, {"op": "status"})
        except ControlError:
            return None

    def _start(self, *how: str, instead_of: int | None = None) -> None:
        """Start a process, and wait until it answers. Raises UdpError."""
        with self.files.log.open("wb") as output:
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-m", "flannel.udp.process"),
                    *("--run-dir", str(self.run_dir)),
                    *how,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while (status := self._status()) is None or status["pid"] == instead_of:
            if self._reap():
                raise UdpError(self._last_words())
            if time.monotonic() > deadline:
                raise UdpError(f"the udp data plane does not answer: {self._last_words()}")
            time.sleep(POLL)

    def _stop(self) -> None:
        """End whatever process there is. Raises ControlError."""
        if holder(self.files) is None:
            return
        try:
            call(self.files, {"op": "stop"})
        except ControlError:
            pass  # it hangs, or its socket is gone
        else:
            if wait_gone(self.files, time.monotonic() + STOP_TIMEOUT):
                return
        end(self.files)

    def _reap(self) -> bool:
        """Whether the process that we started has ended; forgets it then."""
        if self._child is None or self._child.poll() is None:
            return False
        self._child = None
        return True

    def _trim_log(self) -> None:
        if self.files.log.exists() and self.files.log.stat().st_size > LOG_LIMIT:
            os.truncate(self.files.log, 0)

    def _last_words(self) -> str:
        """What it last wrote, as one line."""
        try:
            lines = self.files.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it wrote nothing"
