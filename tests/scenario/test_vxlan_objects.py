# SPDX-License-Identifier: Apache-2.0
"""What a vxlan host holds is exactly what flanneld would have put there (FACTS section 3)."""

from __future__ import annotations

import json
from collections.abc import Callable

from lab.cluster import Lab
from lab.hosts import host_ipv4


def leases(lab: Lab) -> dict[int, tuple[str, str]]:
    """Subnet base address and MAC of each host, as its device has them."""
    from lab import hosts

    found = {}
    for number in lab.host_numbers:
        (link,) = json.loads(
            hosts.ip("-n", lab.names.host(number), "-d", "-json", "addr", "show", "flannel.1")
        )
        found[number] = (link["addr_info"][0]["local"], link["address"])
    return found


def test_device_is_flanneld_compatible(cluster: Lab, on: Callable[..., str]) -> None:
    for number in cluster.host_numbers:
        (link,) = json.loads(on(cluster.names.host(number), "ip -d -json addr show flannel.1"))
        data = link["linkinfo"]["info_data"]
        assert link["mtu"] == 1450
        assert link["linkinfo"]["info_kind"] == "vxlan"
        assert (data["id"], data["port"], data["learning"]) == (1, 8472, False)
        assert (data["local"], data["link"]) == (host_ipv4(number), "eth0")
        (address,) = link["addr_info"]
        assert address["prefixlen"] == 32
        assert address["local"].endswith(".0")


def test_each_peer_is_one_route_one_neighbour_one_fdb_entry(
    cluster: Lab, on: Callable[..., str]
) -> None:
    known = leases(cluster)
    for number in cluster.host_numbers:
        netns = cluster.names.host(number)
        peers = {n: lease for n, lease in known.items() if n != number}
        routes = json.loads(on(netns, "ip -d -json route show dev flannel.1"))
        assert {(r["dst"], r["gateway"], "onlink" in r["flags"]) for r in routes} == {
            (f"{base}/24", base, True) for base, _ in peers.values()
        }
        neighbours = json.loads(on(netns, "ip -json neigh show dev flannel.1"))
        assert {(n["dst"], n["lladdr"], tuple(n["state"])) for n in neighbours} == {
            (base, mac, ("PERMANENT",)) for base, mac in peers.values()
        }
        fdb = json.loads(on(netns, "bridge -json fdb show dev flannel.1"))
        assert {(f["mac"], f["dst"], f["state"], tuple(f["flags"])) for f in fdb} == {
            (mac, host_ipv4(n), "permanent", ("self",)) for n, (_, mac) in peers.items()
        }


def test_leases_in_etcd_are_flanneld_compatible(cluster: Lab, on: Callable[..., str]) -> None:
    known = leases(cluster)
    listing = on(
        cluster.names.underlay,
        f"etcdctl --endpoints={cluster.endpoint} get --prefix /coreos.com/network/subnets/",
    ).splitlines()
    values = dict(zip(listing[::2], listing[1::2], strict=True))
    assert values == {
        f"/coreos.com/network/subnets/{base}-24": (
            f'{{"PublicIP":"{host_ipv4(number)}","PublicIPv6":null,"BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{mac}"}},"Ingress":true}}'
        )
        for number, (base, mac) in known.items()
    }


def test_subnet_env_tells_the_lease(cluster: Lab) -> None:
    for number, (base, _) in leases(cluster).items():
        text = (cluster.host_dir(number) / "run/subnet.env").read_text()
        assert text == (
            "FLANNEL_NETWORK=10.5.0.0/16\n"
            f"FLANNEL_SUBNET={base.removesuffix('.0')}.1/24\n"
            "FLANNEL_MTU=1450\n"
            "FLANNEL_IPMASQ=true\n"
        )


def test_pod_link_has_the_leases_mtu_and_routes(cluster: Lab, on: Callable[..., str]) -> None:
    pod = cluster.pods[0]
    (link,) = json.loads(on(pod.netns, "ip -json addr show eth0"))
    assert link["mtu"] == 1450
    routes = json.loads(on(pod.netns, "ip -json route show"))
    gateway = ".".join(pod.addresses[0].split(".")[:3]) + ".1"
    assert ("default", gateway) in {(r["dst"], r.get("gateway")) for r in routes}
