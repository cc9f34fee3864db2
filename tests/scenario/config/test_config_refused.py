# SPDX-License-Identifier: Apache-2.0
"""A cluster config that can't be followed: the last good one stays in force, and why is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.cluster import Lab
from lab.hosts import LabError
from lab.matrix import measure
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
VXLAN = {"Type": "vxlan", "VNI": 3}


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=2, ipv6=True, backend=VXLAN) as lab:
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            start(lab, number)
        for number in lab.host_numbers:
            lab.wait_ready(number)
        yield lab


def start(lab: Lab, number: int) -> None:
    lab.start_daemon(number, "--healthz-port=9000")


def config(lab: Lab, backend: dict[str, Any] | None) -> dict[str, Any]:
    document = {**lab.spec.cluster_config(), "Backend": backend}
    return document if backend is not None else {k: document[k] for k in [*document][:-1]}


def write_unchecked(lab: Lab, on: On, document: dict[str, Any]) -> None:
    """As etcdctl does, or an earlier version."""
    text = json.dumps(document, separators=(",", ":"))
    etcdctl = f"etcdctl --endpoints={lab.endpoint} put /coreos.com/network/config"
    on(lab.names.underlay, f"{etcdctl} {text}")


def readyz(lab: Lab, on: On, number: int) -> str:
    return on(lab.names.host(number), "curl -s -m 10 http://127.0.0.1:9000/readyz", check=False)


def assert_pods_reach_pods(lab: Lab) -> None:
    for family in (4, 6):
        pods = lab.pod_endpoints(family)
        assert [result for result in measure(pods, pods, timeout=20.0) if not result.good] == []


def objects(lab: Lab, on: On, number: int) -> str:
    host = lab.names.host(number)
    links = on(host, "ip -brief link show type vxlan")
    return links + on(host, "ip route show proto 102") + on(host, "ip -6 route show proto 102")


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ({"Type": "wiregaurd"}, "did you mean wireguard?"),
        ({"Type": "udpp"}, "did you mean udp?"),
        ({"Type": "ovss"}, "did you mean ovs?"),
        ({"Type": "wireguard", "PSK": "none"}, "`wg genpsk` makes one"),
        ({"Type": "vxlan", "VIN": 4}, "did you mean VNI?"),
        (None, "it was vxlan"),
        ({"Type": "ovs"}, "db.sock"),
    ],
)
def test_a_bad_config_changes_nothing_and_is_told(
    two: Lab, on: On, eventually: Eventually, backend: dict[str, Any] | None, why: str
) -> None:
    before = [objects(two, on, number) for number in two.host_numbers]
    write_unchecked(two, on, config(two, backend))
    for number in two.host_numbers:
        eventually(lambda n=number: why in readyz(two, on, n), "/readyz says why")
        answer = readyz(two, on, number).splitlines()
        assert answer[0] == "ok"
        assert answer[1].endswith("; the last good one stays in force")
        assert two.log(number).count(json.dumps(answer[1])[1:-1]) == 1
    assert [objects(two, on, number) for number in two.host_numbers] == before
    assert_pods_reach_pods(two)
    two.configure(config(two, VXLAN))
    for number in two.host_numbers:
        eventually(lambda n=number: readyz(two, on, n) == "ok\n", "all is well")


def test_a_daemon_that_starts_beside_a_bad_config_goes_on_with_the_last_good_one(
    two: Lab, on: On, eventually: Eventually
) -> None:
    write_unchecked(two, on, config(two, {"Type": "wiregaurd"}))
    two.stop_daemon(1)
    start(two, 1)
    two.wait_ready(1)
    assert "did you mean wireguard?" in readyz(two, on, 1)
    two.add_pod(1, "late")
    assert_pods_reach_pods(two)
    two.delete_pod(1, "late")
    two.configure(config(two, VXLAN))
    eventually(lambda: readyz(two, on, 1) == "ok\n", "all is well")


def test_a_vni_that_another_device_has_is_not_switched_to_until_it_is_free(
    two: Lab, on: On, eventually: Eventually
) -> None:
    host = two.names.host(1)
    on(host, "ip link add other type vxlan id 9 dstport 8472 local 192.168.64.11")
    on(host, "ip link set other up")
    before = objects(two, on, 1)
    try:
        two.configure(config(two, {"Type": "vxlan", "VNI": 9}))
        told = "VNI 9 with UDP port 8472 is in use by device other; the last good one stays"
        eventually(lambda: told in readyz(two, on, 1), "/readyz says why")
        assert objects(two, on, 1) == before
    finally:
        on(host, "ip link del other")
    eventually(lambda: "flannel.9" in on(host, "ip -br link"), "it is switched to", timeout=60.0)
    eventually(lambda: readyz(two, on, 1) == "ok\n", "all is well")
    assert_pods_reach_pods(two)
    two.configure(config(two, VXLAN))
    eventually(lambda: "flannel.3" in on(host, "ip -br link"), "it is switched back")
    assert_pods_reach_pods(two)


def test_the_writer_refuses_what_daemons_refuse_and_previews_the_rest(two: Lab) -> None:
    stored = two.flatmesh("config", "show")

    def refused(document: dict[str, Any], *flags: str) -> str:
        with pytest.raises(LabError) as error:
            two.flatmesh("config", "set", json.dumps(document), *flags)
        return str(error.value)

    assert "did you mean wireguard?" in refused(config(two, {"Type": "wiregaurd"}), "--force")
    assert "did you mean PSK?" in refused(config(two, {"Type": "wireguard", "PKS": "x"}))
    assert "it was vxlan" in refused(config(two, None))
    wanted = json.dumps(config(two, {"Type": "host-gw"}))
    for preview in (
        two.flatmesh("config", "diff", wanted),
        two.flatmesh("config", "set", "--dry-run", wanted),
    ):
        assert '~ Backend.Type: "vxlan" -> "host-gw"' in preview
        for number in two.host_numbers:
            assert f"host 192.168.64.1{number}: keeps {two.subnet(number)}" in preview
    assert two.flatmesh("config", "show") == stored


def test_no_backend_is_udp_where_that_is_meant(two: Lab, on: On, eventually: Eventually) -> None:
    two.flatmesh("config", "set", "--force", json.dumps(config(two, None)))
    assert '"Backend":{"Type":"udp"}' in two.flatmesh("config", "show")
    for number in two.host_numbers:
        host = two.names.host(number)
        eventually(lambda h=host: "flannel0" in on(h, "ip -br link"), "udp is there")
    assert_pods_reach_pods(two)
    kept = json.loads((Path(two.host_dir(1)) / "var/config.json").read_text())
    assert kept["config"]["Backend"] == {"Type": "udp"}
