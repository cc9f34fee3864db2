# SPDX-License-Identifier: Apache-2.0
"""The address store: real files, real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipam.address_store import (
    Address,
    AddressStore,
    AddressStoreError,
    AddressTakenError,
    Attachment,
    AttachmentExistsError,
    NoFreeAddressError,
)


@dataclass(frozen=True)
class Range:
    family: int
    first: int
    last: int
    gateway: int = 0


def span(first: str, last: str, gateway: str = "") -> Range:
    low = ip_address(first)
    return Range(
        low.version, int(low), int(ip_address(last)), int(ip_address(gateway)) if gateway else 0
    )


SMALL = [[span("10.5.1.1", "10.5.1.4", "10.5.1.1")]]  # three to give
DUAL = [
    [span("10.5.1.2", "10.5.1.254")],
    [span("fd05::2", "fd05::ffff:ffff:ffff:ffff")],
]


def pod(name: str, network: str = "pods", ifname: str = "eth0") -> Attachment:
    return Attachment(network, name, ifname)


def texts(addresses: tuple[Address, ...]) -> list[str]:
    return [str(address) for address in addresses]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "addresses.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[AddressStore]:
    with AddressStore(path) as opened:
        yield opened


def test_an_attachment_gets_one_address_of_every_set(store: AddressStore) -> None:
    assert texts(store.reserve(pod("a"), DUAL)) == ["10.5.1.2", "fd05::2"]
    assert texts(store.reserve(pod("b"), DUAL)) == ["10.5.1.3", "fd05::3"]


def test_the_gateway_is_never_given_and_the_pool_ends(store: AddressStore) -> None:
    given_out = [texts(store.reserve(pod(name), SMALL))[0] for name in "abc"]
    assert given_out == ["10.5.1.2", "10.5.1.3", "10.5.1.4"]
    with pytest.raises(NoFreeAddressError, match=r"network pods .* 10\.5\.1\.1-10\.5\.1\.4"):
        store.reserve(pod("d"), SMALL)
    with pytest.raises(NoFreeAddressError):
        store.require_room("pods", SMALL)
    assert store.find(pod("d")) is None  # all or nothing


def test_a_freed_address_is_the_last_to_be_given_again(store: AddressStore) -> None:
    for name in "ab":
        store.reserve(pod(name), SMALL)
    store.release(pod("a"))
    assert texts(store.reserve(pod("c"), SMALL)) == ["10.5.1.4"]
    assert texts(store.reserve(pod("d"), SMALL)) == ["10.5.1.2"]  # round and round
    store.release(pod("b"))
    store.release(pod("c"))
    assert texts(store.reserve(pod("e"), SMALL)) == ["10.5.1.3"]
    store.require_room("pods", SMALL)


def test_the_search_goes_on_in_a_new_process(path: Path) -> None:
    with AddressStore(path) as store:
        store.reserve(pod("a"), SMALL)
        store.release(pod("a"))
    with AddressStore(path) as store:
        assert texts(store.reserve(pod("b"), SMALL)) == ["10.5.1.3"]


def test_several_ranges_in_a_set_are_filled_one_after_another(store: AddressStore) -> None:
    sets = [[span("10.5.1.2", "10.5.1.3"), span("10.5.2.2", "10.5.2.3")]]
    given_out = [texts(store.reserve(pod(name), sets))[0] for name in "abcd"]
    assert given_out == ["10.5.1.2", "10.5.1.3", "10.5.2.2", "10.5.2.3"]
    store.release(pod("b"))
    assert texts(store.reserve(pod("e"), sets)) == ["10.5.1.3"]


def test_two_sets_over_one_range_give_two_addresses(store: AddressStore) -> None:
    assert texts(store.reserve(pod("a"), [SMALL[0], SMALL[0]])) == ["10.5.1.2", "10.5.1.3"]


def test_an_adding_attachment_gets_its_addresses_again(path: Path) -> None:
    with AddressStore(path) as store:
        first = store.reserve(pod("a"), DUAL, metadata={"try": 1})
        store.reserve(pod("b"), DUAL)
    with AddressStore(path) as store:  # the process that tried was killed
        assert store.reserve(pod("a"), DUAL, metadata={"try": 2}) == first
        record = store.find(pod("a"))
        assert record is not None
        assert record.metadata == {"try": 2}
        assert record.state == "adding"


def test_addresses_that_no_longer_fit_are_not_given_again(store: AddressStore) -> None:
    store.reserve(pod("a"), [[span("10.9.9.2", "10.9.9.9")]])
    assert texts(store.reserve(pod("a"), SMALL)) == ["10.5.1.2"]


def test_a_ready_attachment_is_refused_and_kept(store: AddressStore) -> None:
    store.reserve(pod("a"), SMALL)
    assert store.update(
        pod("a"), state="ready", host_ifname="veth1", metadata={"result": {"ips": []}}
    )
    with pytest.raises(AttachmentExistsError, match=r"eth0 of container a .* 10\.5\.1\.2"):
        store.reserve(pod("a"), SMALL)
    record = store.find(pod("a"))
    assert record is not None
    assert (record.state, record.host_ifname) == ("ready", "veth1")
    assert record.metadata == {"result": {"ips": []}}
    assert texts(record.addresses) == ["10.5.1.2"]


def test_one_container_in_two_networks_and_twice_in_one(store: AddressStore) -> None:
    store.reserve(pod("a"), SMALL)
    store.reserve(pod("a", "others"), SMALL)
    store.reserve(pod("a", ifname="eth1"), SMALL)
    everything = [texts(record.addresses)[0] for record in store.list()]
    assert everything == ["10.5.1.2", "10.5.1.3", "10.5.1.4"]  # one host, one pool
    assert [record.attachment for record in store.list("others")] == [pod("a", "others")]


def test_pools_are_apart(store: AddressStore) -> None:
    assert texts(store.reserve(pod("a"), SMALL, pool="one")) == ["10.5.1.2"]
    assert texts(store.reserve(pod("b"), SMALL, pool="two")) == ["10.5.1.2"]


def test_release_says_what_it_freed_and_does_it_once(store: AddressStore) -> None:
    store.reserve(pod("a"), SMALL, netns="/run/netns/x")
    gone = store.release(pod("a"))
    assert gone is not None
    assert (gone.netns, texts(gone.addresses)) == ("/run/netns/x", ["10.5.1.2"])
    assert store.release(pod("a")) is None
    assert store.list() == []
    assert not store.update(pod("a"), state="ready")


def test_requested_addresses(store: AddressStore) -> None:
    wanted = (4, int(ip_address("10.5.1.77")))
    assert texts(store.reserve(pod("a"), DUAL, [wanted])) == ["10.5.1.77", "fd05::2"]
    with pytest.raises(AddressTakenError, match=r"10\.5\.1\.77 is held by another pod"):
        store.reserve(pod("b"), DUAL, [wanted])
    assert store.find(pod("b")) is None
    with pytest.raises(AddressTakenError, match=r"10\.6\.0\.1 is in none of the ranges"):
        store.reserve(pod("b"), DUAL, [(4, int(ip_address("10.6.0.1")))])
    with pytest.raises(AddressTakenError, match="in none"):
        store.reserve(pod("b"), SMALL, [(4, int(ip_address("10.5.1.1")))])  # the gateway
    # a request doesn't move the place where the search goes on
    assert texts(store.reserve(pod("c"), DUAL)) == ["10.5.1.2", "fd05::3"]


def test_gc_touches_one_network_only(store: AddressStore) -> None:
    for name in "abc":
        store.reserve(pod(name), DUAL)
    store.reserve(pod("d", "others"), DUAL)
    keep = {("b", "eth0"), ("c", "eth9")}
    assert [r.attachment.container for r in store.stale("pods", keep)] == ["a", "c"]
    for record in store.stale("pods", keep):
        assert store.release(record.attachment) == record
    assert [r.attachment.container for r in store.list()] == ["b", "d"]


def test_a_reboot_frees_what_the_last_boot_held(path: Path) -> None:
    with AddressStore(path, boot_id="monday") as store:
        store.reserve(pod("a"), SMALL)
        store.update(pod("a"), state="ready")
    with AddressStore(path, boot_id="monday") as store:
        assert len(store.list()) == 1
    with AddressStore(path, boot_id="tuesday") as store:
        assert store.list() == []
        assert texts(store.reserve(pod("b"), SMALL)) == ["10.5.1.3"]


def test_a_damaged_store_is_refused_in_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    with pytest.raises(AddressStoreError) as refusal:
        AddressStore(path).list()
    assert str(path) in str(refusal.value)
    assert "move it away" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_store_of_the_future_is_left_alone(path: Path) -> None:
    with AddressStore(path) as store:
        store.reserve(pod("a"), SMALL)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(AddressStoreError, match="format 99"):
        AddressStore(path).list()


def test_a_store_that_was_moved_away_is_made_anew(store: AddressStore, path: Path) -> None:
    store.reserve(pod("a"), SMALL)
    path.rename(path.with_suffix(".broken"))
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").rename(f"{path}.broken{suffix}")
    assert store.list() == []
    assert texts(store.reserve(pod("b"), SMALL)) == ["10.5.1.2"]


def test_a_directory_that_can_not_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AddressStoreError, match="file"):
        AddressStore(tmp_path / "file" / "store.sqlite").list()


def test_a_store_somebody_else_holds_is_one_line(path: Path, store: AddressStore) -> None:
    store.reserve(pod("a"), SMALL)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(AddressStoreError, match="another process holds it"):
        AddressStore(path, lock_timeout=0.05).reserve(pod("b"), SMALL)
    other.close()
    store.reserve(pod("b"), SMALL)


def test_threads_share_one_store_without_duplicates(store: AddressStore) -> None:
    found: list[str] = []

    def work(number: int) -> None:
        for round_number in range(5):
            found.extend(texts(store.reserve(pod(f"{number}-{round_number}"), DUAL)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 80


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory where a file is made so fast that others look in the middle of it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def test_threads_that_make_the_file_together_share_it(in_memory: Path) -> None:
    """The first ADDs of a host come at once; one file was removed by another thread's open."""
    for number in range(150):
        found: list[str] = []
        together = threading.Barrier(8)
        with AddressStore(in_memory / f"{number}.sqlite", durable=False) as store:

            def work(
                thread: int,
                store: AddressStore = store,
                found: list[str] = found,
                together: threading.Barrier = together,
            ) -> None:
                together.wait()
                for count in range(2):
                    found.extend(texts(store.reserve(pod(f"{thread}-{count}"), DUAL)))

            threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(found) == len(set(found)) == 32


MANY = """
import sys
from pathlib import Path
from ipam.address_store import AddressStore, Attachment
class R: family, first, last, gateway = 4, 1, 1 << 30, 0
with AddressStore(Path(sys.argv[1])) as store:
    for round_number in range(10):
        store.reserve(Attachment("pods", f"{sys.argv[2]}-{round_number}", "eth0"), [[R], [R]])
"""


def test_processes_share_one_file_without_duplicates(path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", MANY, str(path), str(number)])
        for number in range(3)
    ]
    assert [worker.wait() for worker in workers] == [0] * 3
    with AddressStore(path) as store:
        held = [address for record in store.list() for address in record.addresses]
    assert len(held) == len(set(held)) == 60


def test_a_killed_process_leaves_all_or_nothing(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from ipam.address_store import AddressStore, Attachment\n"
        "class R: family, first, last, gateway = 4, 1, 1 << 30, 0\n"
        "store = AddressStore(Path(sys.argv[1]))\n"
        "n = 0\n"
        "while True:\n"
        "    store.reserve(Attachment('pods', str(n), 'eth0'), [[R], [R]]); n += 1\n"
        "    print(n, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    with AddressStore(path) as store:
        records = store.list()
        assert len(records) in (said[-1], said[-1] + 1)  # what was told is there
        assert all(len(record.addresses) == 2 for record in records)
        store.reserve(pod("next"), SMALL)


ACTION = st.tuples(st.sampled_from(["reserve", "ready", "release"]), st.integers(0, 5))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ACTION, max_size=25))
def test_whatever_happens_nobody_shares_an_address(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    held: dict[int, tuple[Address, ...]] = {}
    ready: set[int] = set()
    with AddressStore(tmp_path_factory.mktemp("store") / "store.sqlite") as store:
        for action, number in actions:
            attachment = pod(str(number))
            if action == "release":
                gone = store.release(attachment)
                assert (gone.addresses if gone else None) == held.pop(number, None)
                ready.discard(number)
            elif action == "ready":
                assert store.update(attachment, state="ready") == (number in held)
                ready |= {number} & held.keys()
            elif number in ready:
                with pytest.raises(AttachmentExistsError):
                    store.reserve(attachment, SMALL)
            elif number in held:
                assert store.reserve(attachment, SMALL) == held[number]
            elif len(held) == 3:
                with pytest.raises(NoFreeAddressError):
                    store.reserve(attachment, SMALL)
            else:
                held[number] = store.reserve(attachment, SMALL)
            assert len(set(held.values())) == len(held)
