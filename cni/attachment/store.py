# SPDX-License-Identifier: Apache-2.0
"""The record of this host's attachments, in the terms of the plugins.

A thin layer over `ipam.address_store`, which has the transactions: it translates CNI's names and
turns the store's errors into CNI's codes.

What a plugin has to know of an attachment later is kept with it as JSON, the metadata:

| key | value |
|---|---|
| plugin | which of our plugins made the attachment |
| delegate | what the DEL of a delegated IPAM plugin needs: `cni.delegate.remembered` |
| masquerade | addresses that are masqueraded: `["10.5.1.2/24"]` |
| guard | the MAC spoof check: host interface and allowed MAC |
| sourceGuard | what the pod may send: `cni.pod.source_guard`; earlier versions wrote none |
| wiring | how the pod is connected on the host: `cni.wiring.compare`; as sourceGuard |
| mac, ips | the pod's MAC and addresses, for people who read the store |

Versions before this one read the same keys, so they must not be renamed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cni import cidr
from cni.attachment.journal import Deletion, DeletionJournal
from cni.config.call import AttachmentKey
from cni.errors import ATTACHMENT_EXISTS, IO_FAILURE, NO_ADDRESS, NOT_AVAILABLE, CniError
from cni.result.model import ResultAddress
from ipam.address_store import (
    Address,
    AddressStore,
    AddressStoreError,
    AddressTakenError,
    Attachment,
    AttachmentExistsError,
    NoFreeAddressError,
    StoredAttachment,
)

if TYPE_CHECKING:
    from cni.address_pool import AddressPool
    from cni.config.address_range import RangeSet
    from cni.host import PluginHost
    from ipam.address_recovery import FindLiving


class AttachmentRecord(NamedTuple):
    """One attachment."""

    key: AttachmentKey
    ready: bool
    """False: its ADD is still at work, or was killed."""
    netns: str
    host_ifname: str
    ips: tuple[str, ...]
    """Addresses from our own store, without prefix length."""
    metadata: Mapping[str, Any]

    @property
    def plugin(self) -> str:
        """Which of our plugins made the attachment."""
        return str(self.metadata.get("plugin", ""))


class BegunAttachment(NamedTuple):
    """An attachment that is recorded and still has to be made."""

    ips: tuple[ResultAddress, ...]
    """Of each set of the pool one, with its prefix length."""
    last_macs: Mapping[str, str]
    """The MACs that these addresses had last, of those recorded; by address and prefix length."""


class AttachmentStore:
    """The records of one host. Any thread may use it."""

    def __init__(self, host: PluginHost) -> None:
        """Use the host's address store, whose file is made when it is absent."""
        self._store: AddressStore = host.address_store()
        self._journal = DeletionJournal(host.run_dir)

    def find(self, key: AttachmentKey) -> AttachmentRecord | None:
        """The record of an attachment. Raises CniError (5)."""
        with _with_codes():
            stored = self._store.find(Attachment(*key))
        return None if stored is None else _record(stored)

    def records(self, network: str | None = None) -> list[AttachmentRecord]:
        """The records of a network; None: of all networks. Raises CniError (5)."""
        with _with_codes():
            return [_record(stored) for stored in self._store.list(network)]

    def records_of_interface(self, key: AttachmentKey) -> list[AttachmentRecord]:
        """The records of one interface of a container, in any network. Raises CniError (5)."""
        with _with_codes():
            return [_record(r) for r in self._store.list_interface(key.container_id, key.ifname)]

    def begin(
        self,
        netns: str,
        key: AttachmentKey,
        pool: AddressPool | None,
        metadata: Mapping[str, Any],
        in_use: Callable[[Address], bool] = lambda _: False,
    ) -> BegunAttachment:
        """Record that an attachment is being made, with an address of each set of the pool.

        `in_use` tells whether an address is a pod's, whatever is recorded.

        Raises CniError (5; 101: none is free, or the requested one is taken; 102: there is a
        record of this attachment, and it is ready).
        """
        sets = pool.sets if pool is not None else ()
        self.make_up_for_deletions()
        macs: dict[Address, str] = {}
        with _with_codes():
            addresses = self._store.reserve(
                Attachment(*key),
                sets,
                pool.requested if pool is not None else (),
                pool=pool.name if pool is not None else "",
                netns=netns,
                metadata=metadata,
                in_use=in_use,
                macs=macs,
            )
        pairs = zip(addresses, sets, strict=True)
        ips = tuple(_with_prefix(address, ranges) for address, ranges in pairs)
        known = {ip.address: macs[a] for ip, a in zip(ips, addresses, strict=True) if a in macs}
        return BegunAttachment(ips, known)

    def set_metadata(self, key: AttachmentKey, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata. Raises CniError (5)."""
        with _with_codes():
            self._store.update(Attachment(*key), metadata=metadata)

    def finish(
        self,
        key: AttachmentKey,
        host_ifname: str,
        metadata: Mapping[str, Any],
        mac: str = "",
        ips: Sequence[ResultAddress] = (),
    ) -> None:
        """Record that the attachment is ready, and that these addresses have its MAC now.

        Raises CniError (5).
        """
        with _with_codes():
            self._store.update(
                Attachment(*key),
                state="ready",
                host_ifname=host_ifname,
                metadata=metadata,
                mac=mac,
                addresses=[_address(ip) for ip in ips],
            )

    def last_macs(self, ips: Sequence[ResultAddress]) -> dict[str, str]:
        """The MACs that the addresses had last, of those recorded. Raises CniError (5)."""
        by_address = {_address(ip): ip.address for ip in ips}
        with _with_codes():
            found = self._store.last_macs(list(by_address))
        return {by_address[address]: mac for address, mac in found.items()}

    def forget(self, key: AttachmentKey, plugin: str = "") -> None:
        """Free the addresses and delete the record, if there is one.

        What the store can't take now is made up for when it is used next. Raises CniError (5)
        when that can't be written down either.
        """
        try:
            self._store.release(Attachment(*key))
        except AddressStoreError as refused:
            try:
                self._journal.add(Deletion(str(self._store.path), plugin, key))
            except OSError as error:
                raise CniError(IO_FAILURE, f"{refused}; and the journal: {error}") from None

    def make_up_for_deletions(self) -> None:
        """Free what was deleted while the store could not be written. Raises CniError (5)."""
        with _with_codes():
            self._journal.replay(self._store.path, self._delete_late)

    def _delete_late(self, deletion: Deletion) -> None:
        stored = self._store.find(Attachment(*deletion.key))
        if stored is not None and deletion.plugin in ("", _record(stored).plugin):
            self._store.release(stored.attachment)

    def record_missing(self, find_living: FindLiving) -> list[AttachmentKey]:
        """Record attachments that live and are not recorded; returns them. Raises CniError (5)."""
        with _with_codes():
            added = self._store.record_missing(find_living)
        return [AttachmentKey(one.network, one.container, one.ifname) for one in added]

    def require_usable(self) -> None:
        """Raise CniError (50) when no attachment can be recorded."""
        with _with_codes(broken=NOT_AVAILABLE):
            self._store.require_writable()

    def require_free_address(self, network: str, pool: AddressPool) -> None:
        """Raise CniError (50) when a set has no free address, or none can be recorded."""
        with _with_codes(NOT_AVAILABLE, NOT_AVAILABLE):
            self._store.require_room(network, pool.sets, pool=pool.name)


def _record(stored: StoredAttachment) -> AttachmentRecord:
    return AttachmentRecord(
        AttachmentKey(*stored.attachment),
        stored.state == "ready",
        stored.netns,
        stored.host_ifname,
        tuple(map(str, stored.addresses)),
        stored.metadata,
    )


def _address(ip: ResultAddress) -> Address:
    family, value, _ = cidr.parse_cidr(ip.address)
    return Address(family, value)


def _with_prefix(address: Address, ranges: RangeSet) -> ResultAddress:
    """The address with the prefix length and gateway of the range that holds it."""
    source = next(r for r in ranges if r.family == address.family and r.holds(address.value))
    return ResultAddress(f"{address}/{source.subnet.length}", source.gateway_text())


@contextlib.contextmanager
def _with_codes(exhausted: int = NO_ADDRESS, broken: int = IO_FAILURE) -> Iterator[None]:
    """Turn the store's errors into CniErrors.

    `exhausted` is the code for no free address, `broken` that for a store that can't be used.
    """
    try:
        yield
    except AttachmentExistsError as error:
        raise CniError(ATTACHMENT_EXISTS, str(error)) from None
    except NoFreeAddressError as error:
        raise CniError(exhausted, str(error)) from None
    except AddressTakenError as error:
        raise CniError(NO_ADDRESS, str(error)) from None
    except AddressStoreError as error:
        raise CniError(broken, str(error)) from None
