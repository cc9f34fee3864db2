# SPDX-License-Identifier: Apache-2.0
"""Puts back what pods need in the tables of `cni.pod.firewall` and another program has changed.

Rules are made as they were; of the elements only what is missing is added, as they go with the DEL
that owns them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from base.errors import FlatmeshError
from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.host import PluginHost
from cni.pod import firewall
from cni.pod.naming import PLUGIN
from hostnet.nft import tables
from hostnet.nft.messages import FAMILIES, NFT_MSG_NEWSETELEM
from hostnet.nft.sets import NftElement, NftSet, SetSocket
from hostnet.nft.table_text import is_as_made, sets_as_made

LOCK_TIMEOUT = 0.0  # seconds: whoever holds the lock is at work, and may be a DEL


def concerns_pods(kind: int, family: int, table: str) -> bool:
    """Whether the pods' tables lost something. Fits `hostnet.nft.watch.Concerns`."""
    ours = table == firewall.TABLE and family in (FAMILIES["inet"], FAMILIES["bridge"])
    return ours and kind != NFT_MSG_NEWSETELEM


def restore(host: PluginHost) -> tuple[list[str], list[str]]:
    """Add what is missing; returns what was done, and what failed, a line each.

    Raises NetlinkError, NftError, CniError.
    """
    store = AttachmentStore(host)
    wanted = [(record, found) for record in store.records() if (found := _wanted(record))]
    if not wanted:
        return [], []  # nftables is not asked every few seconds where no pod needs it
    lines, failures = _restore_rules(), []
    present: dict[NftSet, frozenset[NftElement]] = {}
    with SetSocket() as sets:

        def is_there(one: NftElement) -> bool:
            if one.set not in present:
                present[one.set] = sets.elements(one.set)
            return one in present[one.set]

        for record, found in wanted:
            for what, elements, _ in found:
                if all(map(is_there, elements)):
                    continue
                lines.append(f"# {record.host_ifname}: {what} put back")
                try:
                    with hold_lock(host, PLUGIN, record.key, LOCK_TIMEOUT):
                        _add(store.find(record.key), what)
                except (FlatmeshError, OSError) as error:
                    failures.append(f"{record.host_ifname}: {what}: {error}")
    return lines, failures


def _restore_rules() -> list[str]:
    """Make the rules of the tables that are there what they were; an ADD makes a missing table."""
    lines = []
    there = tables.list_tables()
    for family, body in firewall.BODIES.items():
        if (family, firewall.TABLE) not in there:
            continue
        found = tables.list_table(family, firewall.TABLE) or ""
        made = tables.normal_form(family, firewall.TABLE, body)
        if not is_as_made(found, made):
            tables.replace_table(family, firewall.TABLE, body, keep=sets_as_made(found, made))
            lines.append(f"nft replace table {family} {firewall.TABLE}")
    return lines


def _add(record: AttachmentRecord | None, what: str) -> None:
    for each, _, add in _wanted(record) if record is not None else ():
        if each == what:
            add()


def _wanted(record: AttachmentRecord) -> list[tuple[str, list[NftElement], Callable[[], None]]]:
    """What a pod needs: its name, its elements, and what adds them."""
    found: list[tuple[str, list[NftElement], Callable[[], None]]] = []
    if not record.ready or record.plugin != PLUGIN:
        return found
    addresses, checked = record.metadata.get("masquerade"), record.metadata.get("guard")
    if isinstance(addresses, list):
        elements = firewall.masquerade_elements(addresses)
        found.append(("masquerade", elements, partial(firewall.add_masquerade, addresses)))
    if isinstance(checked, list):
        elements = firewall.spoof_check_elements(*checked)
        found.append(("MAC check", elements, partial(firewall.add_mac_spoof_check, *checked)))
    return found
