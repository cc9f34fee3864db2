# SPDX-License-Identifier: Apache-2.0
"""A running mesh that changes: another mesh, another tunnel, another backend and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address

from lab.cluster import Lab
from lab.hosts import host_ipv4
from ovs_mesh.topology import port_name
from tests.scenario.ovs_lab import assert_all_reach_all, backend

On = Callable[..., str]
Eventually = Callable[..., None]


def test_mesh_and_tunnel_change_while_pods_talk(
    make_lab: Callable[..., Lab], eventually: Eventually
) -> None:
    lab = make_lab(hosts=3, pods_per_host=1, ipv6=True, backend=backend("vxlan", "flow"))
    for tunnel, style in (("vxlan", "static"), ("gre", "static"), ("gre", "combined")):
        config = {**lab.spec.cluster_config(), "Backend": backend(tunnel, style)}
        lab.configure(config)
        expected = "mesh-gre" if style == "combined" else port_name_of(3)
        eventually(
            lambda name=expected: name in lab.ovs(1).vsctl("list-ports", "obr0").splitlines(),
            f"host 1 has followed to {tunnel} {style}",
        )
        eventually(
            lambda kind=tunnel, name=expected: (
                lab.ovs(1).vsctl("--if-exists", "get", "interface", name, "type") == kind
            ),
            f"its tunnels are {tunnel}",
        )
        assert_all_reach_all(lab)


def port_name_of(number: int) -> str:
    return port_name(ip_address(host_ipv4(number)))


def test_backend_changes_to_vxlan_and_back(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually
) -> None:
    lab = make_lab(hosts=3, pods_per_host=1, ipv6=True, backend=backend("gre", "flow"))
    lab.configure({**lab.spec.cluster_config(), "Backend": {"Type": "vxlan"}})
    for number in lab.host_numbers:
        host = lab.names.host(number)
        eventually(lambda n=number: "obr0" not in lab.ovs(n).vsctl("list-br"), "the mesh has gone")
        eventually(lambda h=host: "flannel-v6.1" in on(h, "ip addr"), "vxlan is there")
        eventually(lambda h=host: len(vtep_addresses(on, h)) == 2, "with its addresses")
    assert_all_reach_all(lab)
    lab.configure(lab.spec.cluster_config())
    for number in lab.host_numbers:
        host = lab.names.host(number)
        eventually(lambda n=number: "obr0" in lab.ovs(n).vsctl("list-br"), "the mesh is back")
        eventually(lambda h=host: not vtep_addresses(on, h), "vxlan has gone")
    assert_all_reach_all(lab)


def vtep_addresses(on: On, host: str) -> list[str]:
    """Addresses of VTEP devices, which a host may send from."""
    links = json.loads(on(host, "ip -json addr show"))
    vteps = [link for link in links if link["ifname"].startswith("flannel")]
    return [a["local"] for link in vteps for a in link["addr_info"] if a["scope"] == "global"]
