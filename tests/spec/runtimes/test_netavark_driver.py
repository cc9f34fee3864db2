# SPDX-License-Identifier: Apache-2.0
"""The netavark driver: called as netavark calls it, and with podman 5 itself (long)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni.netavark import LAUNCHER, answer, cni_call, install, status
from ipam.address_store import AddressStore
from lab import hosts, processes
from lab.cluster import Lab
from lab.docker.image import image_archive
from lab.spec import LabSpec

REPOSITORY = Path(__file__).parents[3]
NETWORK = {
    "name": "flat",
    "id": "5652",
    "driver": "flatmesh",
    "network_interface": "",
    "options": {},
}


def asked(**more: Any) -> dict[str, Any]:
    options = {"interface_name": "eth0", "aliases": ["web"], "static_ips": None, "static_mac": None}
    options |= more.pop("network_options", {})
    return {
        "container_id": "752947ff91f9",
        "container_name": "web",
        "port_mappings": None,
        "network": NETWORK,
        "network_options": options,
        **more,
    }


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (["create"], {**NETWORK, "subnets": [{"subnet": "10.9.0.0/24"}]}, "--subnet: addresses"),
        (["create"], {**NETWORK, "internal": True}, "--internal"),
        (["create"], {**NETWORK, "options": {"mtu": "9000"}}, "--opt"),
        (["create"], [], "no JSON object"),
        (["setup", "/x"], asked(port_mappings=[{"container_port": 80}]), "--publish"),
        (["setup", "/x"], {"network": 1}, "network is no JSON object"),
        (["setup"], {}, "use: flatmesh create"),
        ([], {}, "use: flatmesh create"),
    ],
)
def test_what_can_not_be_had_is_one_line(arguments: list[str], stdin: Any, why: str) -> None:
    from cni.netavark import NetavarkError

    with pytest.raises(NetavarkError, match=why):
        answer(arguments, json.dumps(stdin))


def test_fixed_addresses_are_asked_of_the_plugin() -> None:
    options = {"static_ips": ["10.5.1.77"], "static_mac": "0a:58:00:00:00:42"}
    variables, config = cni_call("ADD", "/run/netns/x", asked(network_options=options))
    assert variables["CNI_IFNAME"] == "eth0"
    assert json.loads(config)["runtimeConfig"] == {
        "ips": ["10.5.1.77"],
        "mac": "0a:58:00:00:00:42",
    }
    assert status({}, "eth0")["interfaces"]["eth0"]["subnets"] == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(LabSpec(f"nv{secrets.token_hex(3)}", 2, 1), tmp_path_factory.mktemp("l"))
    try:
        made.up()
        yield made
    finally:
        made.down()


def held(lab: Lab) -> int:
    with AddressStore(lab.host_dir(1) / "var/addresses.sqlite", durable=False) as store:
        return len(store.list())


def test_a_container_is_set_up_and_torn_down(lab: Lab, tmp_path: Path) -> None:
    program = install(tmp_path / "netavark")
    before = held(lab)
    netns = hosts.make_pod(lab.names, 1, "web")

    def call(action: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*processes.enter(lab.names.host(1)), str(program), action, str(netns)],
            env={**os.environ, **lab.environment(1), "FLATMESH_CNI_BIN_DIR": str(lab.bin_dir)},
            input=json.dumps(asked()),
            capture_output=True,
            text=True,
            check=False,
        )

    done = call("setup")
    assert done.returncode == 0, done.stdout
    (subnet,) = json.loads(done.stdout)["interfaces"]["eth0"]["subnets"]
    assert subnet["ipnet"].rpartition(".")[0] == subnet["gateway"].rpartition(".")[0]
    (other,) = (pod for pod in lab.pods if pod.host == 2)
    ping = ["ping", "-c", "3", "-W", "5", other.addresses[0]]
    subprocess.run([*processes.enter(netns.name), *ping], check=True, capture_output=True)
    again = call("setup")
    assert again.returncode == 1 or json.loads(again.stdout) == json.loads(done.stdout)
    for _ in range(2):
        done = call("teardown")
        assert (done.returncode, done.stdout.strip()) == (0, "")
    assert held(lab) == before
    hosts.remove(netns.name)
    (tmp_path / "netavark/flatmesh").unlink()


# $1: a Debian 13 root with podman and runc; $2: the lab's directory; $3: its shell commands. podman
# sees this host's network and daemon; the driver is run by that Debian's Python from the checkout.
INSIDE = """
set -e
mount --make-rprivate /
mkdir -p "$2/cgroup" && mount --rbind /sys/fs/cgroup "$2/cgroup"
mount --bind "$1" "$1"
mount -t sysfs sysfs "$1/sys" && mount --rbind "$2/cgroup" "$1/sys/fs/cgroup"
mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev"
for at in run tmp mnt opt var/lib/containers usr/local/libexec etc/containers/networks; do
    mkdir -p "$1/$at" && mount -t tmpfs tmpfs "$1/$at"
done
mkdir -p "$1/run/flatmesh" "$1/run/flannel" "$1/opt/cni/bin" "$1/mnt/src"
mkdir -p "$1/usr/local/libexec/netavark"
mount --bind "$2/h1/run" "$1/run/flatmesh" && mount --bind "$2/h1/run" "$1/run/flannel"
mount --bind "$2/cni-bin" "$1/opt/cni/bin" && mount --bind "$4" "$1/mnt/src"
cp "$2/image.tar" "$1/mnt/"
printf '#!/bin/sh\\ncd /mnt/src && exec python3 -m cni.netavark "$@"\\n' \\
    >"$1/usr/local/libexec/netavark/flatmesh"
chmod 755 "$1/usr/local/libexec/netavark/flatmesh"
exec chroot "$1" sh -ec "$3"
"""
PODMAN = (
    "podman --runtime runc --storage-driver vfs --cgroup-manager cgroupfs --events-backend file"
)
STORY = """
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
P="{podman} --events-backend file"
$P import /mnt/image.tar box >/dev/null
$P network create --driver flatmesh flat
$P run -d --name a --network flat --cap-add NET_RAW --security-opt seccomp=unconfined box sleep 100
$P inspect a --format '{{{{(index .NetworkSettings.Networks "flat").IPAddress}}}}'
$P exec a ping -c 3 -W 5 {address}
$P rm -f -t 0 a
$P network rm flat
"""


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("FLATMESH_LONG"), reason="minutes: FLATMESH_LONG=1")
def test_podman_5_runs_containers_on_the_flat_network(lab: Lab) -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip("needs debootstrap")
    root = Path(os.environ.get("FLATMESH_DEBIAN_13", "/var/cache/flatmesh-debian-13"))
    if not (root / "usr/bin/podman").exists():
        packages = "podman,netavark,crun,runc,conmon,python3,nftables"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", "trixie", str(root)],
            check=True,
            capture_output=True,
        )
    before = held(lab)
    (other,) = (pod for pod in lab.pods if pod.host == 2)
    (lab.directory / "image.tar").write_bytes(image_archive())
    story = STORY.format(podman=PODMAN, address=other.addresses[0])
    done = subprocess.run(
        [
            *processes.enter(lab.names.host(1)),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"),
            *("sh", "-c", INSIDE, "inside", str(root), str(lab.directory), story, str(REPOSITORY)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0% packet loss" in done.stdout
    assert lab.subnet(1).rpartition(".")[0] in done.stdout
    assert held(lab) == before


def test_the_launcher_names_the_interpreter(tmp_path: Path) -> None:
    assert install(tmp_path).read_text() == LAUNCHER.format(python=sys.executable)
