# SPDX-License-Identifier: Apache-2.0
"""The table of the MACs that addresses had last."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ipam import last_macs
from ipam.address_store import Address, AddressStore, Attachment

ONE, OTHER = (Address(4, 0x0A050102 + n) for n in range(2))
POD = Attachment("pods", "c1", "eth0")


def ready(store: AddressStore, mac: str, *addresses: Address) -> None:
    store.update(POD, state="ready", mac=mac, addresses=addresses)


def test_an_address_is_known_by_the_mac_that_it_had_last(tmp_path: Path) -> None:
    with AddressStore(tmp_path / "a.sqlite") as store:
        assert store.last_macs([ONE, OTHER]) == {}
        ready(store, "0a:00:00:00:00:01", ONE, Address(6, 1 << 120))
        ready(store, "0a:00:00:00:00:02", ONE)
        assert store.last_macs([ONE, OTHER]) == {ONE: "0a:00:00:00:00:02"}
    with AddressStore(tmp_path / "a.sqlite", boot_id="another") as store:  # peers outlive a reboot
        assert store.last_macs([ONE]) == {ONE: "0a:00:00:00:00:02"}


def test_a_file_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    with AddressStore(tmp_path / "a.sqlite") as store:
        store.list()
    with sqlite3.connect(tmp_path / "a.sqlite") as db:
        db.execute("DROP TABLE last_mac")
    db.close()
    with AddressStore(tmp_path / "a.sqlite") as store:
        ready(store, "0a:00:00:00:00:01", ONE)
        assert store.last_macs([ONE]) == {ONE: "0a:00:00:00:00:01"}


def test_a_long_list_forgets_addresses_of_ipv6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_macs, "KEPT", 2)
    monkeypatch.setattr(last_macs, "LOOKS", 1)
    ipv6 = [Address(6, (1 << 120) + n) for n in range(3)]
    with AddressStore(tmp_path / "a.sqlite") as store:
        for address in (ONE, OTHER):
            ready(store, "0a:00:00:00:00:01", address)
        assert len(store.last_macs([ONE, OTHER])) == 2
        ready(store, "0a:00:00:00:00:01", *ipv6)
        assert set(store.last_macs([ONE, OTHER, *ipv6])) == {ONE, OTHER}
