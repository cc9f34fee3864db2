# SPDX-License-Identifier: Apache-2.0
"""Brings the source guard of all pods in line with the records of their attachments.

The kernel is read before the records: an ADD records a pod before it adds elements, so that what
the kernel has and the records lack belongs to no pod. An element that an ADD adds meanwhile is
added here once more, which changes nothing.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cni.attachment.store import AttachmentRecord
from cni.config.call import AttachmentKey
from cni.pod import source_guard
from cni.pod.naming import host_interface_name
from cni.pod.source_guard import BODY, FAMILY, NAME_SIZE, SETS, TABLE, key_of
from hostnet.netlink.socket import NetlinkError
from hostnet.nft import tables
from hostnet.nft.counters import read_element_counters
from hostnet.nft.sets import NftElement, SetSocket, change_elements
from hostnet.nft.table_text import is_as_made, sets_as_made

Records = Callable[[], Iterable[AttachmentRecord]]
"""Reads the records of all attachments, now."""


class GuardChanges(NamedTuple):
    """What has to be changed."""

    table: bool
    """Whether the table's text is not as it should be, or not there."""
    gone: Sequence[NftElement]
    new: Sequence[NftElement]
    wanted_text: str = ""
    """The table's content, in nft's normal form."""

    def lines(self) -> list[str]:
        """As commands."""
        made = [tables.replacement_line(FAMILY, TABLE, self.wanted_text)] * self.table
        return [*made, *(e.line("delete") for e in self.gone), *(e.line() for e in self.new)]


def changes(
    text: str | None,
    wanted_text: str,
    there: Iterable[NftElement],
    records: Iterable[AttachmentRecord],
    interfaces: Iterable[str],
) -> GuardChanges:
    """Compare. Pure.

    `text` is the table's content in nft's normal form, None where there is none. `interfaces` are
    those of this host. What belongs to one of them that has no record is left alone: its ADD has
    recorded no addresses yet, or the record is in another store (`ipam.dataDir`).
    """
    wanted: set[NftElement] = set()
    unknown = {key_of(name) for name in interfaces}
    for record in records:
        pod = source_guard.recorded(record)
        if pod is not None:
            wanted.update(source_guard.elements(pod))
            unknown.discard(key_of(pod.host_name))
    if text is None and not wanted:
        return GuardChanges(table=False, gone=(), new=())
    found = set(there)
    gone = [one for one in found - wanted if one.element[:NAME_SIZE] not in unknown]
    return GuardChanges(
        text is None or not is_as_made(text, wanted_text),
        sorted(gone),
        sorted(wanted - found),
        wanted_text,
    )


def reconcile(records: Records, *, plan: bool = False) -> list[str]:
    """Read the kernel, then the records, and change what differs; returns the changes as commands.

    With `plan` nothing is changed. Raises NftError, NetlinkError, CniError (5).
    """
    for last in (False, False, True):
        try:
            return _reconcile(records, plan=plan)
        except NetlinkError as error:
            if last or error.errno != errno.ENOENT:
                raise
            # a DEL, or whoever flushes the ruleset, took away meanwhile what we read before
    return []


def _reconcile(records: Records, *, plan: bool) -> list[str]:
    wanted_text = tables.normal_form(FAMILY, TABLE, BODY)
    with SetSocket() as sets:

        def compare(text: str | None) -> GuardChanges:
            there = [e for name in SETS for e in sets.elements(source_guard.nft_set(name))]
            return changes(text, wanted_text, there, records(), _interfaces())

        text = tables.list_table(FAMILY, TABLE)
        todo = compare(text)
        if plan:
            return todo.lines()
        done = todo
        if todo.table:
            tables.replace_table(FAMILY, TABLE, BODY, keep=sets_as_made(text or "", wanted_text))
            done = compare(wanted_text)
        if done.gone or done.new:
            sets.apply(list(change_elements(done.gone, done.new)))
    return todo.lines()


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def refused_packets(records: Iterable[AttachmentRecord]) -> Mapping[AttachmentKey, int]:
    """How many packets of each pod were refused. Raises NetlinkError."""
    counted = read_element_counters(source_guard.nft_set("ports"))
    counts = {}
    for record in records:
        name = key_of(host_interface_name(record.key))
        if name in counted:
            counts[record.key] = counted[name]
    return counts
