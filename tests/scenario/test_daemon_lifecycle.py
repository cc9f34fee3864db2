# SPDX-License-Identifier: Apache-2.0
"""A daemon stops, dies, starts again or starts too early: pods' traffic goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from lab import processes
from lab.cluster import Lab
from lab.spec import LabPod
from tests.scenario.free_subnets import free_subnets

On = Callable[..., str]
Eventually = Callable[..., None]


def routes(lab: Lab, on: On, number: int) -> set[str]:
    return {
        route["dst"]
        for route in json.loads(on(lab.names.host(number), "ip -json route show"))
        if route.get("dev") == "flannel.1"
    }


def far_pods(lab: Lab) -> tuple[LabPod, LabPod]:
    first, last = lab.pods[0], lab.pods[-1]
    assert first.host != last.host
    return first, last


def restart(lab: Lab, number: int) -> None:
    lab.start_daemon(number)
    lab.wait_ready(number)


def test_killed_daemon_loses_no_packet_and_keeps_its_lease(
    cluster: Lab, on: On, lost_while_daemon_is_killed: Callable[..., int]
) -> None:
    sender, receiver = far_pods(cluster)
    before = (cluster.host_dir(sender.host) / "run/subnet.env").read_text()
    assert lost_while_daemon_is_killed(cluster, sender, receiver) == 0
    assert (cluster.host_dir(sender.host) / "run/subnet.env").read_text() == before
    assert len(routes(cluster, on, sender.host)) == 2


def test_graceful_stop_leaves_the_data_plane_in_place(cluster: Lab, on: On) -> None:
    sender, receiver = far_pods(cluster)
    cluster.stop_daemon(sender.host)
    assert cluster.daemon_pid(sender.host) is None
    assert len(routes(cluster, on, sender.host)) == 2
    assert "1 received" in on(sender.netns, f"ping -c 1 -W 5 {receiver.addresses[0]}")
    restart(cluster, sender.host)


def test_second_daemon_on_a_host_refuses_to_start(cluster: Lab) -> None:
    second = cluster.start_daemon(1)
    first_line_deadline = 20.0
    assert second.wait(first_line_deadline) == 1
    assert "another flatmeshd" in cluster.log(1).splitlines()[-1]
    # the pid file now names the one that refused: put the running one back
    (running,) = [
        pid
        for pid in processes.in_namespaces([cluster.names.host(1)])
        if b"agent.main" in open(f"/proc/{pid}/cmdline", "rb").read()  # noqa: SIM115, PTH123
    ]
    (cluster.host_dir(1) / "flatmeshd.pid").write_text(f"{running}\n")
    assert cluster.ready(1)


def test_pod_comes_and_goes_without_the_daemon(cluster: Lab, on: On) -> None:
    cluster.stop_daemon(2)
    pod = cluster.add_pod(2, "lonely")
    other = next(p for p in cluster.pods if p.host == 1)
    assert "1 received" in on(pod.netns, f"ping -c 1 -W 5 {other.addresses[0]}")
    cluster.delete_pod(2, "lonely")
    restart(cluster, 2)


def test_pod_deleted_twice_is_no_error(cluster: Lab) -> None:
    pod = cluster.add_pod(1, "twice")
    attachment = cluster.pod_interface(1, "twice")
    cluster.delete_pod(1, "twice")
    cluster.runtime(1).delete(cluster.conflist, attachment, pod.result)
    cluster.runtime(1).delete(cluster.conflist, attachment)


def test_host_that_leaves_is_removed_and_may_come_back(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    leaver = lab.pods[2]
    subnet = ".".join(leaver.addresses[0].split(".")[:3]) + ".0/24"
    lab.stop_daemon(3)
    lab.flatmesh("lease", "release", subnet)
    for number in (1, 2):
        eventually(lambda n=number: subnet not in routes(lab, on, n), f"h{number} forgets {subnet}")
    restart(lab, 3)
    for number in (1, 2):
        eventually(lambda n=number: subnet in routes(lab, on, n), f"h{number} knows it again")


def test_host_that_left_while_the_daemon_was_down_leaves_no_trace(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    subnet = ".".join(lab.pods[2].addresses[0].split(".")[:3]) + ".0/24"
    lab.stop_daemon(1)
    lab.stop_daemon(3)
    lab.flatmesh("lease", "release", subnet)
    assert subnet in routes(lab, on, 1)
    restart(lab, 1)
    eventually(lambda: subnet not in routes(lab, on, 1), "the route is swept")
    gone = subnet.removesuffix("/24")
    assert gone not in on(lab.names.host(1), "ip neigh show dev flannel.1")
    assert "192.168.64.13" not in on(lab.names.host(1), "bridge fdb show dev flannel.1")


def test_cleanup_removes_all_that_is_ours(make_lab: Callable[..., Lab], on: On) -> None:
    import subprocess
    import sys

    lab = make_lab(hosts=2, pods_per_host=1)
    lab.stop_daemon(1)
    lab.delete_pod(1, "p1")
    host = lab.names.host(1)
    on(host, "ip route add 198.51.100.0/24 via 192.168.64.1")  # not ours
    done = subprocess.run(
        [*processes.enter(host), sys.executable, "-I", "-m", "agent.main", "--cleanup", "--force"],
        env={**os.environ, **lab.environment(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {link["ifname"] for link in json.loads(on(host, "ip -json link"))} == {"lo", "eth0"}
    left = {route["dst"] for route in json.loads(on(host, "ip -json route"))}
    assert left == {"default", "192.168.64.0/24", "198.51.100.0/24"}
    assert "flatmesh" not in on(host, "nft list tables")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no cluster config"),
        ("{", "not JSON"),
        ('{"Network":"10.5.0.0/33"}', "Network"),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"carrier-pigeon"}}', "carrier-pigeon"),
    ],
)
def test_missing_or_malformed_config_is_logged_once_until_it_is_corrected(
    make_lab: Callable[..., Lab],
    on: On,
    eventually: Eventually,
    config: str | None,
    words: str,
) -> None:
    lab = make_lab(hosts=1, pods_per_host=0)
    key = "/coreos.com/network/config"
    etcdctl = f"etcdctl --endpoints={lab.endpoint}"
    lab.stop_daemon(1)
    (lab.host_dir(1) / "flatmeshd.log").write_text("")
    (lab.host_dir(1) / "var/config.json").unlink()  # else the last run's stays in force
    on(lab.names.underlay, f"{etcdctl} del {key}")
    if config is not None:
        on(lab.names.underlay, f"{etcdctl} put {key} {config}")
    lab.start_daemon(1)
    eventually(lambda: words in lab.log(1), f"the log says {words!r}")
    time.sleep(0.5)  # long enough for a busy loop to repeat itself
    lines = [line for line in lab.log(1).splitlines() if words in line]
    assert len(lines) == 1
    assert "Traceback" not in lab.log(1)
    assert not lab.ready(1)
    lab.configure(lab.spec.cluster_config())
    lab.wait_ready(1)


def test_daemon_that_starts_before_etcd_waits_for_it(
    make_lab: Callable[..., Lab], eventually: Eventually
) -> None:
    lab = make_lab(hosts=1, pods_per_host=1)
    lab.stop_daemon(1)
    lab.etcd.stop()
    (lab.host_dir(1) / "flatmeshd.log").write_text("")
    lab.start_daemon(1)
    eventually(lambda: "etcd" in lab.log(1), "the log says that etcd is away")
    assert not lab.ready(1)
    lab.start_etcd()
    lab.wait_ready(1)
    assert "Traceback" not in lab.log(1)


def test_broken_and_foreign_keys_are_logged_once_and_skipped(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    etcdctl = f"etcdctl --endpoints={lab.endpoint} put /coreos.com/network/subnets/"
    broken = free_subnets(lab, 1)[0].replace("/", "-")
    on(lab.names.underlay, etcdctl + f"{broken} not-json")
    on(lab.names.underlay, etcdctl + "hello {}")
    eventually(lambda: broken in lab.log(1) and "hello" in lab.log(1), "both are named")
    lab.start_daemon(2)  # any change makes daemons look at the leases again
    assert len([line for line in lab.log(1).splitlines() if "hello" in line]) == 1
    first, second = far_pods(lab)
    assert "1 received" in on(first.netns, f"ping -c 1 -W 5 {second.addresses[0]}")
