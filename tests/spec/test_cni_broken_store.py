# SPDX-License-Identifier: Apache-2.0
"""An address store that can't be written or read: DEL takes the pod down, STATUS tells."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spec.cni_host import CniHost, MakeConf, MakeHost, addresses

FILE = "addresses.sqlite"
HOW = ["full", "read-only", "damaged"]
NOTHING = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"))


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module", params=["daemon", "fallback"])
def small_host(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    bin_dir: Path,
    make_host: MakeHost,
) -> Iterator[CniHost]:
    """A host whose state directory is a file system of its own, which a test can fill."""
    with make_host(tmp_path_factory.mktemp("h"), bin_dir) as host, contextlib.ExitStack() as stack:
        state = host.directory / "state"
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", state)
        stack.callback(subprocess.run, ["umount", "-l", str(state)], check=True)
        stack.callback(host.kill_server)
        if request.param == "daemon":
            host.serve()
        yield host


@contextlib.contextmanager
def broken(host: CniHost, how: str) -> Iterator[None]:
    """The store is broken inside the block, under a daemon that is started then, if there is one.

    A file system becomes full under one that runs.
    """
    state, daemon = host.directory / "state", host.server is not None
    if how == "full":
        filler = state / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        assert os.statvfs(state).f_bavail == 0
        yield
        filler.unlink()
        return
    host.kill_server()
    if how == "read-only":
        mount("-o", "remount,ro", state)
    else:
        for log in state.glob(f"{FILE}-*"):
            log.unlink()
        (state / FILE).write_bytes(b"no database at all " * 2000)
    if daemon:
        host.serve()
    try:
        yield
    finally:
        if how == "read-only":
            host.kill_server()
            mount("-o", "remount,rw", state)
            if daemon:
                host.serve()
        else:
            (state / FILE).rename(state / "damaged")


def elements(host: CniHost) -> str:
    """What nftables holds of single pods."""
    return "".join(
        host.run("nft", "list", "set", *name.split()).stdout
        for name in (
            "inet flatmesh_cni masq4",
            "inet flatmesh_cni masq6",
            "bridge flatmesh_cni guarded",
        )
    )


@pytest.mark.parametrize("how", HOW)
def test_del_takes_the_pod_down_and_frees_its_address_later(
    small_host: CniHost, container: str, conf: MakeConf, how: str
) -> None:
    host, config = small_host, conf(ipMasq=True, macspoofchk=True, cniVersion="1.1.0")
    stays, goes, collected = host.pod(), host.pod(), host.pod()
    host.call("ADD", config, f"{container}-stays", stays).result()
    host.call("ADD", config, f"{container}-collected", collected).result()
    result = host.call("ADD", config, f"{container}-goes", goes).result()
    host_name = result["interfaces"][1]["name"]
    given = {ip["address"].partition("/")[0] for ip in result["ips"]}
    with broken(host, how):
        told = host.call("STATUS", config, environment=NOTHING).refused(50)
        assert FILE in told
        assert FILE in host.call("ADD", config, f"{container}-new", host.pod()).refused(5)
        host.call("DEL", config, f"{container}-goes", goes).result()
        assert [link["ifname"] for link in host.ip("link", "show", pod=goes)] == ["lo"]
        valid = [{"containerID": f"{container}-stays", "ifname": "eth0"}]
        gc = host.call("GC", {**config, "cni.dev/valid-attachments": valid})
        assert gc.status == 0 or FILE in gc.refused(5)
        assert [link["ifname"] for link in host.ip("link", "show", pod=collected)] == ["lo"]
        assert len(host.host_interfaces()) == 1
        left = elements(host)
        assert host_name not in left
        assert not [address for address in given if f" {address}" in left]
        host.call("DEL", config, f"{container}-goes", goes).result()
        host.call("DEL", config, f"{container}-goes", "").result()
        host.call("DEL", config, f"{container}-never", "").result()
    host.call("STATUS", config, environment=NOTHING).result()
    new = host.pod()
    host.call("ADD", config, f"{container}-new", new).result()
    assert {r[1] for r in host.records()} == {f"{container}-stays", f"{container}-new"}
    assert not addresses(host, new) & addresses(host, stays)
    for each in ("stays", "new"):
        host.call("DEL", config, f"{container}-{each}", "").result()
    assert not host.records()
    assert not host.host_interfaces()
    assert "elements" not in elements(host)


@pytest.mark.parametrize("how", HOW)
def test_our_ipam_frees_the_address_later(
    small_host: CniHost, container: str, conf: MakeConf, how: str
) -> None:
    """It has no interface by which the pod could be found."""
    host, plugin = small_host, {"plugin": "flatmesh-ipam"}
    ranges = [[{"subnet": "10.66.0.0/30"}]]
    config = conf(name="one", ipam={"type": "flatmesh-ipam", "ranges": ranges})
    host.call("ADD", config, container, "/x", **plugin).result()
    with broken(host, how):
        newer: dict[str, Any] = {**config, "cniVersion": "1.1.0"}
        assert FILE in host.call("STATUS", newer, environment=NOTHING, **plugin).refused(50)
        host.call("DEL", config, container, "/x", **plugin).result()
        host.call("ADD", config, f"{container}-2", "/x", **plugin).refused(5)
    host.call("ADD", config, f"{container}-2", "/x", **plugin).result()
    host.call("DEL", config, f"{container}-2", "/x", **plugin).result()
    assert not host.records()


def test_a_pod_that_comes_again_keeps_its_record(
    small_host: CniHost, container: str, conf: MakeConf
) -> None:
    """The deletion that was written down is done once, before the ADD and never after it."""
    host, pod = small_host, small_host.pod()
    host.call("ADD", conf(), container, pod).result()
    with broken(host, "full"):
        host.call("DEL", conf(), container, pod).result()
    for _ in range(2):
        host.call("ADD", conf(), container, pod).result()
        assert [r[1] for r in host.records()] == [container]
        host.call("ADD", conf(), f"{container}-2", host.pod()).result()
        assert container in [r[1] for r in host.records()]
        host.call("DEL", conf(), f"{container}-2", "").result()
        host.call("DEL", conf(), container, pod).result()
    assert not host.records()


def test_flannel_s_state_and_the_store_on_a_read_only_disk(
    small_host: CniHost, container: str
) -> None:
    host, pod = small_host, small_host.pod()
    config = {
        "cniVersion": "1.1.0",
        "name": "cbr0",
        "type": "flannel",
        "subnetFile": str(host.directory / "subnet.env"),
        "dataDir": str(host.directory / "state" / "flannel"),
        "delegate": {"type": "flatmesh"},
    }
    plugin = {"plugin": "flannel"}
    host.call("ADD", config, container, pod, **plugin).result()
    with broken(host, "read-only"):
        assert FILE in host.call("STATUS", config, environment=NOTHING, **plugin).refused(50)
        host.call("DEL", config, container, pod, **plugin).result()
        assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
        host.call("DEL", config, container, pod, **plugin).result()
    host.call("DEL", config, container, "", **plugin).result()
    host.call("ADD", config, f"{container}-2", host.pod(), **plugin).result()
    assert [r[1] for r in host.records()] == [f"{container}-2"]
    host.call("DEL", config, f"{container}-2", "", **plugin).result()
    assert not host.records()


def test_without_any_place_to_write_the_pod_is_taken_down(
    small_host: CniHost, container: str, conf: MakeConf
) -> None:
    """State and run directory are full: its address is found free when its interface is gone."""
    host, pod = small_host, small_host.pod()
    run = host.directory / "run"
    host.call("ADD", conf(), container, pod).result()
    host.kill_server()
    mount("-t", "tmpfs", "-o", "size=4k,ro", "tmpfs", run)
    try:
        with broken(host, "full"):
            host.call("DEL", conf(), container, pod).result()
            assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)
    assert host.records()
    host.serve()
    host.until(lambda: not host.records(), "the daemon finds that the pod is gone")
