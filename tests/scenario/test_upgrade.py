# SPDX-License-Identifier: Apache-2.0
"""A running cluster is upgraded by a new wheel: no packet is lost, no pod changes its address.

The old version is the last commit before the rooms were redesigned; its wheel is built from
git here, so a clone without that commit can't run these tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from lab.spec import LabPod
from lab.watched_stream import watched_stream

REPOSITORY = Path(__file__).parents[2]
OLD = "1188e3e"
COMMAND_TIMEOUT = 120.0  # seconds for pip, and for --cleanup
AROUND = 100  # datagrams that must arrive before and after each step
USERSPACE_LOSS = 3  # datagrams of thousands that Open vSwitch in user space may lose by itself

BARE_HOST = {
    *(
        "link lo",
        "link eth0",
        "route default dev eth0",
        "route 192.168.64.0/24 dev eth0",
        "route fd00:1::/64 dev eth0",
    ),
    *("rule 0", "rule 32766", "rule 32767"),
}
"""What a host has that flatmesh never touched."""

BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "wireguard": {"Type": "wireguard"},
    "ovs": {"Type": "ovs", "Tunnel": "vxlan", "Mesh": "flow"},
}


def run(*argv: str | Path, **more: Any) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT, **more
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def build(commit: str | None, directory: Path) -> Path:
    """The wheel of a commit, or of the working tree."""
    tree = directory / "tree"
    tree.mkdir(parents=True)
    if commit is None:
        names = run(
            "git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "-X.gitignore"
        )
        present = [name for name in names.split("\0") if name and (REPOSITORY / name).exists()]
        pack = ["tar", "-C", str(REPOSITORY), "--no-recursion", "-cf", "-", *present]
    else:
        pack = ["git", "-C", str(REPOSITORY), "archive", commit]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-C", tree, "-xf", "-"], stdin=packing.stdout, check=True)
    assert packing.returncode == 0
    wheel = ("wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", *wheel, "-w", directory, tree)
    (built,) = directory.glob("flatmesh-*.whl")
    return built


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The old wheel and the new one."""
    known = subprocess.run(
        ["git", "-C", REPOSITORY, "cat-file", "-e", f"{OLD}^{{commit}}"],
        capture_output=True,
        check=False,
    )
    if known.returncode:
        pytest.skip(f"this clone has no commit {OLD}, the version before")
    directory = tmp_path_factory.mktemp("wheels")
    return build(OLD, directory / "old"), build(None, directory / "new")


@dataclass(frozen=True, slots=True)
class Installation:
    """A private environment, as deploy/install makes it; only flatmesh itself is installed."""

    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin/python"

    def create(self) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", self.directory)
        (site,) = self.directory.glob("lib/python*/site-packages")
        # what flatmesh needs comes from the tests' environment, behind what is installed here
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def has(self, room: str) -> bool:
        """Whether a package of ours is installed."""
        return any(self.directory.glob(f"lib/python*/site-packages/{room}/__init__.py"))

    def install(self, wheel: Path) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install")
        how = ("-q", "--no-deps", "--force-reinstall", "--no-index", "--disable-pip-version-check")
        run(*pip, *how, wheel)


@pytest.fixture
def installation(tmp_path: Path, wheels: tuple[Path, Path]) -> Installation:
    """An environment with the old version."""
    made = Installation(tmp_path / "venv")
    made.create()
    made.install(wheels[0])
    assert made.has("agent")
    assert not made.has("base"), "that is no wheel of the version before"
    return made


def addresses(pod: LabPod) -> set[str]:
    """What the kernel has in the pod's namespace."""
    links = json.loads(run("ip", "-n", pod.netns, "-json", "addr", "show", "eth0"))
    return {a["local"] for link in links for a in link["addr_info"] if a["scope"] == "global"}


def state(lab: Lab, number: int) -> set[str]:
    """What is on a host: links, routes, rules, nftables' tables, OVS bridges, processes."""
    host = lab.names.host(number)
    found = [f"link {x['ifname']}" for x in json.loads(run("ip", "-n", host, "-json", "link"))]
    for family in ("-4", "-6"):
        routes = json.loads(run("ip", "-n", host, family, "-json", "route"))
        found += [f"route {x['dst']} dev {x['dev']}" for x in routes if x["dst"] != "fe80::/64"]
        rules = json.loads(run("ip", "-n", host, family, "-json", "rule"))
        found += [f"rule {x['priority']}" for x in rules]
    found += run(*processes.enter(host), "nft", "list", "tables").splitlines()
    if lab.spec.backend["Type"] == "ovs":
        found += [f"bridge {name}" for name in lab.ovs(number).vsctl("list-br").split()]
    found += [
        f"process {command}"
        for pid in processes.in_namespaces([host])
        if (command := Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        and "ovs" not in command.split()[0]
    ]
    return set(found)


def assert_all_reach_all(lab: Lab) -> None:
    for family in (4, 6):
        assert [result for result in lab.matrix(family, timeout=30.0) if not result.good] == []


def loses_packets_with_a_link(lab: Lab) -> bool:
    """Whether the data plane is Open vSwitch in user space.

    It loses tunnel packets for some milliseconds whenever any link of its host comes or goes, as
    with `ip link add` by hand, while it reads the host's interfaces anew.
    """
    return lab.spec.backend["Type"] == "ovs" and "netdev" in lab.ovs(1).vsctl(
        "get", "bridge", "obr0", "datapath_type"
    )


def cleanup(lab: Lab, number: int) -> None:
    enter = processes.enter(lab.names.host(number))
    environment = {**os.environ, **lab.environment(number)}
    run(*enter, lab.spec.python, "-I", "-m", "agent.main", "--cleanup", env=environment)


@contextlib.contextmanager
def no_loss(
    one: LabPod, other: LabPod, eventually: Callable[..., None], allowed: int
) -> Iterator[Callable[[str], None]]:
    """Traffic both ways in the block, of which no more is lost; yields a check that it flows."""
    with watched_stream(one, other) as there, watched_stream(other, one) as back:

        def flowing(what: str) -> None:
            marks = there.received, back.received
            eventually(
                lambda: there.received > marks[0] + AROUND and back.received > marks[1] + AROUND,
                f"traffic flows both ways {what}",
            )

        yield flowing
    assert max(there.lost, back.lost) <= allowed, (there.lost, back.lost)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_upgrade_loses_no_packet_and_keeps_every_pod(
    make_lab: Callable[..., Lab],
    installation: Installation,
    wheels: tuple[Path, Path],
    eventually: Callable[..., None],
    backend: str,
) -> None:
    lab = make_lab(
        hosts=2,
        pods_per_host=2,
        backend=BACKENDS[backend],
        ipv6=True,
        python=str(installation.python),
    )
    assert_all_reach_all(lab)
    pods = {(pod.host, pod.name): pod for pod in lab.pods}
    before = {key: addresses(pod) for key, pod in pods.items()}
    one, other = pods[1, "p1"], pods[2, "p1"]

    allowed = USERSPACE_LOSS if loses_packets_with_a_link(lab) else 0

    def a_pod_comes_and_one_goes() -> None:
        lab.add_pod(1, "between")
        lab.delete_pod(1, "p2")

    with no_loss(one, other, eventually, allowed) as flowing:
        flowing("with the old version")
        installation.install(wheels[1])
        assert installation.has("base")
        lab.install_plugins()
        flowing("with the new version installed and the old daemons running")
        if not loses_packets_with_a_link(lab):
            a_pod_comes_and_one_goes()
    if loses_packets_with_a_link(lab):
        a_pod_comes_and_one_goes()
    with no_loss(one, other, eventually, allowed) as flowing:
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            flowing(f"without a daemon on h{number}")
            lab.start_daemon(number)
            lab.wait_ready(number)
            flowing(f"with the new daemon on h{number}")
        time.sleep(2.0)  # seconds: what the new daemons do behind their start is done

    del pods[1, "p2"], before[1, "p2"]
    assert {key: addresses(pod) for key, pod in pods.items()} == before
    for number in lab.host_numbers:
        lab.add_pod(number, "new")
    assert_all_reach_all(lab)
    for pod in pods.values():
        interface = lab.pod_interface(pod.host, pod.name)
        lab.runtime(pod.host).check(lab.conflist, interface, pod.result)
    for pod in lab.pods:
        lab.delete_pod(pod.host, pod.name)
    for number in lab.host_numbers:
        assert not [line for line in state(lab, number) if "veth" in line]
        lab.stop_daemon(number)
        cleanup(lab, number)
        assert "Traceback" not in lab.log(number)
        assert state(lab, number) == BARE_HOST
