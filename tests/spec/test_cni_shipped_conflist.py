# SPDX-License-Identifier: Apache-2.0
"""The conflist that is shipped, as an operator copies it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import CniHost

SHIPPED = Path(__file__).parents[2] / "deploy" / "10-flatmesh.conflist"
SERVICE, PORT = {4: "10.96.0.10", 6: "fd00:96::10"}, 8080
TRANSLATE = """
table {family} service {{
    chain prerouting {{
        type nat hook prerouting priority -100;
        {ip} daddr {service} udp dport {port} dnat to {pod}
    }}
    chain postrouting {{
        type nat hook postrouting priority 90;
        {ip} saddr {pod} {ip} daddr {pod} masquerade
    }}
}}
"""
ASK_ITSELF = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as server, \\
        socket.socket(family, socket.SOCK_DGRAM) as client:
    server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", int(sys.argv[2])))
    server.settimeout(2)
    for _ in range(5):
        client.sendto(b"hello", (sys.argv[1], int(sys.argv[2])))
        try:
            print(server.recvfrom(9)[0].decode())
            break
        except TimeoutError:
            pass
"""


def config() -> dict[str, Any]:
    conflist = json.loads(SHIPPED.read_text())
    (ours,) = [one for one in conflist["plugins"] if one["type"] == "flatmesh"]
    return {**ours, "cniVersion": conflist["cniVersion"], "name": conflist["name"]}


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_itself_through_its_own_service(
    host: CniHost, container: str, family: int
) -> None:
    """With bridge-nf-call-iptables, as kube-proxy needs it, the bridge sends the frame back."""
    pod = host.pod()
    result = host.call("ADD", config(), container, pod).result()
    bridged = f"/proc/sys/net/bridge/bridge-nf-call-ip{'6' if family == 6 else ''}tables"
    if host.run("sh", "-c", f"echo 1 > {bridged}").returncode:
        pytest.skip("needs the kernel's br_netfilter")
    (address,) = [
        ip["address"].partition("/")[0]
        for ip in result["ips"]
        if (":" in ip["address"]) == (family == 6)
    ]
    words = {"family": "ip6", "ip": "ip6"} if family == 6 else {"family": "ip", "ip": "ip"}
    rules = TRANSLATE.format(service=SERVICE[family], port=PORT, pod=address, **words)
    try:
        assert host.run("nft", rules).returncode == 0
        asked = host.run("python3", "-c", ASK_ITSELF, SERVICE[family], str(PORT), pod=pod)
        assert asked.stdout == "hello\n", asked
    finally:
        host.run("nft", f"delete table {words['family']} service")
        host.run("sh", "-c", f"echo 0 > {bridged}")
        host.call("DEL", config(), container, pod).result()
