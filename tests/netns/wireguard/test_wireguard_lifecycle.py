# SPDX-License-Identifier: Apache-2.0
"""Daemon and wireguard-go stop, crash and start; devices are changed by hand: all is repaired."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flannel.wireguard.data_plane import WireguardError
from lab import hosts, processes


def test_a_restarted_daemon_finds_all_in_place_and_loses_no_packet(mesh: Any, stream: Any) -> None:
    first, second = mesh.hosts
    before = {key: peer.last_handshake for key, peer in first.device().peers.items()}
    pid = first.pid()
    with stream(first, second) as out, stream(second, first) as back:
        back.go_on()
        first.plane.close()
        first.start()
        assert mesh.reconcile() == [[], []]
        back.go_on()
        assert (out.finish(), back.finish()) == (set(), set())
    assert first.pid() == pid
    assert {key: peer.last_handshake for key, peer in first.device().peers.items()} == before


def test_a_killed_wireguard_go_is_started_again(mesh: Any) -> None:
    first, _ = mesh.hosts
    first.kill()
    assert first.plane.problem() == "wireguard: wireguard-go is not running"
    assert "flannel-wg" in first.links(), "the device must not go: its routes keep packets in"
    assert mesh.reconcile()[0] != []
    assert first.plane.problem() is None
    mesh.assert_all_reach_all()


def test_killed_while_no_daemon_ran(mesh: Any) -> None:
    first, _ = mesh.hosts
    first.kill()
    first.start()
    mesh.reconcile()
    mesh.assert_all_reach_all()


def test_a_deleted_device_comes_back(mesh: Any) -> None:
    first, _ = mesh.hosts
    pid = first.pid()
    hosts.ip("-n", first.netns, "link", "del", "flannel-wg")
    mesh.reconcile()
    assert first.pid() != pid
    mesh.assert_all_reach_all()


def test_a_process_whose_socket_was_deleted_is_replaced(mesh: Any) -> None:
    first, _ = mesh.hosts
    first.plane.processes["flannel-wg"].socket.unlink()
    mesh.reconcile()
    mesh.assert_all_reach_all()


def test_a_process_of_a_start_that_broke_off_is_replaced(make_mesh: Callable[..., Any]) -> None:
    """The daemon died before wireguard-go had a socket: the TUN device tells who holds it."""
    mesh = make_mesh()
    first, _ = mesh.hosts
    holder = (
        "import os, sys, time; from hostnet.wireguard.device import open_tun;"
        "open_tun('flannel-wg', offload=False); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [*processes.enter(first.netns), sys.executable, "-c", holder], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        mesh.reconcile()
        assert child.wait(20) != 0
    mesh.assert_all_reach_all()


def test_a_foreign_device_of_that_name_is_left_alone(make_mesh: Callable[..., Any]) -> None:
    mesh = make_mesh()
    first, _ = mesh.hosts
    hosts.ip(*f"-n {first.netns} link add flannel-wg type bridge".split())
    first.publish()
    with pytest.raises(WireguardError, match="flannel-wg exists and is of type bridge: rename"):
        first.reconcile([])
    assert first.plane.problem() is not None
    first.run(first.plane.cleanup)
    assert "flannel-wg" in first.links()


def test_drift_is_put_right_and_the_rest_not_touched(make_any_mesh: Callable[..., Any]) -> None:
    mesh = make_any_mesh(3)
    mesh.reconcile()
    mesh.assert_all_reach_all()
    first, second, third = mesh.hosts
    keys = [host.own.attributes.backend_data["PublicKey"] for host in (second, third)]
    handshake = first.device().peers[keys[1]].last_handshake
    first.wg(f"set flannel-wg peer {keys[0]} remove")
    first.wg(f"set flannel-wg peer {keys[1]} persistent-keepalive 7")
    first.wg(f"set flannel-wg peer {first.wg('genkey').strip()} allowed-ips 10.5.99.0/24")
    lines = mesh.reconcile()[0]
    assert len(lines) == 3
    assert sum(line.endswith(" remove") for line in lines) == 1
    assert mesh.reconcile()[0] == []
    assert first.device().peers.keys() == set(keys)
    assert first.device().peers[keys[1]].last_handshake == handshake
    mesh.assert_all_reach_all()


def test_a_peer_that_left_is_removed(make_any_mesh: Callable[..., Any]) -> None:
    mesh = make_any_mesh(3)
    mesh.reconcile()
    gone = mesh.hosts.pop()
    lines = mesh.reconcile()
    key = gone.own.attributes.backend_data["PublicKey"]
    assert lines == [[f"wg set flannel-wg peer {key} remove"]] * 2
    mesh.assert_all_reach_all()


def test_planning_returns_the_same_lines_and_changes_nothing(
    make_any_mesh: Callable[..., Any],
) -> None:
    mesh = make_any_mesh()
    first, second = mesh.hosts
    leases = [host.publish() for host in mesh.hosts]

    def plan() -> list[str]:
        lines: list[str] = first.run(
            lambda: first.plane.plan(first.own, [second.own], first.underlay)
        )
        return lines

    planned = plan()
    started = (
        "ip link add flannel-wg type wireguard" if first.in_kernel else "wireguard-go flannel-wg"
    )
    assert planned[0] == started
    assert "flannel-wg" not in first.links()
    assert first.reconcile(leases) == planned[1:]
    assert plan() == []


def test_cleanup_leaves_nothing(make_mesh: Callable[..., Any]) -> None:
    usual_directory = Path("/run/wireguard").exists()
    mesh = make_mesh(2, ipv6=True)
    mesh.reconcile()
    mesh.assert_all_reach_all()
    first = mesh.hosts[0]
    pids = [first.pid(), first.pid("flannel-wg-v6")]
    first.start()
    first.run(first.plane.cleanup)
    assert not first.links() & {"flannel-wg", "flannel-wg-v6"}
    assert not any(map(processes.running, pids))
    assert processes.in_namespaces([first.netns]) == set()
    assert [path for path in first.directory.rglob("*") if path.is_file()] == []
    assert Path("/run/wireguard").exists() == usual_directory
    first.run(first.plane.cleanup)


def test_a_deleted_device_of_any_kind_comes_back_and_cleanup_takes_it(
    make_any_mesh: Callable[..., Any],
) -> None:
    mesh = make_any_mesh(2, ipv6=True)
    mesh.reconcile()
    first = mesh.hosts[0]
    hosts.ip("-n", first.netns, "link", "del", "flannel-wg")
    assert first.run(first.plane.problem) is not None
    mesh.reconcile()
    assert first.run(first.plane.problem) is None
    mesh.assert_all_reach_all()
    first.start()
    first.run(first.plane.cleanup)
    assert not first.links() & {"flannel-wg", "flannel-wg-v6"}


def test_a_restarted_daemon_changes_nothing(any_mesh: Any) -> None:
    for host in any_mesh.hosts:
        host.plane.close()
        host.start()
    assert any_mesh.reconcile() == [[], []]


def test_a_device_no_longer_wanted_goes_with_its_process(make_mesh: Callable[..., Any]) -> None:
    """The config was changed while no daemon ran."""
    mesh = make_mesh(2, ipv6=True)
    mesh.reconcile()
    pids = [host.pid("flannel-wg-v6") for host in mesh.hosts]
    single = make_mesh(1, ipv6=True, Mode="auto").hosts[0].config
    for host in mesh.hosts:
        host.config = single
        host.start()
    mesh.reconcile()
    # wireguard-go ends when its device is deleted; for a moment it has neither the device nor
    # a command line, is not found and not waited for, and still is in the list of processes
    deadline = time.monotonic() + 10
    while any(map(processes.running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert all("flannel-wg-v6" not in host.links() for host in mesh.hosts)
    mesh.assert_all_reach_all()
