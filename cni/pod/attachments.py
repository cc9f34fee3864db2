"""The record of this host's attachments, as the plugins use it.

A thin layer over `ipam.addresses`: CNI's names and error codes on this side, addresses and
transactions on the other.

Addresses of the lease are one pool for all networks of the host, since they are routed to it
from everywhere; ranges that a config brings along are unique within their network, as with
host-local.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cni.errors import ATTACHMENT_EXISTS, IO_FAILURE, NO_ADDRESS, NOT_AVAILABLE, CniError
from cni.request import Key
from cni.result import Ip
from ipam.addresses import (
    Address,
    AddressBook,
    AddressBookError,
    AddressTakenError,
    Attachment,
    AttachmentExistsError,
    NoFreeAddressError,
)
from ipam.addresses import Record as BookRecord

if TYPE_CHECKING:
    from cni.host import Host
    from cni.ipam_config import PoolConfig, RangeSet


@dataclass(frozen=True, slots=True)
class Record:
    """One attachment."""

    key: Key
    ready: bool
    """False: its ADD is under way, or was killed."""
    netns: str
    host_ifname: str
    ips: tuple[str, ...]
    """Addresses from our own book, without prefix length."""
    note: Mapping[str, Any]

    @property
    def plugin(self) -> str:
        """Which of our plugins made it."""
        return str(self.note.get("plugin", ""))


class Attachments:
    """The record of one host."""

    def __init__(self, host: Host) -> None:
        """Use the host's address book, which is made when absent."""
        self._book: AddressBook = host.address_book()

    def find(self, key: Key) -> Record | None:
        """The record of an attachment. Raises CniError (5)."""
        with _coded():
            found = self._book.find(Attachment(*key))
        return None if found is None else _record(found)

    def of(self, network: str | None = None) -> list[Record]:
        """All records, or those of one network. Raises CniError (5)."""
        with _coded():
            return [_record(found) for found in self._book.list(network)]

    def begin(
        self, request_netns: str, key: Key, pool: PoolConfig | None, note: Mapping[str, Any]
    ) -> tuple[Ip, ...]:
        """Record the intent to attach, with an address of each set of the pool.

        Raises CniError (5; 101: none free, or the one asked for is taken; 102: there already).
        """
        with _coded():
            given = self._book.reserve(
                Attachment(*key),
                pool.sets if pool is not None else (),
                pool.requested if pool is not None else (),
                pool=pool.name if pool is not None else "",
                netns=request_netns,
                note=note,
            )
        sets = pool.sets if pool is not None else ()
        return tuple(_ip(address, ranges) for address, ranges in zip(given, sets, strict=True))

    def note(self, key: Key, note: Mapping[str, Any]) -> None:
        """Change what is noted. Raises CniError (5)."""
        with _coded():
            self._book.update(Attachment(*key), note=note)

    def finish(self, key: Key, host_ifname: str, note: Mapping[str, Any]) -> None:
        """Record that the attachment is ready. Raises CniError (5)."""
        with _coded():
            self._book.update(Attachment(*key), state="ready", host_ifname=host_ifname, note=note)

    def forget(self, key: Key) -> None:
        """Give back the addresses and drop the record; none is no error. Raises CniError (5)."""
        with _coded():
            self._book.release(Attachment(*key))

    def require_room(self, network: str, pool: PoolConfig) -> None:
        """Raise CniError (50) when a set has no address left."""
        with _coded(NOT_AVAILABLE):
            self._book.require_room(network, pool.sets, pool=pool.name)


def _record(found: BookRecord) -> Record:
    return Record(
        Key(*found.attachment),
        found.state == "ready",
        found.netns,
        found.host_ifname,
        tuple(map(str, found.addresses)),
        found.note,
    )


def _ip(address: Address, ranges: RangeSet) -> Ip:
    """With the prefix length and gateway of the range that holds it."""
    source = next(r for r in ranges if r.family == address.family and r.holds(address.value))
    return Ip(f"{address}/{source.subnet.length}", source.gateway_text())


@contextlib.contextmanager
def _coded(exhausted: int = NO_ADDRESS) -> Iterator[None]:
    try:
        yield
    except AttachmentExistsError as error:
        raise CniError(ATTACHMENT_EXISTS, str(error)) from None
    except NoFreeAddressError as error:
        raise CniError(exhausted, str(error)) from None
    except AddressTakenError as error:
        raise CniError(NO_ADDRESS, str(error)) from None
    except AddressBookError as error:
        raise CniError(IO_FAILURE, str(error)) from None
