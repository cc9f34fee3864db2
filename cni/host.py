# SPDX-License-Identifier: Apache-2.0
"""Where the plugins find this host's files, and what the daemon tells them about its health.

The daemon makes one `PluginHost` with its own paths and a live `status`. An executable without a
daemon makes it from its environment. Nothing else in the plugins differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from base.paths import (
    ADDRESS_STORE,
    CNI_SOCKET,
    HOST_LOCAL_DIR,
    RUN_DIR,
    STATE_DIR,
    SUBNET_FILE,
)
from cni.concurrency_limit import ConcurrencyLimit
from cni.errors import NOT_AVAILABLE, NOT_AVAILABLE_AND_PODS_AFFECTED, CniError
from cni.set_aside import read_set_aside

if TYPE_CHECKING:
    from threading import Event

    from cni.cidr import Cidr
    from ipam.address_recovery import FindLiving
    from ipam.address_store import AddressStore

ATTACH_TIMEOUT = 5.0
"""Seconds that an ADD waits for the daemon to attach the pod to a switch."""


class HostStatus(NamedTuple):
    """Whether pods can be served now, as the daemon knows it."""

    problem: str | None = None
    """One line: why an ADD can't be served (no lease yet, backend down); None: it can."""
    pods_affected: bool = False
    """Whether running pods may have lost connectivity: CNI STATUS code 51 rather than 50."""


def healthy() -> HostStatus:
    """The status where there is no daemon: no reason is known against an ADD."""
    return HostStatus()


@dataclass(frozen=True, slots=True)
class PluginHost:
    """One host, as the plugins see it. Any thread may use it."""

    run_dir: Path = Path(RUN_DIR)
    """Cleared by a reboot: locks, the socket, `attach.json`."""
    state_dir: Path = Path(STATE_DIR)
    """Survives a reboot: the address store."""
    subnet_file: Path = Path(SUBNET_FILE)
    host_local_dir: Path = Path(HOST_LOCAL_DIR)
    """Where the reference's host-local plugin keeps what it has given."""
    status: Callable[[], HostStatus] = field(default=healthy)
    on_pods_changed: Callable[[], Event | None] | None = None
    """Called after each ADD, DEL and GC that changed something. It must not raise; where the
    daemon attaches pods to a switch itself, it returns what is set when that is done."""

    remove_from_guard: Callable[[Any], None] | None = None
    """Takes the elements of a deleted pod (`cni.pod.source_guard.GuardedPod`) out of the source
    guard, now or later; None: the call does it itself (`cni.socket.guard_removals`)."""

    protect_pod: Callable[[str, Sequence[str]], None] | None = None
    """Waits until the kernel has the network policies of a new pod, by its name in Kubernetes and
    its addresses; None: there are none. It must not raise."""

    send_frames: Callable[[str, Sequence[bytes]], None] | None = None
    """Sends frames out of a device, of the daemon's socket; None: the call opens its own."""

    find_living: FindLiving | None = None
    """Finds the host's attachments when the address store is new (`cni.pod.living`)."""
    compare_store: bool = False
    """Whether a store is compared with them whenever it is opened first: in a daemon."""

    answers: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """Files with results on their way to a runtime: descriptors (`cni.pod.unanswered`)."""

    stores: dict[Path, AddressStore] = field(default_factory=dict, repr=False, compare=False)
    """The address stores that are open, by their file."""

    concurrency: ConcurrencyLimit = field(
        default_factory=ConcurrencyLimit, repr=False, compare=False
    )
    """The server holds a slot for each call; plugins release it while they wait."""

    def address_store(self) -> AddressStore:
        """The store of pods' addresses, opened once; any thread may use it."""
        from ipam.address_store import AddressStore  # noqa: PLC0415 - 10 ms that VERSION needn't pay
        from ipam.host_local import addresses_of_host_local  # noqa: PLC0415

        path = self.state_dir / ADDRESS_STORE
        # Not durable: a power cut is a reboot, after which no pod holds an address, so there
        # is no reason to wait for the disk.
        store = self.stores.get(path)
        return store or self.stores.setdefault(
            path,
            AddressStore(
                path,
                durable=False,
                find_living=self.find_living,
                compare=self.compare_store,
                held_elsewhere=lambda: addresses_of_host_local(self.host_local_dir),
            ),
        )

    def set_aside(self) -> tuple[Cidr, ...]:
        """Parts of the lease that no pod gets an address of. Raises CniError (50)."""
        return read_set_aside(self.state_dir)

    def with_state_dir(self, state_dir: Path | None) -> PluginHost:
        """The same host with its address store in another directory; None: in the same."""
        if state_dir is None or state_dir == self.state_dir:
            return self
        return replace(self, state_dir=state_dir, find_living=None)

    def require_healthy(self) -> None:
        """Raise CniError (50, 51) when the daemon knows why an ADD can't be served."""
        status = self.status()
        if status.problem:
            affected = status.pods_affected
            code = NOT_AVAILABLE_AND_PODS_AFFECTED if affected else NOT_AVAILABLE
            raise CniError(code, status.problem)

    def pods_changed(self) -> None:
        """Tell the daemon that a pod came or went, and wait until it is attached."""
        attached = self.on_pods_changed() if self.on_pods_changed is not None else None
        if attached is not None:  # a pod that starts before it is attached finds no network
            with self.concurrency.released():
                attached.wait(ATTACH_TIMEOUT)

    def protect(self, pod: str, addresses: Sequence[str]) -> None:
        """Have the daemon enforce a new pod's network policies before anybody reaches it."""
        if self.protect_pod is not None and addresses:
            with self.concurrency.released():
                self.protect_pod(pod, addresses)

    def close(self) -> None:
        """Close the address stores."""
        while self.stores:
            self.stores.popitem()[1].close()


def host_from_environment(environment: Mapping[str, str]) -> PluginHost:
    """The host that FLATMESH_RUN_DIR, FLATMESH_STATE_DIR and the other variables describe."""
    return PluginHost(
        Path(environment.get("FLATMESH_RUN_DIR") or RUN_DIR),
        Path(environment.get("FLATMESH_STATE_DIR") or STATE_DIR),
        Path(environment.get("FLATMESH_SUBNET_FILE") or SUBNET_FILE),
        Path(environment.get("FLATMESH_HOST_LOCAL_DIR") or HOST_LOCAL_DIR),
    )


def socket_path(environment: Mapping[str, str]) -> str:
    """Where the daemon's socket is: FLATMESH_SOCKET, or cni.sock in the run directory."""
    given = environment.get("FLATMESH_SOCKET")
    return given or f"{environment.get('FLATMESH_RUN_DIR') or RUN_DIR}/{CNI_SOCKET}"
