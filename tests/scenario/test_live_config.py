# SPDX-License-Identifier: Apache-2.0
"""The cluster config changes while everything runs: no daemon and no pod is restarted."""

from __future__ import annotations

from collections.abc import Callable

from lab.cluster import Lab
from lab.matrix import measure

On = Callable[..., str]
Eventually = Callable[..., None]


def all_good(lab: Lab) -> bool:
    pods = lab.pod_endpoints(4)
    return all(result.good for result in measure(pods, pods, timeout=10.0))


def test_backend_changes_there_and_back(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(pods_per_host=1)
    pids = [lab.daemon_pid(number) for number in lab.host_numbers]
    subnets = [lab.subnet(number) for number in lab.host_numbers]
    lab.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}})
    for number in lab.host_numbers:
        host = lab.names.host(number)
        eventually(lambda h=host: "flannel.1" not in on(h, "ip link"), "the VTEP is gone")
        eventually(lambda h=host: on(h, "ip route").count("via 192.168.64.1") == 3, "plain routes")
    assert all_good(lab)
    assert "FLANNEL_MTU=1500" in (lab.host_dir(1) / "run/subnet.env").read_text()
    lab.configure({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}})
    for number in lab.host_numbers:
        host = lab.names.host(number)
        eventually(lambda h=host: "flannel.1" in on(h, "ip route"), "the VTEP is back")
    eventually(lambda: all_good(lab), "everybody reaches everybody")
    assert [lab.daemon_pid(number) for number in lab.host_numbers] == pids
    assert [lab.subnet(number) for number in lab.host_numbers] == subnets


def test_network_gets_wider_and_mtu_smaller(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    subnets = [lab.subnet(number) for number in lab.host_numbers]
    lab.configure(
        {"Network": "10.4.0.0/15", "SubnetLen": 24, "Backend": {"Type": "vxlan", "MTU": 1400}}
    )
    for number in lab.host_numbers:
        env = lab.host_dir(number) / "run/subnet.env"
        eventually(lambda e=env: "FLANNEL_MTU=1350" in e.read_text(), "the MTU is told")
        assert "FLANNEL_NETWORK=10.4.0.0/15" in env.read_text()
        host = lab.names.host(number)
        for word, command in (
            ("10.4.0.0/15", "nft list table inet flatmesh"),
            ("mtu 1350", "ip link show flannel.1"),
        ):
            eventually(lambda h=host, w=word, c=command: w in on(h, c), f"{command}: {word}")
    assert [lab.subnet(number) for number in lab.host_numbers] == subnets
    assert all_good(lab)


def test_broken_config_changes_nothing(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    before = on(lab.names.host(1), "ip route")
    etcdctl = f"etcdctl --endpoints={lab.endpoint} put /coreos.com/network/config"
    on(lab.names.underlay, f'{etcdctl} {{"Network":"nonsense"}}')
    eventually(lambda: "nonsense" in lab.log(1), "the daemon says what is wrong")
    assert on(lab.names.host(1), "ip route") == before
    assert all_good(lab)


def test_masquerading_is_switched_for_the_whole_cluster(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    table = "nft list table inet flatmesh"
    for wanted in (False, True):
        lab.configure({**lab.spec.cluster_config(), "IPMasq": wanted})
        for number in lab.host_numbers:
            env = lab.host_dir(number) / "run/subnet.env"
            told = f"FLANNEL_IPMASQ={str(wanted).lower()}"
            eventually(lambda e=env, t=told: t in e.read_text(), "the plugins are told")
            host = lab.names.host(number)
            eventually(
                lambda h=host, w=wanted: ("masquerade" in on(h, table)) is w, "the rules follow"
            )
    assert all_good(lab)


def test_ipv6_is_switched_on_for_a_running_cluster(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, underlay_ipv6=True)
    subnets = [lab.subnet(number) for number in lab.host_numbers]
    lab.configure(
        {**lab.spec.cluster_config(), "EnableIPv6": True, "IPv6Network": lab.spec.ipv6_network}
    )
    for number in lab.host_numbers:
        host = lab.names.host(number)
        eventually(lambda h=host: "flannel-v6.1" in on(h, "ip -6 route"), "IPv6 routes are there")
    assert [lab.subnet(number) for number in lab.host_numbers] == subnets
    assert all_good(lab)
    for number in lab.host_numbers:
        lab.add_pod(number, "dual")
    pods = lab.pod_endpoints(6)
    assert len(pods) == 2
    assert all(result.good for result in measure(pods, pods, timeout=10.0))
