# SPDX-License-Identifier: Apache-2.0
"""Chains: plugins of others that follow ours."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from lab.runtime import PluginError, PodInterface, Runtime
from tests.spec.cni_host import REFERENCE, CniHost

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)


def runtime(host: CniHost) -> Runtime:
    """A runtime as libcni is one: chains, prevResult, capabilities."""
    return Runtime((host.bin_dir, REFERENCE), host.variables, tuple(host.enter))


def test_a_chain_of_debian_s_plugins_works(host: CniHost, container: str) -> None:
    conflist: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "chain",
        "plugins": [
            {"type": "flatmesh"},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400},
            {"type": "firewall"},
        ],
    }
    if host.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *TBF.split()).returncode:
        conflist["plugins"] = [p for p in conflist["plugins"] if p["type"] != "bandwidth"]
    host.run("tc", "qdisc", "del", "dev", "lo", "root")
    pod = host.pod()
    attachment = PodInterface(
        container,
        pod,
        capabilities={
            "portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 1 << 20, "ingressBurst": 1 << 20},
        },
    )
    caller = runtime(host)
    try:
        result = caller.add(conflist, attachment)
    except PluginError as error:
        caller.delete(conflist, attachment)
        if "iptables" in str(error):
            pytest.skip(f"iptables does not work on this kernel: {error}")
        raise
    assert result["interfaces"][2]["name"] == "eth0"
    assert host.run("cat", "/proc/sys/net/core/somaxconn", pod=pod).stdout == "500\n"
    (link,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert link["mtu"] == 1400
    assert through_host_port(host, container, pod) == "hello"
    # portmap 1.1.1 looks for IPv4's chains among IPv6's: no CHECK of its own ever passes
    others = [p for p in conflist["plugins"] if p["type"] != "portmap"]
    caller.check({**conflist, "plugins": others}, attachment, result)
    caller.delete(conflist, attachment, result)
    caller.delete(conflist, attachment, result)
    assert not [r for r in host.records() if r[1] == container]


TBF = "rate 1mbit burst 10kb latency 50ms"


SERVER = """
import socket
with socket.create_server(("", 80)) as server:
    print("listening", flush=True)
    server.accept()[0].sendall(b"hello")
"""
CLIENT = """
import socket
with socket.create_connection(("10.5.72.1", 18080), 30) as connection:
    print(connection.recv(99).decode())
"""


def through_host_port(host: CniHost, container: str, pod: str) -> str:
    """What a second pod hears from the first, by the host's port."""
    other = host.pod()
    host.call("ADD", None, f"{container}-other", other).result()
    server = subprocess.Popen(
        ["nsenter", f"--net={pod}", sys.executable, "-I", "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        heard = host.run(sys.executable, "-I", "-c", CLIENT, pod=other)
    finally:
        server.kill()
        server.communicate()
    host.call("DEL", None, f"{container}-other", other).result()
    return heard.stdout.strip() or heard.stderr


@pytest.mark.parametrize("plugin", ["tuning", "portmap"])
def test_each_of_debian_s_plugins_follows_us(host: CniHost, container: str, plugin: str) -> None:
    keys_of: dict[str, dict[str, Any]] = {
        "tuning": {"sysctl": {"net.core.somaxconn": "501"}},
        "portmap": {"capabilities": {"portMappings": True}},
    }
    conflist = {
        "cniVersion": "0.4.0",
        "name": "two",
        "plugins": [{"type": "flatmesh"}, {"type": plugin, **keys_of[plugin]}],
    }
    pod = host.pod()
    attachment = PodInterface(container, pod)
    result = runtime(host).add(conflist, attachment)
    assert result["ips"][0]["version"] == "4"
    if plugin != "portmap":
        runtime(host).check(conflist, attachment, result)
    runtime(host).delete(conflist, attachment, result)
