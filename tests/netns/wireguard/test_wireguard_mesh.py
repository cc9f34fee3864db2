# SPDX-License-Identifier: Apache-2.0
"""Hosts reach each other's pods through WireGuard, in every mode."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flannel.wireguard.key import generate
from hostnet.wireguard.state import key_text
from ipam import lease
from lab import hosts, processes
from lab.matrix import measure


@pytest.mark.kernel_short
@pytest.mark.parametrize("mode", ["separate", "auto", "ipv4", "ipv6"])
def test_three_hosts_dual_stack(make_any_mesh: Callable[..., Any], mode: str) -> None:
    mesh = make_any_mesh(3, ipv6=True, Mode=mode)
    mesh.reconcile()
    mesh.assert_all_reach_all()
    assert mesh.reconcile() == [[], [], []]


def test_ipv6_alone(make_mesh: Callable[..., Any]) -> None:
    mesh = make_mesh(2, ipv4=False, ipv6=True)
    mesh.reconcile()
    assert mesh.hosts[0].links() >= {"flannel-wg-v6"}
    assert "flannel-wg" not in mesh.hosts[0].links()
    mesh.assert_all_reach_all()


def test_the_largest_packet_passes_unfragmented(any_mesh: Any, on: Callable[..., str]) -> None:
    first, second = any_mesh.hosts
    size = 1420 - 28  # the tunnel's MTU less IPv4 and ICMP headers
    on(first.pod, "ip link set eth0 mtu 1420")
    assert "1 received" in on(first.pod, f"ping -c 1 -W 5 -M do -s {size} {second.address}")


def test_wg_sees_what_we_see(any_mesh: Any) -> None:
    first, second = any_mesh.hosts
    data = second.own.attributes.backend_data
    listed = [line.split("\t") for line in first.wg("show flannel-wg dump").splitlines()]
    assert listed[0][1] == first.own.attributes.backend_data["PublicKey"]
    assert listed[0][2] == "51820"
    [peer] = listed[1:]
    assert peer[:4] == [data["PublicKey"], "(none)", "192.168.64.12:51820", "10.5.2.0/24"]
    assert peer[7] == "off"


def test_a_preshared_key_is_used(make_any_mesh: Callable[..., Any]) -> None:
    mesh = make_any_mesh(2, PSK=key_text(b"p" * 32))
    mesh.reconcile()
    mesh.assert_all_reach_all()


def test_hosts_with_different_preshared_keys_do_not_talk(make_any_mesh: Callable[..., Any]) -> None:
    mesh = make_any_mesh(2, PSK=key_text(b"p" * 32))
    second = mesh.hosts[1]
    second.plane.config = replace(second.plane.config, psk=key_text(b"q" * 32))
    mesh.reconcile()
    assert [result.rtt for result in mesh.matrix(timeout=0)] == [None, None]


def test_mixed_with_a_host_set_up_as_flanneld_does_it(
    make_mesh: Callable[..., Any], tmp_path: Any, on: Callable[..., str]
) -> None:
    """A lease without Port, one route for the whole network, device and peers set by wg(8)."""
    mesh = make_mesh(2)
    ours, other = mesh.hosts
    key = generate()
    value = {
        "PublicIP": hosts.host_ipv4(2),
        "PublicIPv6": None,
        "BackendType": "wireguard",
        "BackendData": {"PublicKey": key.public},
    }
    theirs = lease.parse("10.5.2.0-24", json.dumps(value))
    published = json.loads(lease.format_value(ours.publish().attributes))
    ours.reconcile([theirs])
    for name, content in (("key", key.private),):
        (tmp_path / name).write_text(content)
    script = f"""
    mount -t tmpfs tmpfs /var/run && wireguard-go flannel-wg &&
    wg set flannel-wg private-key {tmp_path}/key listen-port 51820 \\
        peer {published["BackendData"]["PublicKey"]} \\
        endpoint {published["PublicIP"]}:51820 allowed-ips 10.5.1.0/24 &&
    ip addr add 10.5.2.0/32 dev flannel-wg && ip link set flannel-wg up &&
    ip route add 10.5.0.0/16 dev flannel-wg scope link
    """
    subprocess.run(
        [*processes.enter(other.netns), "unshare", "--mount", "sh", "-ec", script], check=True
    )
    on(other.netns, "sysctl -qw net.ipv4.ip_forward=1")
    pods = [ours.endpoint(), other.endpoint()]
    assert [result for result in measure(pods, pods, 20.0) if not result.good] == []
