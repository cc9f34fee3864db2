# SPDX-License-Identifier: Apache-2.0
"""Hosts get new keys, addresses and ports: peers follow, and no packet is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from flannel.wireguard.key import KeyFile
from lab import hosts, processes


@pytest.mark.kernel_short
def test_a_rotated_key_loses_no_packet(any_mesh: Any, stream: Any) -> None:
    first, second = any_mesh.hosts
    old = first.own.attributes.backend_data["PublicKey"]
    with stream(first, second) as out, stream(second, first) as back:
        back.go_on()
        KeyFile(first.directory / "var").ask_rotation()
        leases = [
            host.publish() for host in any_mesh.hosts
        ]  # our device has the new key from here on
        back.go_on()
        changes = second.reconcile(leases)
        assert first.reconcile(leases) == []
        back.go_on()
        assert (out.finish(), back.finish()) == (set(), set())
    new = first.own.attributes.backend_data["PublicKey"]
    assert old != new
    assert changes[-1] == f"wg set flannel-wg peer {old} remove"
    assert second.device().peers.keys() == {new}
    assert any_mesh.reconcile() == [[], []]


def test_all_hosts_rotate_at_once(make_any_mesh: Callable[..., Any]) -> None:
    mesh = make_any_mesh(3)
    mesh.reconcile()
    mesh.assert_all_reach_all()
    for host in mesh.hosts:
        KeyFile(host.directory / "var").ask_rotation()
    mesh.reconcile()
    mesh.assert_all_reach_all()
    assert mesh.reconcile() == [[], [], []]


def test_a_rotation_that_a_crash_interrupted_is_completed(any_mesh: Any) -> None:
    """The new key is in the file, neither device nor lease has it."""
    first, _ = any_mesh.hosts
    KeyFile(first.directory / "var").rotate()
    first.start()
    any_mesh.reconcile()
    any_mesh.assert_all_reach_all()


def test_a_rotation_while_etcd_is_away_takes_effect_when_it_is_back(
    any_mesh: Any, stream: Any
) -> None:
    """The device gets the new key, but the lease can't be changed: the old key is set again."""
    first, second = any_mesh.hosts
    old = first.own
    KeyFile(first.directory / "var").ask_rotation()
    first.publish()
    first.own = old  # etcd did not take it
    first.publish()  # the daemon's next try, and its failure
    first.own = old
    first.reconcile([second.own])
    any_mesh.assert_all_reach_all()
    with stream(first, second) as out, stream(second, first) as back:
        back.go_on()
        assert (out.finish(), back.finish()) == (set(), set())
    any_mesh.reconcile()
    assert first.own.attributes != old.attributes
    any_mesh.assert_all_reach_all()
    assert list((first.directory / "var").iterdir()) == [first.directory / "var/wireguard.key"]


def test_a_host_that_lost_its_disk_comes_back_with_a_new_key(any_mesh: Any) -> None:
    first, second = any_mesh.hosts
    first.run(first.plane.cleanup)
    assert [line.split()[-1] for line in second.reconcile([])] == ["remove"]
    any_mesh.reconcile()
    any_mesh.assert_all_reach_all()


def test_a_changed_port_is_followed(any_mesh: Any) -> None:
    first, _ = any_mesh.hosts
    config = replace(first.backend.config, listen_port=40000)
    first.backend = replace(first.backend, config=config)
    first.plane = first.backend.data_plane()
    changes = any_mesh.reconcile()
    key = first.own.attributes.backend_data["PublicKey"]
    assert changes[0] == ["wg set flannel-wg listen-port 40000"]
    assert changes[1] == [f"wg set flannel-wg peer {key} endpoint {hosts.host_ipv4(1)}:40000"]
    any_mesh.assert_all_reach_all()


def test_a_roaming_peers_endpoint_is_kept(
    any_mesh: Any, on: Callable[..., str], eventually: Callable[..., None]
) -> None:
    """A host sends from another address than its lease's, as behind NAT."""
    first, second = any_mesh.hosts
    key = second.own.attributes.backend_data["PublicKey"]
    on(second.netns, "ip addr del 192.168.64.12/24 dev eth0")
    on(second.netns, "ip addr add 192.168.64.99/24 dev eth0")

    def learned() -> bool:
        ping = ["ping", "-c", "1", "-W", "1", first.address]
        subprocess.run([*processes.enter(second.pod), *ping], capture_output=True, check=False)
        return str(first.device().peers[key].endpoint) == "192.168.64.99:51820"

    # wireguard-go keeps its source address until a handshake is overdue (15 s)
    eventually(learned, "the new address is learned", timeout=90)
    assert first.reconcile([second.own]) == []
    any_mesh.assert_all_reach_all()
    first.start()
    assert first.reconcile([second.own]) == [], "its session lives"
    moved = replace(second.own.attributes, public_ip=IPv4Address("192.168.64.12"))
    assert first.reconcile([replace(second.own, attributes=moved)]) == [], (
        "that is what it said before"
    )
    moved = replace(moved, public_ip=IPv4Address("192.168.64.98"))
    assert first.reconcile([replace(second.own, attributes=moved)]) == [
        f"wg set flannel-wg peer {key} endpoint 192.168.64.98:51820"
    ]
