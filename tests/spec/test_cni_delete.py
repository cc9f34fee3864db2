# SPDX-License-Identifier: Apache-2.0
"""DEL of what was added under another name, and of what was never added."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import REFERENCE, CniHost, MakeConf
from tests.spec.reference_plugins import host_local, reserved

BROKEN: dict[str, dict[str, Any]] = {
    "unknown IPAM plugin": {"ipam": {"type": "no-such-plugin"}},
    "no name of an IPAM plugin": {"ipam": {"type": 7}},
    "a main plugin as IPAM plugin": {"ipam": {"type": "flatmesh"}},
    "ipam is no object": {"ipam": "host-local"},
    "relative dataDir": {"ipam": {"type": "flatmesh-ipam", "dataDir": "here"}, "dataDir": "here"},
    "broken ranges": {"ipam": {"type": "flatmesh-ipam", "ranges": {"subnet": 1}}},
    "broken bridge": {"bridge": 5, "mtu": "large", "vlanTrunk": 3},
    "broken prevResult": {"prevResult": ["no result"]},
    "broken runtimeConfig": {"runtimeConfig": {"ips": 1, "mac": []}, "args": 3},
    "broken delegate": {"delegate": [1]},
}


@pytest.mark.parametrize("plugin", ["flatmesh", "flatmesh-ipam", "flannel"])
@pytest.mark.parametrize("what", BROKEN)
def test_del_of_a_container_never_seen_succeeds_whatever_the_config_says(
    host: CniHost, container: str, conf: MakeConf, plugin: str, what: str
) -> None:
    config = conf(**BROKEN[what])
    host.call("DEL", config, container, "/run/netns/none", plugin=plugin).result()


@pytest.mark.skipif(not (REFERENCE / "host-local").exists(), reason="needs host-local")
def test_del_by_a_config_that_an_ipam_plugin_refuses(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    """Of a container never seen there is nothing to undo; of one that was, the ADD's config is."""
    good = conf(name="brk", bridge="brbrk", ipam=host_local(host.directory))
    pod = host.pod()
    host.call("ADD", good, container, pod).result()
    refused = {**good, "ipam": {**good["ipam"], "ranges": "none"}}
    host.call("DEL", refused, f"{container}-x", "").result()
    assert len(reserved(host, "brk")) == 1
    unknown = {**good, "ipam": {"type": "no-such-plugin"}}
    host.call("DEL", unknown, container, pod).result()
    assert reserved(host, "brk") == []
    assert not host.host_interfaces()
    assert not [r for r in host.records() if r[1] == container]


def test_a_delegate_that_is_gone_keeps_no_interface(
    host: CniHost, container: str, conf: MakeConf, tmp_path: Path
) -> None:
    """DEL takes down what it can, and tells what it can't."""
    program = tmp_path / "ipam-once"
    answer = '{"cniVersion":"1.0.0","ips":[{"address":"10.81.0.5/24","gateway":"10.81.0.1"}]}'
    program.write_text(f"#!/bin/sh\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n")
    program.chmod(0o755)
    config, path = conf(name="gone", ipam={"type": "ipam-once"}), {"CNI_PATH": str(tmp_path)}
    pod = host.pod()
    host.call("ADD", config, container, pod, environment=path).result()
    saved = program.rename(tmp_path / "away")
    answer_of_del = host.call("DEL", config, container, pod, environment=path)
    assert "ipam-once" in answer_of_del.refused(100)
    assert not host.host_interfaces()
    saved.rename(program)
    host.call("DEL", config, container, pod, environment=path).result()
    assert not [r for r in host.records() if r[1] == container]


@pytest.mark.parametrize("netns", ["there", "unnamed and gone", "gone"])
def test_del_after_the_network_was_renamed(
    host: CniHost, container: str, conf: MakeConf, netns: str
) -> None:
    pod, other = host.pod(), host.pod()
    host.call("ADD", conf(name="before"), container, pod).result()
    host.call("ADD", conf(name="before"), f"{container}-2", other).result()
    if netns != "there":
        host.remove_pod(pod)
    host.call("DEL", conf(name="after"), container, "" if "unnamed" in netns else pod).result()
    assert {r[1] for r in host.records()} == {f"{container}-2"}
    assert len(host.host_interfaces()) == 1
    if netns == "there":
        assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    host.call("DEL", conf(name="after"), f"{container}-2", other).result()
    assert not host.records()


def test_del_of_one_network_leaves_another_network_s_interface(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    """A second DEL without a namespace, as runtimes send it, while the container is elsewhere."""
    pod = host.pod()
    host.call("ADD", conf(name="blue"), container, pod).result()
    host.call("DEL", conf(name="blue"), container, pod).result()
    host.call("ADD", conf(name="green"), container, pod).result()
    host.call("DEL", conf(name="blue"), container, "").result()
    assert [r[0] for r in host.records() if r[1] == container] == ["green"]
    assert len(host.ip("addr", "show", "dev", "eth0", pod=pod)) == 1
    host.call("DEL", conf(name="blue"), container, pod, ifname="eth1").result()
    assert len(host.ip("addr", "show", "dev", "eth0", pod=pod)) == 1
    host.call("DEL", conf(name="green"), container, pod).result()


@pytest.mark.skipif(not (REFERENCE / "bridge").exists(), reason="needs the reference bridge")
def test_del_of_our_ipam_after_the_network_was_renamed(host: CniHost, container: str) -> None:
    config = {
        "cniVersion": "1.0.0",
        "name": "before",
        "type": "bridge",
        "bridge": "brren",
        "ipam": {"type": "flatmesh-ipam"},
    }
    pod = host.pod()
    host.call("ADD", config, container, pod, plugin="bridge").result()
    host.call("DEL", {**config, "name": "after"}, container, pod, plugin="bridge").result()
    assert not host.records()
    host.run("ip", "link", "del", "brren")


def test_del_of_flannel_after_the_network_was_renamed(host: CniHost, container: str) -> None:
    config = {
        "cniVersion": "1.0.0",
        "name": "before",
        "type": "flannel",
        "subnetFile": str(host.directory / "subnet.env"),
        "dataDir": str(host.directory / "flannel"),
        "delegate": {"type": "flatmesh"},
    }
    pod = host.pod()
    host.call("ADD", config, container, pod, plugin="flannel").result()
    host.call("DEL", {**config, "name": "after"}, container, pod, plugin="flannel").result()
    assert not host.records()
    assert not host.host_interfaces()
    assert not list((host.directory / "flannel").iterdir())
    # and one whose file was damaged
    host.call("ADD", config, container, pod, plugin="flannel").result()
    (state,) = (host.directory / "flannel").iterdir()
    state.write_text('{"type": "fl')
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert not host.records()
    assert not state.exists()


def test_add_replaces_a_container_whose_namespace_is_gone_though_its_processes_run(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    """A runtime restarted: the namespace's file is gone or new, and a process is still in it."""
    for same_path in (True, False):
        pod = host.pod()
        host.call("ADD", conf(), container, pod).result()
        left = subprocess.Popen(["nsenter", f"--net={pod}", "sleep", "600"])
        try:
            host.until(partial(sleeps, left.pid), "the process runs in the namespace")
            host.remove_pod(pod)
            again = make_again(host, pod) if same_path else host.pod()
            assert host.host_interfaces()
            result = host.call("ADD", conf(), container, again).result()
            assert len(host.host_interfaces()) == len(host.records()) == 1
            gateway = result["ips"][0]["gateway"]
            assert host.run("ping", "-c1", "-W5", gateway, pod=again).returncode == 0
            host.call("DEL", conf(), container, again).result()
        finally:
            left.kill()
            left.wait(60)


def make_again(host: CniHost, pod: str) -> str:
    from hostnet import netns

    name = Path(pod).name
    host.pods.append(name)
    return str(netns.create(name))


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
