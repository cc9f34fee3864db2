# SPDX-License-Identifier: Apache-2.0
"""`flatmeshd --dry-run`: one line for what is wrong; else commands that can be typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
KEY = "/coreos.com/network/config"


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=2, pods_per_host=1, ipv6=True) as lab:
        yield lab


def dry_run(lab: Lab, *flags: str) -> subprocess.CompletedProcess[str]:
    every = {"--etcd-endpoints": lab.endpoint, "--iface": "eth0", "--ip-masq": "true"}
    every |= dict(flag.split("=", 1) for flag in flags)
    argv = [*processes.enter(lab.names.host(1)), sys.executable, "-I", "-m", "agent.main"]
    return subprocess.run(
        [*argv, "--dry-run", *(f"{name}={value}" for name, value in every.items())],
        env={**os.environ, **lab.environment(1)},
        capture_output=True,
        text=True,
        check=False,
    )


def plan(lab: Lab) -> list[str]:
    done = dry_run(lab)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def assert_one_line(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("flatmeshd: ")
    assert words in line


def put(lab: Lab, on: On, text: str | None) -> None:
    action = f"put {KEY} {text}" if text is not None else f"del {KEY}"
    on(lab.names.underlay, f"etcdctl --endpoints={lab.endpoint} {action}")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--etcd-endpoints=http://192.168.64.1:1", "Connection refused"),
        ("--iface=eth9", "matches no device"),
    ],
)
def test_wrong_flags_are_one_line(two: Lab, flag: str, words: str) -> None:
    assert_one_line(dry_run(two, flag), words)


@pytest.mark.parametrize(
    ("content", "words"), [("junk", "not PEM"), ("-----BEGIN CERTIFICATE-----\nAA", "PEM")]
)
def test_a_bad_certificate_is_one_line(two: Lab, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(content)
    done = dry_run(two, "--etcd-endpoints=https://192.168.64.1:2379", f"--etcd-cafile={file}")
    assert_one_line(done, words)
    assert str(file) in done.stderr


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no cluster config"),
        ("{", "not JSON"),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"wiregaurd"}}', "did you mean wireguard?"),
    ],
)
def test_a_bad_config_is_one_line(two: Lab, on: On, config: str | None, words: str) -> None:
    put(two, on, config)
    try:
        assert_one_line(dry_run(two), words)
    finally:
        two.configure(two.spec.cluster_config())


def test_what_is_in_the_way_of_a_lab_is_one_line(tmp_path: Path) -> None:
    up = [sys.executable, "-m", "cli.main", "lab", "up", "--name", "tnone"]
    for more, path, words in (
        (["--dir", "/proc/x"], os.environ["PATH"], "/proc/x: No such file or directory"),
        (["--dir", str(tmp_path)], str(tmp_path), "program ip is not installed"),
    ):
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            [*up, *more], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def wipe(lab: Lab, on: On) -> None:
    """Take from host 1 what its daemon, which is stopped, has made."""
    host = lab.names.host(1)
    for kind in ("vxlan", "tun", "wireguard"):
        for link in json.loads(on(host, f"ip -json link show type {kind}") or "[]"):
            on(host, f"ip link del {link['ifname']}", check=False) if link else None
    for family in ("-4", "-6"):
        on(host, f"ip {family} route flush proto 102", check=False)
    on(host, "ip nexthop flush proto 102", check=False)
    on(host, "nft flush ruleset")
    on(host, "sysctl -qw net.ipv4.ip_forward=0")
    on(host, "sysctl -qw net.ipv6.conf.all.forwarding=0")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "udp", "wireguard"])
def test_each_line_can_be_typed_and_has_the_effect(
    two: Lab, on: On, eventually: Eventually, backend: str
) -> None:
    two.configure({**two.spec.cluster_config(), "Backend": {"Type": backend}})
    type_in_lease = {"udp": "PublicIP"}.get(backend, f'"{backend}"')
    leases = f"etcdctl --endpoints={two.endpoint} get --prefix /coreos.com/network/subnets"
    eventually(lambda: on(two.names.underlay, leases).count(type_in_lease) >= 2, "all have changed")
    eventually(lambda: two.ready(1), "host 1 is ready")
    two.stop_daemon(1)
    try:
        wipe(two, on)
        lines = plan(two)
        assert any(line.startswith("nft ") for line in lines)
        ours = ("ip ", "bridge ", "nft ", "sysctl ")
        typed = [line for line in lines if line.startswith(ours)]
        others = [line for line in lines if line not in typed and not line.startswith("#")]
        for line in typed:
            done = subprocess.run(
                [*processes.enter(two.names.host(1)), "sh", "-c", line],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"
        left = [line for line in plan(two) if not line.startswith("#")]
        # what another program than ip, bridge, nft, sysctl makes can't be typed
        assert left == others
    finally:
        two.start_daemon(1)
        two.wait_ready(1)


def test_it_plans_from_the_lease_that_the_daemon_would_use(two: Lab, on: On) -> None:
    """A leftover under our address that doesn't fit the config is not it."""
    mine = two.subnet(1)
    value: dict[str, Any] = {"PublicIP": "192.168.64.11", "PublicIPv6": "fd00:1::11"}
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:01"}
    value |= {"BackendType": "vxlan", "BackendData": data, "BackendV6Data": data}
    text = json.dumps(value, separators=(",", ":"))
    two.configure(two.spec.cluster_config())
    subnets = "/coreos.com/network/subnets"
    leftover = f"{subnets}/10.5.1.0-30&fd05:0:0:1::-64"
    on(two.names.underlay, f"etcdctl --endpoints={two.endpoint} put {leftover} {text}")
    try:
        two.stop_daemon(1)
        wipe(two, on)
        lines = plan(two)
        assert any(f"{mine.partition('/')[0]}/32 dev flannel.1" in line for line in lines)
        assert not any("10.5.1.0/32" in line for line in lines)
    finally:
        on(two.names.underlay, f"etcdctl --endpoints={two.endpoint} del {leftover}")
        two.start_daemon(1)
        two.wait_ready(1)
