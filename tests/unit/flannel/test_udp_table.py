# SPDX-License-Identifier: Apache-2.0
"""From leases to the table that the data plane searches, and the search itself."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flannel.udp.table import OWN_HOST, UdpPeer, UdpTable, flatten, reach, table_of
from ipam import lease
from ipam.lease import PeerUnusableError

_udp = pytest.importorskip("flannel.udp._plane")


def a_lease(key: str, ipv4: str | None, ipv6: str | None = None, kind: str = "") -> lease.Lease:
    def quoted(address: str | None) -> str:
        return f'"{address}"' if address else "null"

    extra = f',"BackendType":"{kind}"' if kind else ""
    return lease.parse(key, f'{{"PublicIP":{quoted(ipv4)},"PublicIPv6":{quoted(ipv6)}{extra}}}')


OWN = a_lease("10.5.1.0-24&fd05:0:0:1::-64", "192.168.64.11", "fd00:1::11")
PEER = a_lease("10.5.2.0-24&fd05:0:0:2::-64", "192.168.64.12", "fd00:1::12")


def test_ipv4_underlay_is_preferred_and_both_addresses_are_accepted_as_source() -> None:
    subnets = ("10.5.2.0/24", "fd05:0:0:2::/64")
    assert reach(PEER, OWN) == UdpPeer(subnets, "192.168.64.12", "fd00:1::12", 4)


def test_ipv6_underlay_is_used_where_one_side_has_nothing_else() -> None:
    only_v6 = a_lease("10.5.2.0-24", None, "fd00:1::12")
    assert reach(only_v6, OWN) == UdpPeer(("10.5.2.0/24",), None, "fd00:1::12", 6)


def test_families_that_only_the_peer_has_are_left_out() -> None:
    own = a_lease("10.5.1.0-24", "192.168.64.11")
    assert reach(PEER, own) == UdpPeer(("10.5.2.0/24",), "192.168.64.12", None, 4)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (a_lease("10.5.2.0-24", "192.168.64.12", kind="vxlan"), "backend is vxlan, ours is udp"),
        (a_lease("10.5.2.0-24", None, "fd00:1::12"), "no underlay address of a family"),
        (a_lease("fd05:0:0:2::-64", "192.168.64.12"), "no subnet of a family"),
    ],
)
def test_unusable_peers_are_refused_with_a_reason(peer: lease.Lease, reason: str) -> None:
    own = a_lease("10.5.1.0-24", "192.168.64.11")
    with pytest.raises(PeerUnusableError, match=reason):
        reach(peer, own)
    assert table_of(own, [peer]).peers == ()


def test_a_lease_of_flanneld_without_a_type_is_udp() -> None:
    assert reach(a_lease("10.5.2.0-24", "192.168.64.12", kind="udp"), OWN).by == 4
    assert reach(a_lease("10.5.2.0-24", "192.168.64.12"), OWN).by == 4


def test_changes_name_what_comes_and_goes() -> None:
    before = table_of(OWN, [PEER])
    moved = a_lease("10.5.2.0-24&fd05:0:0:2::-64", "192.168.64.99")
    assert before.changes_to(table_of(OWN, [moved])) == [
        "udp: - 10.5.2.0/24 at 192.168.64.12",
        "udp: - fd05:0:0:2::/64 at 192.168.64.12",
        "udp: + 10.5.2.0/24 at 192.168.64.99",
        "udp: + fd05:0:0:2::/64 at 192.168.64.99",
    ]
    assert before.changes_to(before) == []


def test_table_survives_json() -> None:
    table = table_of(OWN, [PEER, a_lease("10.5.3.0-24", "192.168.64.13")])
    assert UdpTable.from_json(table.to_json()) == table


@st.composite
def overlapping(draw: Any, network: type[IPv4Network | IPv6Network], bits: int) -> list[Any]:
    """Networks that often contain each other."""
    count = draw(st.integers(0, 12))
    found = []
    for _ in range(count):
        length = draw(st.integers(bits - 10, bits))
        low = draw(st.integers(0, 1023))
        number = low >> (bits - length) << (bits - length)
        found.append(network((number, length)))
    return found


@settings(max_examples=30, deadline=None)
@given(overlapping(IPv4Network, 32) | overlapping(IPv6Network, 128))
def test_longest_prefix_wins(networks: list[Any]) -> None:
    networks = list(dict.fromkeys(networks))
    ranges = flatten((n, number) for number, n in enumerate(networks))
    assert all(a <= b for a, b, _ in ranges)
    assert all(ranges[i][1] < ranges[i + 1][0] for i in range(len(ranges) - 1))
    for number in range(0, 1030, 7):
        covering = [n for n in networks if number in range(int(n[0]), int(n[-1]) + 1)]
        wanted = networks.index(max(covering, key=lambda n: n.prefixlen)) if covering else None
        found = [who for first, last, who in ranges if first <= number <= last]
        assert found == ([] if wanted is None else [wanted])


def test_search_finds_what_the_table_says() -> None:
    peers = tuple(
        UdpPeer((f"10.{n // 200}.{n % 200}.0/24", f"fd05:0:0:{n:x}::/64"), f"172.16.{n}.1", None, 4)
        for n in range(1, 256)
    )
    inside = UdpPeer(("10.0.7.128/25",), "172.17.0.1", None, 4)
    table = UdpTable(("10.9.9.0/24", "fd09::/64"), (*peers, inside))
    plane = _udp.DataPlane([(-1, -1, -1)])
    plane.set_peers(*table.pack(8285))

    def find(address: str) -> int:
        return int(plane.find(ip_address(address).packed))

    for number, peer in enumerate(peers):
        for subnet in map(ip_network, peer.subnets):
            assert find(str(subnet[0])) == number
            if str(subnet) != "10.0.7.0/24":
                assert find(str(subnet[-1])) == number
    assert find("10.0.7.127") == peers.index(peers[6])
    assert find("10.0.7.128") == find("10.0.7.255") == len(peers)
    assert find("10.9.9.1") == find("fd09::1") == OWN_HOST == _udp.OWN_HOST
    assert find("10.9.8.255") == find("10.255.0.0") == find("0.0.0.0") == find("fd04::") == -1


@pytest.mark.parametrize(
    ("peers", "ranges"),
    [
        (b"", [(5, 4, -2)]),
        (b"", [(1, 5, -2), (5, 9, -2)]),
        (b"", [(1, 5, 0)]),
        (b"", [(1, 5, -1)]),
        (bytes(24), []),
        (b"123", []),
    ],
    ids=["backwards", "overlap", "no such peer", "nobody", "peer without address", "cut off"],
)
def test_a_broken_table_is_refused(peers: bytes, ranges: list[tuple[int, int, int]]) -> None:
    import struct

    plane = _udp.DataPlane([(-1, -1, -1)])
    with pytest.raises(ValueError, match="peer table"):
        plane.set_peers(peers, b"".join(struct.pack("=IIi", *r) for r in ranges), b"")
