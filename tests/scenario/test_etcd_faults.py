# SPDX-License-Identifier: Apache-2.0
"""etcd fails in several ways: pods' traffic goes on, and the cluster converges afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lab.cluster import Lab
from lab.watched_stream import watched_stream

On = Callable[..., str]
Eventually = Callable[..., None]


def reaches(lab: Lab, on: On) -> bool:
    first, last = lab.pods[0], lab.pods[-1]
    assert first.host != last.host
    return "1 received" in on(first.netns, f"ping -c 1 -W 1 {last.addresses[0]}", check=False)


def leases(lab: Lab, on: On) -> dict[str, Any]:
    listing = on(
        lab.names.underlay,
        f"etcdctl --endpoints={lab.endpoint} get --prefix /coreos.com/network/subnets/",
    ).splitlines()
    keys = (key.rpartition("/")[2] for key in listing[::2])
    return dict(zip(keys, map(json.loads, listing[1::2]), strict=True))


def new_host_joins(lab: Lab, on: On, eventually: Eventually) -> None:
    """Add a host: when all reach it, every daemon follows etcd again."""
    number = lab.spec.hosts
    lab.start_daemon(number)
    lab.wait_ready(number)
    subnet = lab.subnet(number)
    for other in range(1, number):
        eventually(
            lambda o=other: subnet in on(lab.names.host(o), "ip route"),
            f"h{other} knows the new host",
        )


def test_etcd_away_then_back(make_lab: Callable[..., Lab], on: On, eventually: Eventually) -> None:
    lab = make_lab(pods_per_host=1)
    lab.stop_daemon(3)
    lab.etcd.kill()
    assert reaches(lab, on)
    added = lab.add_pod(1, "while-away")
    assert "1 received" in on(added.netns, f"ping -c 1 -W 2 {lab.pods[-1].addresses[0]}")
    lab.start_etcd()
    new_host_joins(lab, on, eventually)
    assert reaches(lab, on)


def test_etcd_restarted_empty_gets_its_leases_back(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    before = {number: lab.subnet(number) for number in lab.host_numbers}
    lab.etcd.kill()
    lab.etcd.wipe()
    with watched_stream(lab.pods[0], lab.pods[-1]) as stream:
        lab.start_etcd()
        eventually(lambda: len(leases(lab, on)) == 3, "all hosts register again", timeout=40)
    assert stream.sent > 0
    assert stream.lost == 0
    lab.configure(lab.spec.cluster_config())
    assert {number: lab.subnet(number) for number in lab.host_numbers} == before
    eventually(lambda: reaches(lab, on), "pods reach each other")


def test_compaction_while_a_host_is_cut_off_from_etcd(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    host = lab.names.host(1)
    on(host, "nft add table ip cut")
    on(host, "nft add chain ip cut input { type filter hook input priority 0 ; }")
    on(host, "nft add rule ip cut input tcp sport 2379 drop")
    subnet = lab.subnet(3)
    lab.stop_daemon(3)
    lab.flatmesh("lease", "release", subnet)
    etcdctl = f"etcdctl --endpoints={lab.endpoint}"
    status = json.loads(on(lab.names.underlay, f"{etcdctl} endpoint status -w json"))
    revision = status[0]["Status"]["header"]["revision"]
    on(lab.names.underlay, f"{etcdctl} compact {revision}")
    assert subnet in on(host, "ip route")
    on(host, "nft delete table ip cut")
    eventually(lambda: subnet not in on(host, "ip route"), "the gone host is forgotten", timeout=40)
    new_host_joins(lab, on, eventually)


def test_etcd_that_hangs_is_waited_for(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    lab.stop_daemon(3)
    lab.etcd.pause()
    try:
        assert reaches(lab, on)
        lab.stop_daemon(2)  # ends although etcd doesn't answer
        assert lab.daemon_pid(2) is None
        lab.start_daemon(2)
    finally:
        lab.etcd.resume()
    lab.wait_ready(2)
    new_host_joins(lab, on, eventually)


def test_own_lease_deleted_is_taken_again(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    before = leases(lab, on)
    lab.flatmesh("lease", "release", lab.subnet(1))
    eventually(lambda: leases(lab, on) == before, "the same lease is back")
    eventually(lambda: reaches(lab, on), "pods reach each other")
    assert lab.daemon_pid(1) is not None


def test_own_lease_taken_by_another_host_is_reported_as_a_conflict(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    key = lab.subnet(1).replace("/", "-")
    path = f"/coreos.com/network/subnets/{key}"
    thief = '{"PublicIP":"192.168.64.200","PublicIPv6":null,"BackendType":"host-gw"}'
    etcdctl = f"etcdctl --endpoints={lab.endpoint}"
    on(lab.names.underlay, f"{etcdctl} put {path} {thief}")
    eventually(lambda: "192.168.64.200" in lab.log(1), "the conflict is reported")
    assert leases(lab, on)[key]["PublicIP"] == "192.168.64.200"
    assert lab.daemon_pid(1) is not None
    on(lab.names.underlay, f"{etcdctl} del {path}")
    eventually(
        lambda: leases(lab, on).get(key, {}).get("PublicIP") == "192.168.64.11",
        "the lease is taken back when the other lets go",
    )
    eventually(lambda: reaches(lab, on), "pods reach each other")


def test_partition_from_etcd_that_outlasts_the_lease(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    host, subnet = lab.names.host(1), lab.subnet(1)
    lab.stop_daemon(1)
    lab.start_daemon(1, "--subnet-lease-ttl=5")
    lab.wait_ready(1)
    lab.flatmesh("lease", "release", subnet)  # so that it is taken again with the short life
    eventually(lambda: "taking it again" in lab.log(1), "the lease is taken again")
    eventually(lambda: len(leases(lab, on)) == 3, "it is there")
    on(host, "nft add table ip cut")
    on(host, "nft add chain ip cut input { type filter hook input priority 0 ; }")
    with watched_stream(lab.pods[0], lab.pods[-1]) as stream:
        on(host, "nft add rule ip cut input tcp sport 2379 drop")
        eventually(lambda: len(leases(lab, on)) == 2, "the lease has run out", timeout=60)
        mark = stream.received
        eventually(lambda: stream.received > mark + 500, "traffic goes on all the same")
        on(host, "nft delete table ip cut")
        eventually(lambda: len(leases(lab, on)) == 3, "the lease is taken again", timeout=60)
    assert stream.lost == 0
    assert lab.subnet(1) == subnet
    eventually(lambda: reaches(lab, on), "pods reach each other")
