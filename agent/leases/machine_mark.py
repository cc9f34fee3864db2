# SPDX-License-Identifier: Apache-2.0
"""Whether the state directory was made on this machine, or came here in an image or a copy.

A virtual machine that is cloned, and a disk that is restored elsewhere, bring the state of another
host along: which lease was its, and its WireGuard key. So a file beside them says which machine
made them, by four things, of which no kind of copy keeps all:

    machine-id      kept by clones and snapshots; another one where only the directory was copied
    product UUID    the hypervisor's or the board's; a clone gets another one
    network cards   their MACs; a clone gets others. One that is still there is enough: cards come
                    and go
    inode           of the file itself; a copied file gets another one

A difference proves nothing: a card is exchanged, a backup is restored on the machine that it is of.
So what follows is only doubt: whoever holds the lease is asked before it is taken for ours
(`ipam.lease_holder`), and a new WireGuard key is made.

machine-id(5), /sys/class/dmi/id/product_uuid (Documentation/ABI/testing/sysfs-firmware-dmi-tables).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from base import paths
from base.private_files import open_private
from flannel.wireguard.key import KeyFile
from hostnet.kernel import Kernel
from hostnet.kinds.actual_link import ActualLink
from ipam.lease_memory import LeaseMemory

log = logging.getLogger("agent")
MACHINE_ID, PRODUCT_UUID = Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid")
CARDS = frozenset({"", "veth", "macvlan", "ipvlan", "bond", "team"})
"""Kinds of links that carry a host's own traffic; physical ones have no kind."""
LOOPBACK = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine is known by."""

    machine_id: str = ""
    """SHA-256 in hexadecimal, as machine-id(5) asks for; empty: there is none."""
    product_uuid: str = ""
    """The same."""
    cards: frozenset[str] = frozenset()
    """MACs."""


def this_machine(kernel: Kernel) -> Machine:
    """The machine, and the network namespace, that we run in. Raises NetlinkError."""
    return Machine(_digest(MACHINE_ID), _digest(PRODUCT_UUID), cards(kernel.links()))


def cards(links: Iterable[ActualLink]) -> frozenset[str]:
    """The MACs of what may be a network card. Pure.

    Other programs' veth pairs are ports of a bridge; ours have an alias.
    """
    return frozenset(
        link.mac
        for link in links
        if link.kind in CARDS
        and link.mac not in ("", LOOPBACK)
        and not link.alias.startswith("flatmesh")
        and not (link.kind == "veth" and link.master)
    )


def difference(before: Machine, now: Machine) -> str | None:
    """In which one of them differs, in a few words; None: they may be one. Pure."""
    if before.machine_id != now.machine_id:
        return "another machine-id"
    if before.product_uuid != now.product_uuid:
        return "another product UUID"
    if before.cards and now.cards and not before.cards & now.cards:
        return "none of its network cards"
    return None


def doubt_copied_state(state_dir: Path, now: Machine) -> None:
    """Compare the mark with this machine, doubt the state where they differ, and mark it.

    In this order: a daemon that is killed in between doubts once more. A state without a mark is an
    earlier version's: its lease is doubted, its key is kept. A directory that can't be written is
    logged; what can't be kept is not copied either.
    """
    path = state_dir / paths.MACHINE_FILE
    memory, key = LeaseMemory(state_dir / paths.LEASE_FILE), KeyFile(state_dir)
    try:
        reason = _difference_to(path, now)
        if reason is not None:
            memory.doubt()
        if reason:
            if key.path.exists():
                key.ask_rotation()
            log.warning(
                "%s was made on another machine (%s): its lease is ours only if no other host "
                "answers for it",
                state_dir,
                reason,
            )
        if reason is not None or _read(path)[0] != now:
            mark(state_dir, now)
    except OSError as error:
        log.warning("%s: %s: a copy of it would not be noticed", path, error.strerror or error)


def mark(state_dir: Path, machine: Machine) -> None:
    """Say that the state is of this machine. Raises OSError."""
    path = state_dir / paths.MACHINE_FILE
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    with open(temporary, "w", opener=open_private) as file:
        said = {
            "machine_id": machine.machine_id,
            "product_uuid": machine.product_uuid,
            "cards": sorted(machine.cards),
            "inode": os.fstat(file.fileno()).st_ino,  # which it keeps when it is renamed
        }
        file.write(json.dumps(said))
    temporary.replace(path)


def _difference_to(path: Path, now: Machine) -> str | None:
    """As `difference`; empty where there is no mark."""
    before, inode = _read(path)
    if before is None:
        return ""
    reason = difference(before, now)
    return reason or (None if inode == path.stat().st_ino else "the file was copied")


def _read(path: Path) -> tuple[Machine | None, int]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        said = json.loads(path.read_text())
        found = frozenset(map(str, said["cards"]))
        return Machine(str(said["machine_id"]), str(said["product_uuid"]), found), said["inode"]
    return None, 0


def _digest(path: Path) -> str:
    with contextlib.suppress(OSError):
        text = path.read_bytes().strip()
        return hashlib.sha256(b"flatmesh" + text).hexdigest() if text else ""
    return ""
