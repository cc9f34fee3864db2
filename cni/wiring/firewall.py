"""Puts back what pods need in the tables of `cni.pod.firewall` and another program has deleted.

Only what is missing is added: elements go with the DEL that owns them.
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
from hostnet.nft.messages import FAMILIES, NFT_MSG_NEWSETELEM
from hostnet.nft.sets import NftElement, NftSet, SetSocket

LOCK_TIMEOUT = 0.0  # seconds: whoever holds the lock is at work, and may be a DEL


def concerns_pods(kind: int, family: int, table: str) -> bool:
    """Whether the pods' tables lost something. Fits `hostnet.nft.watch.Concerns`."""
    ours = table == firewall.TABLE and family in (FAMILIES["inet"], FAMILIES["bridge"])
    return ours and kind != NFT_MSG_NEWSETELEM


def restore(host: PluginHost) -> tuple[list[str], list[str]]:
    """Add what is missing; returns what was done, and what failed, a line each.

    Raises NetlinkError, CniError.
    """
    store, lines, failures = AttachmentStore(host), [], []
    present: dict[NftSet, frozenset[NftElement]] = {}
    with SetSocket() as sets:

        def is_there(one: NftElement) -> bool:
            if one.set not in present:
                present[one.set] = sets.elements(one.set)
            return one in present[one.set]

        for record in store.records():
            for what, elements, _ in _wanted(record):
                if all(map(is_there, elements)):
                    continue
                lines.append(f"# {record.host_ifname}: {what} put back")
                try:
                    with hold_lock(host, PLUGIN, record.key, LOCK_TIMEOUT):
                        _add(store.find(record.key), what)
                except (FlatmeshError, OSError) as error:
                    failures.append(f"{record.host_ifname}: {what}: {error}")
    return lines, failures


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
