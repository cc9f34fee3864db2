# SPDX-License-Identifier: Apache-2.0
"""podman with network_backend "cni": it asks for versions, reloads networks, joins second ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.spec.runtimes.runtime_host import RuntimeHost, WaitUntil

MISSING = [p for p in ("podman", "conmon", "runc") if shutil.which(p) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.timeout(300),
]
IMAGE = "docker.io/library/fm-busybox:1"
CONTAINERS_CONF = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin_dir}"]
network_config_dir = "{net_d}"
default_network = "pods"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
apparmor_profile = ""
seccomp_profile = "unconfined"
default_sysctls = []
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
STORAGE_CONF = """
[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
"""


class Podman:
    """podman on one host."""

    def __init__(self, host: RuntimeHost, cgroup_parent: str) -> None:
        self.host, self.cgroup_parent = host, cgroup_parent

    def start(self, image: Path) -> None:
        host = self.host
        host.conflist("pods", {"type": "flatmesh"}, {"type": "tuning"})
        host.conflist("pods2", {"type": "flatmesh"}, {"type": "tuning"})
        for name, text in (
            ("containers.conf", CONTAINERS_CONF.format(bin_dir=host.bin_dir, net_d=host.net_d)),
            ("storage.conf", STORAGE_CONF),
            ("policy.json", POLICY),
        ):
            (host.directory / name).write_text(text)
        host.variables["CONTAINERS_CONF"] = str(host.directory / "containers.conf")
        host.variables["CONTAINERS_STORAGE_CONF"] = str(host.directory / "storage.conf")
        self("load", "--signature-policy", f"{host.directory}/policy.json", "--input", str(image))

    def __call__(self, *arguments: str, check: bool = True) -> str:
        return self.host.run("podman", *arguments, check=check)

    def run(self, name: str, *options: str) -> None:
        self(
            "run",
            "--detach",
            "--name",
            name,
            "--cgroup-parent",
            self.cgroup_parent,
            *(("--network", "pods") if "--network" not in options else ()),
            *("--oom-score-adj", "0", *options),
            IMAGE,
        )

    def networks(self, name: str) -> dict[str, tuple[str, str]]:
        """What podman reports of the container: by network, (address, MAC)."""
        settings = json.loads(self("inspect", name))[0]["NetworkSettings"]["Networks"]
        return {n: (s["IPAddress"], s["MacAddress"]) for n, s in settings.items()}

    def remove(self, *names: str) -> None:
        self("rm", "--force", "--time", "0", *names)


@pytest.fixture(scope="module")
def podmans(runtime_hosts: list[RuntimeHost], image: Path, cgroup_parent: str) -> list[Podman]:
    made = [Podman(host, cgroup_parent) for host in runtime_hosts]
    for podman in made:
        podman.start(image)
    return made


@pytest.fixture
def gone(wait_until: WaitUntil) -> Callable[[Podman], None]:
    """Wait until a host holds no trace of a container: `rm` returns before conmon's cleanup."""

    def wait(podman: Podman) -> None:
        host = podman.host
        wait_until(
            lambda: not (host.records() or host.host_interfaces()), f"{host.records()} to go"
        )

    return wait


def test_containers_on_two_hosts_talk_and_leave_nothing(
    podmans: list[Podman], gone: Callable[[Podman], None]
) -> None:
    for number, podman in enumerate(podmans):
        podman.run(f"c{number}")
    addresses = [podman.networks(f"c{n}")["pods"][0] for n, podman in enumerate(podmans)]
    assert addresses[0].rsplit(".", 1)[0] != addresses[1].rsplit(".", 1)[0]
    for number, (podman, target) in enumerate(zip(podmans, reversed(addresses), strict=True)):
        podman("exec", f"c{number}", "/bin/ping", "-c", "1", "-W", "20", target)
    for number, podman in enumerate(podmans):
        podman.remove(f"c{number}")
        gone(podman)


def test_a_reload_keeps_address_and_mac(
    podmans: list[Podman], gone: Callable[[Podman], None]
) -> None:
    podman = podmans[0]
    podman.run("reloaded")
    before = podman.networks("reloaded")
    podman("network", "reload", "reloaded")
    assert podman.networks("reloaded") == before
    shown = podman("exec", "reloaded", "/bin/ip", "addr", "show", "eth0")
    address, mac = before["pods"]
    assert address in shown
    assert mac in shown
    podman.remove("reloaded")
    gone(podman)


def test_a_second_network_comes_and_goes(
    podmans: list[Podman], gone: Callable[[Podman], None]
) -> None:
    podman = podmans[0]
    podman.run("joined")
    podman("network", "connect", "pods2", "joined")
    assert set(podman.networks("joined")) == {"pods", "pods2"}
    assert {r[2] for r in podman.host.records()} == {"eth0", "eth1"}
    podman("network", "disconnect", "pods2", "joined")
    assert {r[2] for r in podman.host.records()} == {"eth0"}
    podman.remove("joined")
    gone(podman)


@pytest.mark.skipif(
    not Path("/usr/lib/cni/dnsname").exists() or shutil.which("dnsmasq") is None,
    reason="needs golang-github-containernetworking-plugin-dnsname and dnsmasq-base",
)
def test_containers_find_each_other_by_name(
    podmans: list[Podman], gone: Callable[[Podman], None]
) -> None:
    podman = podmans[0]
    dnsname: dict[str, object] = {
        "type": "dnsname",
        "domainName": "dns.podman",
        "capabilities": {"aliases": True},
    }
    podman.host.conflist("named", {"type": "flatmesh"}, {"type": "tuning"}, dnsname)
    for name in ("first", "second"):
        podman.run(name, "--network", "named")
    assert podman.networks("second").keys() == {"named"}
    for target in ("second", "second.dns.podman"):
        podman("exec", "first", "/bin/ping", "-c", "1", "-W", "20", target)
    podman.remove("first", "second")
    gone(podman)


def test_an_address_and_a_mac_can_be_asked_for(
    podmans: list[Podman], gone: Callable[[Podman], None]
) -> None:
    podman = podmans[1]
    subnet = podman.host.lab.subnet(2)
    address = subnet.rpartition(".")[0] + ".77"
    podman.run("asked", "--ip", address, "--mac-address", "0a:58:00:00:00:42")
    assert podman.networks("asked")["pods"] == (address, "0a:58:00:00:00:42")
    podman.run("restarted")
    podman("restart", "--time", "0", "restarted")
    podman.remove("asked", "restarted")
    gone(podman)
