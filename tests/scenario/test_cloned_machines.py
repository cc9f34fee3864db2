# SPDX-License-Identifier: Apache-2.0
"""State that was copied from another host: the copy takes a subnet, a key and a MAC of its own."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from agent.leases import machine_mark
from hostnet.kernel import Kernel
from lab.cluster import Lab
from lab.hosts import host_ipv4

Eventually = Callable[..., None]
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "wireguard": {"Type": "wireguard"},
    "host-gw": {"Type": "host-gw"},
}
SILENCE = 3.0
"""Seconds in which nobody may write to etcd, once all is settled."""


def copy_state(lab: Lab, source: int, target: int) -> None:
    """Give a host, whose daemon is stopped, the state directory of another one."""
    var, run = (lab.host_dir(target) / name for name in ("var", "run"))
    shutil.rmtree(var)
    shutil.copytree(lab.host_dir(source) / "var", var)
    shutil.rmtree(run)  # a reboot clears it
    run.mkdir()


def leases(lab: Lab) -> dict[str, dict[str, Any]]:
    """What etcd has, by PublicIP."""
    found = json.loads(
        lab.etcd.ctl("get", "--prefix", "/coreos.com/network/subnets/", "-w", "json")
    )
    values = [json.loads(base64.b64decode(kv["value"])) for kv in found["kvs"]]
    return {value["PublicIP"]: value for value in values}


def revision(lab: Lab) -> int:
    """Grows with each write to etcd."""
    found = json.loads(lab.etcd.ctl("get", "/none", "-w", "json"))
    return int(found["header"]["revision"])


def is_quiet(lab: Lab) -> bool:
    """Whether nobody writes to etcd for a while."""
    before = revision(lab)
    time.sleep(SILENCE)
    return revision(lab) == before


def assert_apart(lab: Lab) -> None:
    """Two hosts, two leases, nothing shared, nobody writes, and pods reach each other."""
    for number in (1, 2):
        lab.wait_ready(number)
    assert lab.subnet(1) != lab.subnet(2)
    one, other = leases(lab)[host_ipv4(1)], leases(lab)[host_ipv4(2)]
    if one["BackendType"] != "host-gw":
        assert one["BackendData"] != other["BackendData"]
    for number in (1, 2):
        lab.add_pod(number, "new")
    assert [result for result in lab.matrix(4, timeout=30.0) if not result.good] == []
    assert is_quiet(lab) or is_quiet(lab) or is_quiet(lab)  # what was used before is given back


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_clone_beside_its_original(make_lab: Callable[..., Lab], backend: str) -> None:
    lab = make_lab(hosts=2, pods_per_host=0, backend=BACKENDS[backend])
    before = lab.subnet(1), leases(lab)[host_ipv4(1)]
    lab.stop_daemon(2)
    copy_state(lab, 1, 2)
    lab.start_daemon(2)
    assert_apart(lab)
    assert (lab.subnet(1), leases(lab)[host_ipv4(1)]) == before
    assert "was made on another machine" in lab.log(2)
    assert "is held by another host" in lab.log(2)


@pytest.mark.parametrize("backend", ["vxlan", "wireguard"])
def test_a_clone_whose_original_is_off(make_lab: Callable[..., Lab], backend: str) -> None:
    """It is taken for the same machine with other cards, until the original comes back."""
    lab = make_lab(hosts=2, pods_per_host=0, backend=BACKENDS[backend])
    before = lab.subnet(1)
    for number in (1, 2):
        lab.stop_daemon(number)
    copy_state(lab, 1, 2)
    lab.start_daemon(2)
    lab.wait_ready(2)
    assert lab.subnet(2) == before
    shutil.rmtree(lab.host_dir(1) / "run")
    (lab.host_dir(1) / "run").mkdir()
    lab.start_daemon(1)
    assert_apart(lab)
    assert lab.subnet(2) == before


def test_a_clone_that_nothing_tells_from_its_original(
    make_lab: Callable[..., Lab], eventually: Eventually
) -> None:
    """Both write the lease for a while; one of them gives way, and both work."""
    lab = make_lab(hosts=2, pods_per_host=0, backend=BACKENDS["vxlan"])
    lab.stop_daemon(2)
    copy_state(lab, 1, 2)
    with Kernel(lab.names.host(2)) as kernel:
        machine_mark.mark(lab.host_dir(2) / "var", machine_mark.this_machine(kernel))
    before = revision(lab)
    lab.start_daemon(2)
    words = "is written by another host, too"
    eventually(lambda: words in lab.log(1) + lab.log(2), "one of them gives way", 60)
    eventually(lambda: lab.subnet(1) != lab.subnet(2), "it has another subnet", 60)
    assert revision(lab) - before < 30
    assert_apart(lab)
