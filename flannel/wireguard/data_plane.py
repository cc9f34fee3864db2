# SPDX-License-Identifier: Apache-2.0
"""WireGuard on this host: devices, their keys and peers, made to agree with the leases.

`reconcile` reads each device, compares (`flannel.wireguard.plan`), and writes the difference in
one transaction. A restarted daemon goes on from what is there: the private key is in its file,
the peers are in the leases, the rest is in the kernel or in the wireguard-go process, which is
found again by its socket.

    prepare     the kernel's WireGuard device is there, where the kernel has WireGuard
    reconcile   a wireguard-go serves a TUN device; key, port and peers are as they should be
    close       nothing: device and process stay, and packets go on
    cleanup     devices, processes, files and the key go

A device of these names that isn't a WireGuard or TUN device is left alone and reported; one
that flanneld made is taken over as it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backend.isolation import Isolation
from backend.metric_sample import MetricSample
from base.errors import FlatmeshError
from flannel.wireguard.config import DEVICES, WireguardConfig, published_key
from flannel.wireguard.endpoints import EndpointMemory
from flannel.wireguard.key import KeyFile, WireguardKey
from flannel.wireguard.plan import device_change, wanted_devices
from flannel.wireguard.process import WireguardProcess
from hostnet.ownership import LINK_ALIAS
from hostnet.port_owner import port_owner
from hostnet.underlay import Underlay
from hostnet.wireguard.device import (
    KERNEL_KIND,
    TUN_KIND,
    TunBusyError,
    delete_device,
    find_device,
    make_kernel_device,
)
from hostnet.wireguard.netlink import KernelWireguard
from hostnet.wireguard.state import DeviceChange, WireguardDevice
from ipam.lease import Lease

log = logging.getLogger("flannel.wireguard.backend")


class WireguardError(FlatmeshError, OSError):
    """The device can't be had; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


class Control(Protocol):
    """Read and change one device's WireGuard. Both raise OSError."""

    def read(self) -> WireguardDevice:
        """What is there."""

    def write(self, change: DeviceChange) -> None:
        """Change it."""


@dataclass(frozen=True, slots=True)
class KernelControl:
    """One of the kernel's WireGuard devices, in the caller's namespace."""

    device: str

    def read(self) -> WireguardDevice:
        """What is there. Raises NetlinkError."""
        with contextlib.closing(KernelWireguard()) as kernel:
            return kernel.read(self.device)

    def write(self, change: DeviceChange) -> None:
        """Change it. Raises NetlinkError."""
        with contextlib.closing(KernelWireguard()) as kernel:
            kernel.write(self.device, change)


@dataclass(slots=True)
class WireguardDataPlane:
    """The tunnel devices of one host. Used from the network namespace that it serves."""

    config: WireguardConfig
    state_dir: Path
    run_dir: Path
    in_kernel: bool
    depends_on_pods: bool = False
    attaches_pods: bool = False
    isolation: Isolation | None = None
    keeps_state_outside: bool = False
    processes: dict[str, WireguardProcess] = field(init=False)
    _memory: dict[str, EndpointMemory] = field(init=False)
    _problem: str | None = None
    _reported: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Name the processes that may be there, wanted or left over."""
        self.processes = {name: WireguardProcess(self.run_dir, name) for name in DEVICES}
        self._memory = {name: EndpointMemory() for name in DEVICES}

    def control(self, device: str) -> Control:
        """How a device's WireGuard is read and changed."""
        return KernelControl(device) if self.in_kernel else self.processes[device].uapi

    # -- the daemon's calls ------------------------------------------------------------

    def prepare(self, own: Lease, underlay: Underlay) -> None:
        """Make the kernel's WireGuard devices; TUN devices are in the backend's `base`.

        Raises OSError.
        """
        del own, underlay
        with self._recording_problems():
            for name in self.config.ports if self.in_kernel else ():
                self._have_kernel_device(name)

    def reconcile(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """Make the peers agree with the leases; returns the changes. Raises OSError."""
        with self._recording_problems():
            for name, process in self.processes.items():
                if name not in self.config.ports:
                    self._drop(process)
                elif not self.in_kernel:
                    self._have_process(process)
            lines = []
            for name, change in self._changes(own, peers, underlay):
                if change:
                    self._write(name, change)
                    lines += change.lines(name)
            KeyFile(self.state_dir).forget_old(published_key(own.attributes))
            return lines

    def plan(self, own: Lease, peers: Sequence[Lease], underlay: Underlay) -> list[str]:
        """The lines that `prepare` and `reconcile` would do. Raises OSError."""
        lines = []
        for name in self.config.ports:
            if not self._is_there(name):
                started = f"ip link add {name} type wireguard"
                lines.append(started if self.in_kernel else f"wireguard-go {name}")
        for name, change in self._changes(own, peers, underlay):
            lines += change.lines(name)
        return lines

    def problem(self) -> str | None:
        """Why pods can't reach other hosts now, or None."""
        if self._problem is not None:
            return self._problem
        for name in self.config.ports:
            if not self._is_there(name):
                what = f"device {name} is gone" if self.in_kernel else "wireguard-go is not running"
                return f"wireguard: {what}"
        return None

    def samples(self) -> list[MetricSample]:
        """Nothing: WireGuard counts bytes by peer, which `wg show` prints."""
        return []

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
        """Remove devices, processes, files and the key. Goes on past errors, raises the first."""
        errors: list[OSError] = []
        for name, process in self.processes.items():
            try:
                self._drop(process)
                found = find_device(name)
                if found and found.alias == LINK_ALIAS and found.kind in (KERNEL_KIND, TUN_KIND):
                    delete_device(name)
                process.forget()
            except OSError as error:
                errors.append(error)
        try:
            KeyFile(self.state_dir).remove()
        except OSError as error:
            errors.append(error)
        if errors:
            raise errors[0]

    # -- keys --------------------------------------------------------------------------

    def set_key(self, key: WireguardKey) -> None:
        """Give the devices that are there this key, and their port. Raises OSError."""
        for name, port in self.config.ports.items():
            if not self._is_there(name):
                continue
            found = self.control(name).read()
            change = device_change(WireguardDevice(key.private, port, found.peers), found)
            if change:
                self.control(name).write(change)

    # -- devices -----------------------------------------------------------------------

    def _have_kernel_device(self, name: str) -> None:
        found = find_device(name)
        if found is not None and found.kind == TUN_KIND:
            # of a wireguard-go that ran before the kernel had WireGuard
            self.processes[name].stop()
            delete_device(name)
            found = None
        if found is None:
            make_kernel_device(name)
            log.info("made device %s", name)
        elif found.kind != KERNEL_KIND:
            raise _in_the_way(name, found.kind)

    def _have_process(self, process: WireguardProcess) -> None:
        process.reap()
        found = find_device(process.device)
        if found is None:
            raise WireguardError(f"device {process.device} is not there yet")
        if found.kind != TUN_KIND:
            raise _in_the_way(process.device, found.kind)
        if process.serves():
            process.trim_log()
            return
        if process.uapi.answers():
            process.stop()  # its device was deleted: it ends soon, but still holds the UDP port
        try:
            process.start()
        except TunBusyError:
            process.stop()  # its socket was deleted, or the daemon died while starting it
            process.start()
        log.info("started wireguard-go for %s", process.device)

    def _drop(self, process: WireguardProcess) -> None:
        """End the process of a device that the config no longer has."""
        if process.directory.exists() and (process.uapi.answers() or process.log.exists()):
            process.stop()
            process.forget()

    def _is_there(self, name: str) -> bool:
        if not self.in_kernel:
            return self.processes[name].uapi.answers()
        found = find_device(name)
        return found is not None and found.kind == KERNEL_KIND

    # -- peers -------------------------------------------------------------------------

    def _changes(
        self, own: Lease, peers: Sequence[Lease], underlay: Underlay
    ) -> list[tuple[str, DeviceChange]]:
        key = KeyFile(self.state_dir).known_as(published_key(own.attributes))
        wanted = wanted_devices(self.config, key.private if key else None, own, peers, underlay)
        self._report(wanted.problems)
        changes = []
        for name, device in wanted.devices.items():
            found = self.control(name).read() if self._is_there(name) else WireguardDevice()
            memory = self._memory[name]
            learned = memory.learned(device.peers, found.peers, time.time())
            changes.append((name, device_change(device, found, learned)))
        return changes

    def _write(self, name: str, change: DeviceChange) -> None:
        try:
            self.control(name).write(change)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                port = self.config.ports[name]
                text = f"UDP port {port} is in use by {port_owner('udp', port)}"
                mend = "stop it, or set another port in Backend"
                raise WireguardError(errno.EADDRINUSE, f"{text}; {mend}") from None
            raise

    def _report(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self._reported:
                log.warning("%s", problem)
        self._reported = set(problems)

    @contextlib.contextmanager
    def _recording_problems(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._problem = f"wireguard: {error}"
            raise
        self._problem = None


def _in_the_way(name: str, kind: str) -> WireguardError:
    return WireguardError(
        f"device {name} exists and is of type {kind or 'hardware'}: rename or remove it"
    )
