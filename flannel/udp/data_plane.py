# SPDX-License-Identifier: Apache-2.0
"""The udp backend's data-plane process, made to agree with the leases.

The process belongs to the host, not to the daemon: it outlives the daemon, and is found again
by its lock and its socket (`flannel.udp.lifecycle`). It is only ever started, told a new table,
handed over to a process of newer code, or ended:

    reconcile   a process with the wanted settings answers, and its table is the leases'
    close       nothing: packets go on
    cleanup     process, device and files go
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backend.isolation import Isolation
from backend.metric_sample import MetricSample
from flannel.udp.control import (
    ControlError,
    UdpFiles,
    UdpSettings,
    build,
    call,
    digest_of,
    holder,
)
from flannel.udp.lifecycle import UdpError, UdpLifecycle
from flannel.udp.table import UdpTable, table_of
from hostnet.kinds import tun as tun_device
from hostnet.ownership import LINK_ALIAS
from hostnet.underlay import Underlay
from ipam.lease import Lease

log = logging.getLogger("flannel.udp")
CLIENT_ERRORS = (KeyError, TypeError, ValueError)
"""What reading an answer raises that is none of this protocol."""


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
    isolation: Isolation | None = None
    process: UdpLifecycle = field(init=False)
    _problem: str | None = None

    def __post_init__(self) -> None:
        """Name the files."""
        self.files = UdpFiles(self.run_dir)
        self.process = UdpLifecycle(self.files)

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
        """Nothing: the TUN device is in `UdpBackend.base`."""
        del own, underlay

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Have a process with the leases' table; returns the changes. Raises OSError."""
        wanted = table_of(own, peers)
        document = wanted.to_json()
        with self._recording_problems():
            self._have_process(self.settings(underlay))
            if call(self.files, {"op": "status"})["digest"] == digest_of(document):
                return []
            actual = UdpTable.from_json(call(self.files, {"op": "table"})["table"])
            call(self.files, {"op": "set table", "table": document})
        return actual.changes_to(wanted)

    def _have_process(self, wanted: UdpSettings) -> None:
        status, device = self.process.status(), tun_device.find(self.tun)
        if device is None:
            raise UdpError(f"device {self.tun} is not there yet")
        if device.kind != tun_device.KIND or device.alias != LINK_ALIAS:
            raise UdpError(
                f"device {self.tun} exists and is not ours: stop what made it (flanneld?), "
                f"or ip link delete {self.tun}"
            )
        if status is None or (status["settings"], status["index"]) != (
            wanted.to_json(),
            device.index,
        ):
            self.process.stop()
            self.process.start("--settings", json.dumps(wanted.to_json()))
            log.info("started the udp data plane")
        elif status["build"] != build():
            self.process.start("--take-over", instead_of=status["pid"])
            log.info("udp data plane handed over to new code")
        else:
            self.process.trim_log()

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """The lines that `prepare` and `reconcile` would do. Raises OSError."""
        lines, actual = [], UdpTable()
        status = self.process.status()
        if status is None or status["settings"] != self.settings(underlay).to_json():
            lines.append("python -m flannel.udp.process")
        elif status["build"] != build():
            lines.append("python -m flannel.udp.process --take-over")
        if status is not None:
            actual = UdpTable.from_json(call(self.files, {"op": "table"})["table"])
        return lines + actual.changes_to(table_of(own, peers))

    def problem(self) -> str | None:
        """Why pods can't reach other hosts now, or None. Asks the process nothing."""
        if self._problem is None and holder(self.files) is None:
            return "udp: the data plane is not running"
        return self._problem

    def counters(self) -> dict[str, int]:
        """What it counted, by name; `flannel.udp._plane.COUNTERS` says what each means.

        Counters go on across restarts of the daemon and handovers of the process. Empty when
        no process answers.
        """
        try:
            counters: Mapping[str, int] = call(self.files, {"op": "status"})["counters"]
        except (ControlError, *CLIENT_ERRORS):
            return {}
        return dict(counters)

    def samples(self) -> list[MetricSample]:
        """The same for Prometheus: what was dropped is one counter, by direction and reason."""
        from flannel.udp import _plane  # noqa: PLC0415 - absent where it could not be compiled

        found = []
        for name, value in self.counters().items():
            if name.startswith("drop_"):
                _, direction, reason = name.split("_", 2)
                labels = {"direction": direction, "reason": reason}
                found.append(MetricSample("udp_dropped_packets", "Packets dropped", value, labels))
            else:
                found.append(MetricSample(f"udp_{name}", _plane.COUNTERS.get(name, name), value))
        return found

    def watch(self, changed: Callable[[], None]) -> None:
        """Nothing: netlink tells of the device, and a dead process is found by `problem`."""
        del changed

    def mark_dirty(self) -> None:
        """Nothing: every `reconcile` reads all of it."""

    def expect_drift(self) -> None:
        """Nothing: every `reconcile` compares all of it."""

    def close(self) -> None:
        """Nothing: device and process outlive the daemon."""

    def cleanup(self) -> None:
        """End the process, remove device and files. Raises OSError."""
        self.process.stop()
        tun_device.remove(self.tun)
        self.files.remove()

    @contextmanager
    def _recording_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._problem = str(error)
            raise
        except CLIENT_ERRORS as error:
            self._problem = f"udp: the data plane's answer is not understood: {error!r}"
            raise UdpError(self._problem) from error
        self._problem = None
