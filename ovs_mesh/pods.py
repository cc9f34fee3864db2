"""This host's pods as the switch must know them: from the address book on disk.

The CNI plugins write the book whether or not the daemon runs; so a daemon that was away
learns of every pod at its next look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ipam.addresses import AddressBook
from ovs_mesh.inputs import PodPort

BOOK = "addresses.sqlite"


@dataclass(frozen=True, slots=True)
class PodEntry:
    """A pod in the book."""

    host_link: str
    """The host end of its cable."""
    netns: str
    ifname: str
    mac: str
    addresses: tuple[str, ...]
    """Without prefix length."""

    def at(self, ofport: int | None) -> PodPort:
        """The pod behind a port; None: behind the Linux bridge."""
        return PodPort(self.mac, self.addresses, ofport)


def pods_in_book(state_dir: Path) -> list[PodEntry]:
    """All pods that are ready, in the order of their cables' names. Raises AddressBookError."""
    path = state_dir / BOOK
    if not path.exists():
        return []
    book = AddressBook(path, durable=False)
    try:
        records = book.list()
    finally:
        book.close()
    found = []
    for record in records:
        note: Mapping[str, object] = record.note
        mac, ips = note.get("mac"), note.get("ips")
        if record.state != "ready" or not isinstance(mac, str) or not isinstance(ips, list):
            continue
        addresses = tuple(str(ip).partition("/")[0] for ip in ips)
        found.append(
            PodEntry(record.host_ifname, record.netns, record.attachment.ifname, mac, addresses)
        )
    return sorted(found, key=lambda pod: pod.host_link)
