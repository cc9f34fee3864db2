# SPDX-License-Identifier: Apache-2.0
"""The ovs backend: what another program has of a tunnel is told; `--dry-run` can be typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from tests.scenario.config.test_dry_run import plan
from tests.scenario.config.test_ready import HOLD_PORT, assert_not_ready_until_freed, readyz
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
OVS = {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow", "Key": 7}


@pytest.fixture(scope="module")
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    spec: dict[str, Any] = {"hosts": 2, "pods_per_host": 1, "ipv6": True, "backend": OVS}
    with running_lab(request.config, directory, **spec) as lab:
        yield lab


def test_another_tunnel_with_the_same_key(one: Lab, on: On, eventually: Eventually) -> None:
    show = one.ovs(1).vsctl
    one.stop_daemon(1)
    show("del-br", "obr0")
    show("add-br", "other", "--", "set", "bridge", "other", "datapath_type=netdev")
    options = ("type=gre", "options:key=flow", "options:remote_ip=flow")
    show("add-port", "other", "twin", "--", "set", "interface", "twin", *options)
    why = "tunnel mesh-gre can't be opened: port twin of bridge other has the same key"
    assert_not_ready_until_freed(one, on, eventually, why, lambda: show("del-br", "other"))
    assert why in one.log(1)


def test_a_udp_port_that_another_has(one: Lab, on: On, eventually: Eventually) -> None:
    host = one.names.host(1)
    config = one.spec.cluster_config()
    log = one.directory / "holder.log"
    holder = processes.spawn([sys.executable, "-c", HOLD_PORT, "4789"], host, log)
    try:
        eventually(lambda: "bound" in log.read_text(), "the port is taken")
        on(host, "ip link add other type vxlan id 9 dstport 6081 local 192.168.64.11")
        for tunnel, who in (("vxlan", "UDP port 4789 is in use by python"), ("geneve", "other")):
            one.configure({**config, "Backend": {**OVS, "Tunnel": tunnel}})
            eventually(lambda w=who: w in readyz(one, on)[1], f"/readyz says {who}")
            assert "the last good one stays in force" in readyz(one, on)[1]
    finally:
        processes.stop([holder.pid])
        holder.wait()
        on(host, "ip link del other")

    def ports() -> str:
        return str(one.ovs(1).vsctl("list-ports", "obr0"))

    eventually(lambda: "mesh-geneve" in ports(), "it is followed", timeout=60.0)
    one.configure(config)
    eventually(lambda: "mesh-gre" in ports(), "as before", timeout=60.0)
    eventually(lambda: readyz(one, on) == ("200", "ok\n"), "/readyz says ok", timeout=60.0)


def test_each_line_of_dry_run_can_be_typed(one: Lab, on: On) -> None:
    """All but what a device of the switch has to be there for, which the first lines make."""
    host = one.names.host(1)
    one.stop_daemon(1)
    one.start_daemon(1)
    one.wait_ready(1)
    assert [line for line in plan(one) if not line.startswith("#")] == []
    one.stop_daemon(1)
    one.ovs(1).vsctl("del-br", "obr0")
    on(host, "ip link del kbr0-obr0")
    for family in ("-4", "-6"):
        on(host, f"ip {family} route flush proto 102", check=False)
    on(host, "nft flush ruleset")
    try:
        kinds = set()
        for _ in range(3):
            lines = [line for line in plan(one) if not line.startswith("#")]
            for line in lines:
                kinds.add(line.split()[0])
                done = subprocess.run(
                    [*processes.enter(host), "sh", "-c", line],
                    env={**os.environ, **one.environment(1)},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{line}\n{done.stderr}"
            if not lines:
                break
        assert lines == []
        assert kinds >= {"ip", "nft", "ovs-vsctl", "ovs-ofctl"}
    finally:
        one.start_daemon(1)
        one.wait_ready(1)
