# SPDX-License-Identifier: Apache-2.0
"""A host moves from flannel to flatmesh while its pods run: docs/from-flannel.md.

The old pods are made by the real `bridge` and `host-local`, as flannel's meta-plugin calls them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import CONF, REFERENCE, CniHost, MakeHost

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)
TRIES = 5
SUBNET_ENV = """FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=fd00:5::/48
FLANNEL_IPV6_SUBNET=fd00:5:0:7::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


@pytest.fixture(params=["daemon", "fallback"])
def old(
    request: pytest.FixtureRequest,
    make_host: MakeHost,
    tmp_path_factory: pytest.TempPathFactory,
    bin_dir: Path,
) -> Iterator[CniHost]:
    """A host of flannel's, whose files are in its own directory."""
    with make_host(tmp_path_factory.mktemp("h"), bin_dir) as host:
        (host.directory / "subnet.env").write_text(SUBNET_ENV)
        host.environment["FLATMESH_HOST_LOCAL_DIR"] = str(host.directory / "networks")
        host.run("ip", "link", "set", "lo", "up")
        if request.param == "daemon":
            host.serve()
        yield host


def conflist(host: CniHost, **delegate: Any) -> dict[str, Any]:
    """As kube-flannel installs it, but for the paths."""
    return {
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "flannel",
        "dataDir": str(host.directory / "flannel"),
        "delegate": {"hairpinMode": True, "isDefaultGateway": True, **delegate},
    }


def pod_of_flannel(host: CniHost, container: str) -> tuple[str, Any]:
    """What flannel's meta-plugin does on ADD: its state file, and `bridge` with `host-local`."""
    config = {
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "bridge",
        "hairpinMode": True,
        "isDefaultGateway": True,
        "isGateway": True,
        "ipMasq": False,
        "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "dataDir": str(host.directory / "networks"),
            "ranges": [[{"subnet": "10.5.72.0/24"}], [{"subnet": "fd00:5:0:7::/64"}]],
            "routes": [{"dst": "10.5.0.0/16"}, {"dst": "fd00:5::/48"}],
        },
    }
    state = host.directory / "flannel"
    state.mkdir(exist_ok=True)
    (state / container).write_text(json.dumps(config))
    pod = host.pod()
    return pod, host.call("ADD", config, container, pod, plugin="bridge").result()


def ips(result: Any) -> list[str]:
    return [str(ip_interface(one["address"]).ip) for one in result["ips"]]


def recorded(host: CniHost) -> list[str]:
    """Containers in our store; pods that were found alive when it was made have other ids."""
    return [container for _, container, _ in host.records() if container.startswith("c-")]


def reserved(host: CniHost) -> set[str]:
    found = (host.directory / "networks/cbr0").glob("*")
    return {one.name for one in found if one.name[0] in "1f"}  # not `lock`, `last_reserved_ip.0`


def assert_reached(host: CniHost, addresses: list[str], *pods: str) -> None:
    for pod in (None, *pods):
        for address in addresses:
            for _ in range(TRIES):  # a first packet may be lost while a bridge learns its port
                done = host.run("ping", "-c", "2", "-i", "0.2", "-W", "5", address, pod=pod)
                if done.returncode == 0:
                    break
            assert done.returncode == 0, f"{address} from {pod}: {done.stdout}{done.stderr}"


def doctor(host: CniHost) -> str:
    done = subprocess.run(
        [*host.enter, sys.executable, "-m", "cli.main", "doctor"],
        env={**os.environ, **host.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_pods_of_flannel_stay_while_new_ones_come(old: CniHost) -> None:
    first, made = pod_of_flannel(old, "c-old")
    taken = ips(made)
    assert taken[0] == "10.5.72.2"
    # the config of a fresh installation, beside cni0: refused, nothing is left, and why is told
    pod = old.pod()
    message = old.call("ADD", CONF, "c-refused", pod).refused(100)
    assert "device cni0 has the address 10.5.72.1/24" in message
    assert "ip link del cni0" in message
    assert '"bridge": "cni0"' in message
    assert recorded(old) == []
    assert not old.ip("link", "show", "dev", "kbr0")
    assert "10.5.72.1/24 is on cni0" in doctor(old)
    status = {**CONF, "cniVersion": "1.1.0"}
    assert "device cni0" in old.call("STATUS", status).refused(50)
    # both ways of going on: flatmesh on cni0, and the old conflist with our `flannel`
    new = {**CONF, "bridge": "cni0"}
    second = ips(old.call("ADD", new, "c-new", pod).result())
    other = old.pod()
    answer = old.call("ADD", conflist(old), "c-flannel", other, plugin="flannel")
    third = ips(answer.result())
    assert len({*taken, *second, *third}) == 6
    assert_reached(old, [*taken, *second, *third], first, pod, other)
    # the old pod goes by our `flannel`, and leaves nothing with host-local
    old.call("DEL", conflist(old), "c-old", first, plugin="flannel").result()
    assert reserved(old) == set()
    old.call("DEL", conflist(old), "c-flannel", other, plugin="flannel").result()
    old.call("DEL", new, "c-new", pod).result()
    assert recorded(old) == []
    # cni0 is not used any more
    old.run("ip", "link", "del", "cni0")
    assert "is on cni0" not in doctor(old)
    assert old.call("STATUS", status).status == 0
    last = ips(old.call("ADD", CONF, "c-last", pod).result())
    assert_reached(old, last, pod)


def test_the_two_plugins_share_addresses_and_one_bridge(old: CniHost) -> None:
    pod, other = old.pod(), old.pod()
    first = ips(old.call("ADD", CONF, "c-first", pod).result())
    answer = old.call("ADD", conflist(old), "c-second", other, plugin="flannel")
    message = answer.refused(100)
    assert "device kbr0 has the address 10.5.72.1/24" in message
    assert not old.ip("link", "show", "dev", "cni0")
    shared = conflist(old, bridge="kbr0")
    answer = old.call("ADD", shared, "c-second", other, plugin="flannel")
    second = ips(answer.result())
    assert not {*first} & {*second}
    assert_reached(old, [*first, *second], pod, other)


def test_addresses_of_host_local_are_not_given(old: CniHost) -> None:
    directory = old.directory / "networks/another"
    directory.mkdir(parents=True)
    for last in [*range(2, 100), *range(101, 255)]:
        (directory / f"10.5.72.{last}").write_text("c\r\neth0")
    (directory / "last_reserved_ip.0").write_text("10.5.72.254")
    pod, other = old.pod(), old.pod()
    assert "10.5.72.100" in ips(old.call("ADD", CONF, "c-one", pod).result())
    assert "no free address" in old.call("ADD", CONF, "c-two", other).refused(101)
    asked = {"CNI_ARGS": "IP=10.5.72.7"}
    answer = old.call("ADD", CONF, "c-two", other, environment=asked)
    assert "10.5.72.7" in answer.refused(101)
    # what a boot before this one has left holds nothing
    before = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600
    os.utime(directory / "10.5.72.7", (before, before))
    assert "10.5.72.7" in ips(old.call("ADD", CONF, "c-two", other).result())
