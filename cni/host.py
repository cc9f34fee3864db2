"""Where the plugins find this host's files, and what they may ask about its health.

The daemon makes one `Host` with its own paths and a live `status`. An executable without a
daemon makes it from its environment: that is all that tells the two paths apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cni.concurrency_limit import Turns

if TYPE_CHECKING:
    from ipam.addresses import AddressBook

RUN_DIR = "/run/flatmesh"
STATE_DIR = "/var/lib/flatmesh"
SUBNET_FILE = "/run/flannel/subnet.env"
SOCKET_NAME = "cni.sock"


@dataclass(frozen=True, slots=True)
class Status:
    """Whether pods can be served now, as the daemon knows it."""

    problem: str | None = None
    """One line: why an ADD can't be served (no lease yet, backend down); None: it can."""
    pods_affected: bool = False
    """Whether pods that run may have lost connectivity: CNI STATUS code 51 rather than 50."""


def no_daemon() -> Status:
    """What is known without a daemon: nothing that speaks against an ADD."""
    return Status()


@dataclass(frozen=True, slots=True)
class Host:
    """One host, as the plugins see it."""

    run_dir: Path = Path(RUN_DIR)
    """Cleared by a reboot: locks, the socket, `attach.json`."""
    state_dir: Path = Path(STATE_DIR)
    """Survives a reboot: the address book."""
    subnet_file: Path = Path(SUBNET_FILE)
    status: Callable[[], Status] = field(default=no_daemon)
    on_pods_changed: Callable[[], None] | None = None
    """Called after each ADD, DEL and GC that changed something; must not raise, and returns
    within seconds: when a switch that plugs pods in itself has taken the pod."""

    books: dict[Path, AddressBook] = field(default_factory=dict, repr=False, compare=False)
    """Address books that are open, by file."""

    turns: Turns = field(default_factory=Turns, repr=False, compare=False)
    """Taken by the server for each call; given up while waiting for somebody else."""

    def address_book(self) -> AddressBook:
        """The pod address book, opened once; any thread may use it."""
        from ipam.addresses import AddressBook  # noqa: PLC0415 - 10 ms that VERSION needn't pay

        path = self.state_dir / "addresses.sqlite"
        # A power cut is a reboot, after which nobody holds an address: no need to wait for
        # the disk.
        book = self.books.get(path)
        return book or self.books.setdefault(path, AddressBook(path, durable=False))

    def at(self, state_dir: Path | None) -> Host:
        """The same host with its address book elsewhere; None: where it is."""
        return self if state_dir is None else replace(self, state_dir=state_dir)

    def close(self) -> None:
        """Close the address books."""
        while self.books:
            self.books.popitem()[1].close()


def from_environment(environment: Mapping[str, str]) -> Host:
    """The host that FLATMESH_RUN_DIR, FLATMESH_STATE_DIR and FLATMESH_SUBNET_FILE describe."""
    return Host(
        Path(environment.get("FLATMESH_RUN_DIR") or RUN_DIR),
        Path(environment.get("FLATMESH_STATE_DIR") or STATE_DIR),
        Path(environment.get("FLATMESH_SUBNET_FILE") or SUBNET_FILE),
    )


def socket_path(environment: Mapping[str, str]) -> str:
    """Where the daemon's socket is: FLATMESH_SOCKET, or cni.sock in the run directory."""
    given = environment.get("FLATMESH_SOCKET")
    return given or f"{environment.get('FLATMESH_RUN_DIR') or RUN_DIR}/{SOCKET_NAME}"
