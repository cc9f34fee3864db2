# SPDX-License-Identifier: Apache-2.0
"""An address store that is lost, emptied or older than the pods: no address is given twice."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import REFERENCE, SUBNET_ENV, CniHost, MakeConf, addresses

FILE = "addresses.sqlite"
SMALL = SUBNET_ENV.replace("10.5.72.1/22", "10.5.72.1/29")
"""Five addresses for pods: whoever starts from the first again clashes at once."""


def remove(file: Path) -> None:
    for each in file.parent.glob(f"{FILE}*"):
        each.unlink()


def truncate(file: Path) -> None:
    file.write_bytes(b"")


def empty_tables(file: Path) -> None:
    with sqlite3.connect(file) as db:
        db.execute("DELETE FROM address")
        db.execute("DELETE FROM attachment")
        db.execute("DELETE FROM given_last")
    db.close()


def restore_older(file: Path) -> None:
    """The copy that `prepared` made before there was a pod."""
    remove(file)
    shutil.copy(file.parent / "older", file)


LOSSES: dict[str, Callable[[Path], None]] = {
    "removed": remove,
    "truncated": truncate,
    "emptied": empty_tables,
    "older": restore_older,
}
CASES = [
    *((how, who) for how in ("removed", "truncated") for who in ("daemon", "running", "fallback")),
    *((how, who) for how in ("emptied", "older") for who in ("daemon", "running", "fallback")),
]


def prepared(host: CniHost, conf: MakeConf) -> None:
    """A host with a store and a copy of it, no pods."""
    (host.directory / "subnet.env").write_text(SMALL)
    host.call("ADD", conf(), "first", host.pod()).result()
    host.call("DEL", conf(), "first", "").result()
    state = host.directory / "state"
    with sqlite3.connect(state / FILE) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    shutil.copy(state / FILE, state / "older")


@pytest.mark.parametrize(("how", "who"), CASES)
def test_addresses_of_living_pods_are_not_given_again(
    own_host: CniHost, container: str, conf: MakeConf, how: str, who: str
) -> None:
    host = own_host
    prepared(host, conf)
    if who == "running":
        host.serve()
    pods = {f"{container}-{n}": host.pod() for n in range(3)}
    asked = {"runtimeConfig": {"mac": "0a:00:00:00:00:07"}}
    for number, (name, pod) in enumerate(pods.items()):
        host.call("ADD", conf(**(asked if number == 0 else {})), name, pod).result()
    # the pod may do with its interface what it likes: what it was given is held
    host.run("ip", "addr", "flush", "dev", "eth0", "scope", "global", pod=pods[f"{container}-1"])
    held = sorted(host.held())
    assert len(held) == 6
    LOSSES[how](host.directory / "state" / FILE)
    if who == "daemon":
        host.serve()
    more = {f"{container}-new{n}": host.pod() for n in range(2)}
    for name, pod in more.items():
        host.call("ADD", conf(), name, pod).result()
        assert not {a.partition("/")[0] for a in addresses(host, pod)} & set(held)
    assert "no free address" in host.call("ADD", conf(), "c-x", host.pod()).refused(101)
    assert {r[1] for r in host.records()} == pods.keys() | more.keys()
    for name, pod in (pods | more).items():
        host.call("DEL", conf(), name, pod).result()
    assert not host.records()
    assert not host.host_interfaces()
    ports = host.run("nft", "list", "set", "bridge", "flatmesh_guard", "ports").stdout
    if who == "fallback":  # the daemon takes them out a second later
        assert "elements" not in ports


def test_what_the_records_said_is_found_again(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    from ipam.address_store import AddressStore, Attachment

    def record() -> Any:
        with AddressStore(host.directory / "state" / FILE) as store:
            return store.find(Attachment("pods", container, "eth0"))

    host, pod = own_host, own_host.pod()
    host.serve()
    config = conf(spoofCheck=False, ipMasq=True, macspoofchk=True)
    result = host.call("ADD", config, container, pod).result()
    before = record()
    remove(host.directory / "state" / FILE)
    host.call("CHECK", {**config, "prevResult": result}, container, pod).result()
    after = record()
    for what in ("attachment", "state", "addresses", "netns", "host_ifname"):
        assert getattr(before, what) == getattr(after, what)
    for what in ("plugin", "mac", "ips", "masquerade", "guard"):
        assert before.metadata[what] == after.metadata[what]
    for what in ("bridge", "check", "trunk"):
        assert before.metadata["sourceGuard"][what] == after.metadata["sourceGuard"][what]
    host.call("DEL", config, container, pod).result()
    for table, name in (("inet", "masq4"), ("bridge", "guarded"), ("bridge", "allowed")):
        listed = host.run("nft", "list", "set", table, "flatmesh_cni", name).stdout
        assert "elements" not in listed


@pytest.mark.parametrize("guarded", [True, False])
def test_a_pod_gets_no_address_that_another_was_given(
    own_host: CniHost, container: str, conf: MakeConf, guarded: bool
) -> None:
    """A pod adds its neighbour's address before the store is lost: it may not send from it then."""
    host, one, other = own_host, own_host.pod(), own_host.pod()
    host.call("ADD", conf(), f"{container}-1", one).result()
    host.call("ADD", conf(), f"{container}-2", other).result()
    (stolen,) = (a for a in addresses(host, other) if ":" not in a)
    host.run("ip", "addr", "add", stolen, "dev", "eth0", pod=one)
    if not guarded:  # as where pods are ports of Open vSwitch
        host.run("nft", "delete", "table", "bridge", "flatmesh_guard")
    remove(host.directory / "state" / FILE)
    host.serve()
    host.call("STATUS", conf(cniVersion="1.1.0")).result()
    held = host.held()
    assert len(held) == len(set(held)) == 4
    from ipam.address_store import AddressStore

    with AddressStore(host.directory / "state" / FILE) as store:
        holder = {str(a): r.attachment.container for r in store.list() for a in r.addresses}
    assert holder[stolen.partition("/")[0]] == f"{container}-2"


@pytest.mark.skipif(not (REFERENCE / "bridge").exists(), reason="needs the reference bridge")
def test_pods_of_other_plugins_keep_the_addresses_of_the_lease(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    host, pod = own_host, own_host.pod()
    (host.directory / "subnet.env").write_text(SMALL)
    bridge = {
        "cniVersion": "1.0.0",
        "name": "ref",
        "type": "bridge",
        "bridge": "brref",
        "ipam": {"type": "flatmesh-ipam"},
    }
    host.serve()
    host.call("ADD", bridge, container, pod, plugin="bridge").result()
    held = addresses(host, pod)
    remove(host.directory / "state" / FILE)
    new = host.pod()
    host.call("ADD", conf(), f"{container}-new", new).result()
    assert not addresses(host, new) & held
    host.call("DEL", bridge, container, pod, plugin="bridge").result()
    host.kill_server()
    host.serve()
    host.until(lambda: {r[1] for r in host.records()} == {f"{container}-new"}, "it is freed")
    host.call("DEL", conf(), f"{container}-new", new).result()
