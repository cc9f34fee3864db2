# SPDX-License-Identifier: Apache-2.0
"""Pods that go without a DEL, and ADDs whose answer nobody got."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from cni import crash_points
from tests.spec.cni_host import REFERENCE, CniHost, MakeConf, addresses
from tests.spec.reference_plugins import host_local, reserved

SMALL = {"type": "flatmesh-ipam", "ranges": [[{"subnet": "10.66.0.0/30"}]]}
"""One address."""
OFTEN = {"FLATMESH_SWEEP_INTERVAL": "0.1"}


def small(conf: MakeConf, **more: Any) -> dict[str, Any]:
    return conf(name="small", bridge="brsmall", ipam=SMALL, cniVersion="1.1.0", **more)


def vanish(host: CniHost, pod: str) -> None:
    host.remove_pod(pod)
    host.until(lambda: not host.host_interfaces(), "the kernel removes the veth pair")


def test_an_add_that_finds_no_address_frees_those_of_vanished_pods(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config, pod = small(conf, ipMasq=True), host.pod()
    host.call("ADD", config, f"{container}-1", pod).result()
    host.call("ADD", config, f"{container}-2", host.pod()).refused(101)  # it is alive
    host.call("STATUS", config).refused(50)
    vanish(host, pod)
    pod = host.pod()
    host.call("ADD", config, f"{container}-2", pod).result()
    assert [r[1] for r in host.records()] == [f"{container}-2"]
    vanish(host, pod)
    host.call("STATUS", config).result()
    assert not host.records()
    assert "elements" not in host.run("nft", "list", "set", "inet", "flatmesh_cni", "masq4").stdout


def test_an_address_asked_for_is_taken_from_a_vanished_pod(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    pod, asked = host.pod(), {"CNI_ARGS": "IP=10.5.73.5"}
    host.call("ADD", conf(), f"{container}-1", pod, environment=asked).result()
    host.call("ADD", conf(), f"{container}-2", host.pod(), environment=asked).refused(101)
    vanish(host, pod)
    host.call("ADD", conf(), f"{container}-2", host.pod(), environment=asked).result()
    host.call("DEL", conf(), f"{container}-2", "").result()
    assert not host.records()


@pytest.mark.skipif(not (REFERENCE / "bridge").exists(), reason="needs the reference bridge")
def test_pods_of_other_main_plugins_that_vanished(host: CniHost, container: str) -> None:
    config = {
        "cniVersion": "1.0.0",
        "name": "small",
        "type": "bridge",
        "bridge": "brsmall",
        "ipam": SMALL,
    }
    pod = host.pod()
    host.call("ADD", config, f"{container}-1", pod, plugin="bridge").result()
    host.call("ADD", config, f"{container}-2", host.pod(), plugin="bridge").refused(101)
    host.remove_pod(pod)
    pod = host.pod()
    host.call("ADD", config, f"{container}-2", pod, plugin="bridge").result()
    host.call("DEL", config, f"{container}-2", pod, plugin="bridge").result()
    assert not host.records()


def test_a_daemon_frees_them_by_itself(own_host: CniHost, container: str, conf: MakeConf) -> None:
    host = own_host
    host.serve(**OFTEN)
    config = conf(ipMasq=True)
    pod, lives = host.pod(), host.pod()
    host.call("ADD", config, f"{container}-lives", lives).result()
    host.call("ADD", config, f"{container}-goes", pod).result()
    if (REFERENCE / "host-local").exists():
        delegated = conf(name="hl", bridge="brhl", ipam=host_local(host.directory))
        host.call("ADD", delegated, f"{container}-hl", pod, ifname="eth1").result()
        assert len(reserved(host, "hl")) == 1
    host.remove_pod(pod)
    host.until(lambda: len(host.records()) == 1, "its addresses are free")
    assert [r[1] for r in host.records()] == [f"{container}-lives"]
    assert not list((host.directory / "host-local").glob("hl/10.*"))
    assert len(addresses(host, lives)) == 2
    host.call("DEL", config, f"{container}-lives", lives).result()


SLOW = """#!/bin/sh
cd {directory}
if [ $CNI_COMMAND = ADD ]; then
    echo $$ >> calls
    while [ ! -e go ]; do sleep 0.02; done
    echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.81.0.5/24","gateway":"10.81.0.1"}}]}}'
fi
"""


def test_an_add_whose_client_was_killed_gets_the_same_result_again(
    own_host: CniHost, container: str, conf: MakeConf, tmp_path: Path
) -> None:
    """The client is killed in the middle; the daemon does the ADD all the same."""
    host, pod, calls = own_host, own_host.pod(), tmp_path / "calls"
    program = tmp_path / "ipam-slow"
    program.write_text(SLOW.format(directory=tmp_path))
    program.chmod(0o755)
    path = {"CNI_PATH": str(tmp_path)}
    config = conf(bridge="brslow", ipam={"type": "ipam-slow"}, dns={"search": ["a.example"]})
    host.serve()
    call = host.start("ADD", config, container, pod, environment=path)
    assert call.process.stdin is not None
    call.process.stdin.write(call.stdin)
    call.process.stdin.close()
    call.process.stdin = None
    host.until(calls.exists, "the ADD is at work")
    call.process.kill()
    call.process.communicate(timeout=60)
    (tmp_path / "go").touch()
    host.until(lambda: addresses_if_any(host, pod), "the ADD is done")
    elsewhere = host.pod()
    host.call("ADD", config, container, elsewhere, environment=path).refused(102)
    result = host.call("ADD", config, container, pod, environment=path).result()
    (ip,) = result["ips"]
    assert {ip["address"]} == addresses(host, pod) == {"10.81.0.5/24"}
    inside = result["interfaces"][ip["interface"]]
    assert (inside["name"], inside["sandbox"]) == ("eth0", pod)
    assert inside["mac"] == host.ip("link", "show", "dev", "eth0", pod=pod)[0]["address"]
    assert result["dns"] == {}
    assert len(calls.read_text().splitlines()) == 1
    host.call("ADD", config, container, pod, environment=path).refused(102)  # it was answered
    host.call("DEL", config, container, pod, environment=path).result()
    assert not host.records()
    assert not list((host.directory / "run" / "unanswered").iterdir())


def addresses_if_any(host: CniHost, pod: str) -> bool:
    links = host.ip("link", "show", pod=pod)
    return any(link["ifname"] == "eth0" for link in links) and bool(addresses(host, pod))


@pytest.mark.parametrize("who", ["daemon", "fallback"])
def test_an_add_whose_maker_died_behind_its_last_step_gets_the_same_result_again(
    own_host: CniHost, container: str, conf: MakeConf, who: str
) -> None:
    host, pod, fault = own_host, own_host.pod(), {crash_points.VARIABLE: "add-ready"}
    if who == "daemon":
        host.serve(**fault)
    answer = host.call("ADD", conf(), container, pod, environment=fault)
    if who == "fallback":
        assert answer.status == -signal.SIGKILL
        answer = host.call("ADD", conf(), container, pod)
    result = answer.result()  # by the client itself, when the daemon has died
    assert {ip["address"] for ip in result["ips"]} == addresses(host, pod)
    assert len(host.held()) == 2
    host.call("ADD", conf(), container, pod).refused(102)
    host.call("DEL", conf(), container, pod).result()
