# SPDX-License-Identifier: Apache-2.0
"""What each kernel backend wants on a host, against FACTS: names, numbers, addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

import pytest

from flannel.host_gw import HostGwBackend
from flannel.vxlan import VxlanBackend, random_mac, vtep_mac
from hostnet.kinds.fdb import FdbEntry
from hostnet.kinds.link import Link
from hostnet.kinds.links.vxlan import Vxlan
from hostnet.kinds.neighbour import Neighbour
from hostnet.kinds.route_messages import Route
from hostnet.netlink.address_messages import Address
from hostnet.state import HostState
from hostnet.underlay import Underlay
from ipam import lease
from ipam.lease import Lease, PeerUnusableError
from ipam.network import ConfigError, parse_config

UNDERLAY = Underlay(
    "eth0",
    1500,
    IPv4Address("192.168.64.2"),
    IPv6Address("fd00:1::2"),
    (ip_interface("192.168.64.2/24"), ip_interface("fd00:1::2/64")),
)
OWN = lease.parse(
    "10.5.1.0-24",
    '{"PublicIP":"192.168.64.2","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}',
)
PEER = lease.parse(
    "10.5.76.0-24",
    '{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"C6:D2:32:6F:8F:44"}}',
)
FAR = lease.parse(
    "10.5.77.0-24",
    '{"PublicIP":"172.16.0.9","PublicIPv6":null,"BackendType":"vxlan",'
    '"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}',
)


def vxlan(**keys: object) -> VxlanBackend:
    import json

    text = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", **keys}})
    return VxlanBackend.from_config(parse_config(text), Path("/x"), Path("/x"))


def test_vxlan_device_is_flannels() -> None:
    base = vxlan().base(OWN, UNDERLAY)
    assert base.of(Link) == {
        Link(
            "flannel.1",
            "vxlan",
            mtu=1450,
            mac="02:00:00:00:00:01",
            addrgenmode="none",
            details=Vxlan(1, 8472, "192.168.64.2", "eth0", learning=False),
        )
    }
    assert base.of(Address) == {Address("flannel.1", "10.5.1.0/32")}


def test_vxlan_peer_is_a_route_a_neighbour_and_an_fdb_entry() -> None:
    assert vxlan().peer(PEER, OWN, UNDERLAY) == HostState(
        routes=frozenset([Route("10.5.76.0/24", "flannel.1", "10.5.76.0", onlink=True)]),
        neighbours=frozenset([Neighbour("flannel.1", "10.5.76.0", "c6:d2:32:6f:8f:44")]),
        fdb=frozenset([FdbEntry("flannel.1", "c6:d2:32:6f:8f:44", "192.168.64.3")]),
    )


def test_vxlan_direct_routing_tunnels_only_beyond_a_router() -> None:
    backend = vxlan(DirectRouting=True)
    near = backend.peer(PEER, OWN, UNDERLAY)
    assert near == HostState(routes=frozenset([Route("10.5.76.0/24", "eth0", "192.168.64.3")]))
    assert backend.peer(FAR, OWN, UNDERLAY).of(FdbEntry) == {
        FdbEntry("flannel.1", "c6:d2:32:6f:8f:45", "172.16.0.9")
    }


def test_vxlan_keeps_the_mac_its_peers_know() -> None:
    published = vxlan().attributes(UNDERLAY, OWN.attributes)
    assert published.backend_data == {"VNI": 1, "VtepMAC": "02:00:00:00:00:01"}
    fresh = vxlan().attributes(UNDERLAY, None).backend_data
    assert vtep_mac(fresh) is not None


def test_random_mac_is_unicast_and_locally_administered() -> None:
    for _ in range(64):
        assert int(random_mac()[:2], 16) & 3 == 2


def test_vxlan_mtu_leaves_room_for_the_larger_header() -> None:
    assert vxlan().mtu(UNDERLAY) == 1450
    text = (
        '{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48",'
        '"Backend":{"Type":"vxlan","VNI":7}}'
    )
    dual = VxlanBackend.from_config(parse_config(text), Path("/x"), Path("/x"))
    assert dual.mtu(UNDERLAY) == 1430
    assert dual.device(6) == "flannel-v6.7"


@pytest.mark.parametrize(
    "keys", [{"VNI": -1}, {"VNI": "one"}, {"Port": 70000}, {"DirectRouting": "yes"}]
)
def test_vxlan_refuses_bad_keys_by_name(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(keys))):
        vxlan(**keys)


def test_peer_of_another_backend_is_unusable() -> None:
    udp = lease.parse("10.5.9.0-24", '{"PublicIP":"192.168.64.9","PublicIPv6":null}')
    with pytest.raises(PeerUnusableError, match="backend is udp"):
        vxlan().peer(udp, OWN, UNDERLAY)


def test_host_gw_routes_via_the_host_itself() -> None:
    peer = lease.parse(
        "10.5.76.0-24&fd05:0:0:76::-64",
        '{"PublicIP":"192.168.64.3","PublicIPv6":"fd00:1::3","BackendType":"host-gw"}',
    )
    own = Lease(OWN.subnet, peer.ipv6_subnet, peer.attributes)
    assert HostGwBackend(enable_ipv6=True).peer(peer, own, UNDERLAY).of(Route) == {
        Route("10.5.76.0/24", "eth0", "192.168.64.3"),
        Route("fd05:0:0:76::/64", "eth0", "fd00:1::3"),
    }


def test_host_gw_refuses_a_host_beyond_a_router() -> None:
    far = lease.parse(
        "10.5.77.0-24", '{"PublicIP":"172.16.0.9","PublicIPv6":null,"BackendType":"host-gw"}'
    )
    with pytest.raises(PeerUnusableError, match="use vxlan"):
        HostGwBackend().peer(far, OWN, UNDERLAY)
