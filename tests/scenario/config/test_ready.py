# SPDX-License-Identifier: Apache-2.0
"""Ready is a host whose pods reach others: what is in the way of that is told, by /readyz too."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
HOLD_PORT = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", int(sys.argv[1])))
print("bound", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=1, pods_per_host=0) as lab:
        yield lab


def readyz(lab: Lab, on: On) -> tuple[str, str]:
    """Status code and text."""
    command = "curl -s -m 10 -w %{http_code} http://127.0.0.1:9000/readyz"
    answer = on(lab.names.host(1), command, check=False)
    return answer[-3:], answer[:-3]


def assert_not_ready_until_freed(
    lab: Lab, on: On, eventually: Eventually, reason: str, free: Callable[[], object]
) -> None:
    lab.start_daemon(1, "--healthz-port=9000")
    eventually(lambda: reason in readyz(lab, on)[1], f"/readyz says {reason!r}")
    assert readyz(lab, on)[0] == "503"
    assert not lab.ready(1)
    free()
    eventually(lambda: readyz(lab, on) == ("200", "ok\n"), "/readyz says ok", timeout=60.0)
    eventually(lambda: lab.ready(1), "the daemon is ready", timeout=60.0)


def start_anew(lab: Lab, backend: dict[str, Any]) -> None:
    """As on a host that had no config before."""
    lab.daemon(1).stop()
    (lab.host_dir(1) / "var/config.json").unlink(missing_ok=True)
    lab.configure({**lab.spec.cluster_config(), "Backend": backend})


def test_a_vni_in_use(one: Lab, on: On, eventually: Eventually) -> None:
    host = one.names.host(1)
    start_anew(one, {"Type": "vxlan", "VNI": 9})
    on(host, "ip link add other type vxlan id 9 dstport 8472 local 192.168.64.11")
    assert_not_ready_until_freed(
        one,
        on,
        eventually,
        "device flannel.9 is not there: VNI 9 with UDP port 8472 is in use by device other",
        lambda: on(host, "ip link del other"),
    )


@pytest.mark.parametrize(
    ("backend", "port"), [("vxlan", 8473), ("udp", 8286), ("wireguard", 51821)]
)
def test_a_port_in_use(one: Lab, on: On, eventually: Eventually, backend: str, port: int) -> None:
    start_anew(one, {"Type": backend, "ListenPort" if backend == "wireguard" else "Port": port})
    log = one.directory / "holder.log"
    argv = [sys.executable, "-c", HOLD_PORT, str(port)]
    holder = processes.spawn(argv, one.names.host(1), log)
    try:
        eventually(lambda: "bound" in log.read_text(), "the port is taken")

        def free() -> None:
            processes.stop([holder.pid])

        who = f"{port} is in use by python"
        assert_not_ready_until_freed(one, on, eventually, who, free)
    finally:
        processes.stop([holder.pid])
        holder.wait()


def test_a_device_in_the_way_while_it_runs(one: Lab, on: On, eventually: Eventually) -> None:
    host = one.names.host(1)
    start_anew(one, {"Type": "vxlan"})
    one.start_daemon(1, "--healthz-port=9000")
    eventually(lambda: readyz(one, on) == ("200", "ok\n"), "/readyz says ok")
    on(host, "ip link add flannel.1x type bridge")
    on(host, "ip link set flannel.1x alias mine")
    on(host, "ip link del flannel.1")
    on(host, "ip link set flannel.1x name flannel.1", check=False)
    if "bridge" in on(host, "ip -d link show flannel.1"):
        eventually(lambda: readyz(one, on)[0] == "503", "/readyz tells")
        assert "flannel.1" in readyz(one, on)[1]
        assert not one.ready(1)
        on(host, "ip link del flannel.1")
    else:
        on(host, "ip link del flannel.1x")  # the daemon was faster
    eventually(lambda: readyz(one, on) == ("200", "ok\n"), "/readyz says ok", timeout=60.0)


def test_a_lease_that_another_host_has(one: Lab, on: On, eventually: Eventually) -> None:
    key = one.subnet(1).replace("/", "-")
    value = json.dumps({"PublicIP": "192.168.64.99", "BackendType": "vxlan"}, separators=(",", ":"))
    etcdctl = f"etcdctl --endpoints={one.endpoint}"
    on(one.names.underlay, f"{etcdctl} put /coreos.com/network/subnets/{key} {value}")
    eventually(lambda: readyz(one, on)[0] == "503", "/readyz tells")
    assert "192.168.64.99" in readyz(one, on)[1]
    on(one.names.underlay, f"{etcdctl} del /coreos.com/network/subnets/{key}")
    eventually(lambda: readyz(one, on) == ("200", "ok\n"), "/readyz says ok", timeout=60.0)


def test_a_network_inside_the_underlays_is_told(one: Lab, on: On, eventually: Eventually) -> None:
    """It works, as with flanneld: the routes of leases are longer."""
    host = one.names.host(1)
    start_anew(one, {"Type": "vxlan"})
    on(host, "ip addr add 10.200.0.1/8 dev eth0")
    begin = len(one.log(1))
    try:
        one.start_daemon(1, "--healthz-port=9000")
        told = "10.5.0.0/16 lies inside the underlay 10.0.0.0/8 of eth0"
        eventually(lambda: readyz(one, on)[0] == "200" and told in readyz(one, on)[1], "told")
        assert one.log(1)[begin:].count(told) == 1
    finally:
        on(host, "ip addr del 10.200.0.1/8 dev eth0")
