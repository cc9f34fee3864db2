# SPDX-License-Identifier: Apache-2.0
"""Whether a tunnel could be made here: devices and programs in the way are found and named."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence

import pytest

from agent.backends import make_backend
from backend.arrivals import TunnelPort
from backend.protocol import Backend
from hostnet.netns import run_in_new
from ipam.network import parse_config
from tests.unit.agent.agent_inputs import NOWHERE, UNDERLAY

UNDERLAY_DEVICE = (
    *("ip link add eth0 type veth peer name eth1", "ip addr add 192.168.64.11/24 dev eth0"),
    *("ip link set eth0 up", "ip link set lo up"),
)


def obstacle(backend: str, *commands: str, held: Sequence[TunnelPort] = ()) -> str | None:
    """In a namespace with an underlay device, after the commands."""

    def ask() -> str | None:
        for command in (*UNDERLAY_DEVICE, *commands):
            subprocess.run(command.split(), check=True)
        made = made_of(backend)
        found = made.obstacle(UNDERLAY, held)
        assert "flatmesh-try" not in subprocess.check_output(["ip", "-br", "link"], text=True)
        return found

    return run_in_new(ask)


def made_of(backend: str) -> Backend:
    config = parse_config(f'{{"Network":"10.5.0.0/16","Backend":{backend}}}')
    return make_backend(config, NOWHERE, NOWHERE)


OTHER = "ip link add other type vxlan id 7 dstport 8472 local 192.168.64.11"


def test_nothing_in_the_way() -> None:
    assert obstacle('{"Type":"vxlan","VNI":7}') is None
    assert obstacle('{"Type":"udp"}') is None
    assert obstacle('{"Type":"wireguard"}') is None


def test_a_vni_in_use_is_told_with_the_device() -> None:
    found = obstacle('{"Type":"vxlan","VNI":7}', OTHER, "ip link set other up")
    assert found == "VNI 7 with UDP port 8472 is in use by device other"
    assert obstacle('{"Type":"vxlan","VNI":8}', OTHER, "ip link set other up") is None


def test_what_we_hold_already_is_not_in_the_way() -> None:
    held = (TunnelPort("udp", 8472, vni=7),)
    assert obstacle('{"Type":"vxlan","VNI":7}', OTHER, held=held) is None
    ours = OTHER.replace("other", "flannel.7")
    assert obstacle('{"Type":"vxlan","VNI":7}', ours) is None


@pytest.mark.parametrize(
    ("backend", "port"), [("vxlan", 8472), ("udp", 8285), ("wireguard", 51820)]
)
def test_a_port_in_use_by_a_program_is_told_with_its_name(backend: str, port: int) -> None:
    def ask() -> str | None:
        for command in UNDERLAY_DEVICE:
            subprocess.run(command.split(), check=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", port))
            return made_of(f'{{"Type":"{backend}"}}').obstacle(UNDERLAY, ())

    found = run_in_new(ask)
    assert found is not None
    assert found.startswith(f"UDP port {port} is in use by ")
    assert f"(pid {os.getpid()})" in found
