# SPDX-License-Identifier: Apache-2.0
"""A cluster on WireGuard: whatever dies or changes, traffic goes on, and always encrypted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flannel.wireguard.key import KeyFile
from hostnet.wireguard.netlink import kernel_has_wireguard
from lab import processes
from lab.cluster import Lab

On = Callable[..., str]
Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts, both families."""
    import secrets

    from lab.spec import LabSpec

    spec = LabSpec(f"t{secrets.token_hex(4)}", hosts=2, ipv6=True, backend={"Type": "wireguard"})
    lab = Lab(spec, tmp_path_factory.mktemp("labs"))
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def assert_all_reach_all(lab: Lab) -> None:
    for family in (4, 6):
        results = lab.matrix(family, timeout=30.0)
        assert len(results) > len(lab.pod_endpoints(family))
        assert [result for result in results if not result.good] == []


IN_A_PROCESS = pytest.mark.skipif(
    kernel_has_wireguard(), reason="wireguard-go is not used: the kernel has WireGuard"
)


def wireguard_go(lab: Lab, number: int) -> set[int]:
    pids = processes.in_namespaces([lab.names.host(number)])
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text().strip() == "wireguard-go":
                found.add(pid)
    return found


def flatmeshd(lab: Lab, number: int, *flags: str) -> str:
    """Run flatmeshd and wait for its end."""
    done = subprocess.run(
        [
            *processes.enter(lab.names.host(number)),
            *(sys.executable, "-I", "-m", "agent.main", f"--etcd-endpoints={lab.endpoint}"),
            *("--iface=eth0", "--ip-masq", *flags),
        ],
        env={**os.environ, **lab.environment(number)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def published_key(lab: Lab, number: int) -> str:
    key = KeyFile(lab.host_dir(number) / "var").read()
    assert key is not None
    return key.public


def test_every_pod_reaches_every_pod_and_host(cluster: Lab) -> None:
    assert_all_reach_all(cluster)


@IN_A_PROCESS
def test_a_killed_wireguard_go_is_started_again(cluster: Lab) -> None:
    killed = wireguard_go(cluster, 1)
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert_all_reach_all(cluster)
    assert len(wireguard_go(cluster, 1)) == 2


def test_a_killed_daemon_loses_no_packet(
    cluster: Lab, lost_while_daemon_is_killed: Callable[..., int]
) -> None:
    before = wireguard_go(cluster, 1)
    sender, receiver = cluster.pods[0], cluster.pods[-1]
    assert lost_while_daemon_is_killed(cluster, sender, receiver, "--resync=1") == 0
    assert wireguard_go(cluster, 1) == before
    assert flatmeshd(cluster, 1, "--dry-run") == ""


def test_a_new_key_is_made_on_request(cluster: Lab, eventually: Eventually) -> None:
    cluster.stop_daemon(1)
    cluster.start_daemon(1, "--resync=1")
    eventually(lambda: cluster.ready(1), "the daemon is ready")
    old = published_key(cluster, 1)
    KeyFile(cluster.host_dir(1) / "var").ask_rotation()
    eventually(lambda: published_key(cluster, 1) != old, "there is a new key")
    new = published_key(cluster, 1)
    eventually(lambda: f"peer {new}" in cluster.log(2), "host 2 has it")
    assert_all_reach_all(cluster)
    assert not (cluster.host_dir(1) / "var/wireguard.rotate").exists()


@IN_A_PROCESS
def test_no_process_is_left_when_the_backend_changes_while_no_daemon_runs(
    cluster: Lab, eventually: Eventually
) -> None:
    for number in cluster.host_numbers:
        cluster.stop_daemon(number)
        assert len(wireguard_go(cluster, number)) == 2
    config = cluster.spec.cluster_config()
    cluster.configure({**config, "Backend": {"Type": "vxlan"}})
    for number in cluster.host_numbers:
        cluster.start_daemon(number)
    assert_all_reach_all(cluster)
    for number in cluster.host_numbers:
        eventually(lambda n=number: wireguard_go(cluster, n) == set(), "wireguard-go has gone")
    cluster.configure(config)
    eventually(lambda: len(wireguard_go(cluster, 1)) == 2, "wireguard-go is back")
    assert_all_reach_all(cluster)


def test_cleanup_leaves_nothing_of_wireguard(cluster: Lab, on: On) -> None:
    cluster.stop_daemon(1)
    flatmeshd(cluster, 1, "--cleanup", "--force")
    assert wireguard_go(cluster, 1) == set()
    assert "flannel-wg" not in on(cluster.names.host(1), "ip -brief link")
    left = [path for path in cluster.host_dir(1).rglob("*wireguard*") if path.is_file()]
    assert left == []
