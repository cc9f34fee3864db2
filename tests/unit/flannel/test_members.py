# SPDX-License-Identifier: Apache-2.0
"""Which elements of the filter's sets follow from leases, and when they go."""

from __future__ import annotations

import json

from backend.arrivals import Arrivals, Check, TunnelPort
from flannel.members import MemberElements
from hostnet.nft.sets import NftElement
from ipam import lease as codec
from ipam.lease import Lease

VXLAN = Arrivals((TunnelPort("udp", 8472, Check.VXLAN, 1),))


def lease(key: str, public_ip: str = "192.168.64.12", public_ipv6: str | None = None) -> Lease:
    return codec.parse(key, json.dumps({"PublicIP": public_ip, "PublicIPv6": public_ipv6}))


def texts(elements: frozenset[NftElement]) -> set[str]:
    return {one.line().removeprefix("nft add element inet flatmesh ") for one in elements}


def elements(arrivals: Arrivals, one: Lease, *, peer: bool = True) -> set[str]:
    _, come = MemberElements(arrivals, lambda _: peer).update({one.key: one}, [one.key])
    return texts(come)


def test_a_vxlan_peer_may_send_from_its_subnet_and_from_its_public_ip() -> None:
    assert elements(VXLAN, lease("10.5.2.0-24")) == {
        "protected4 { 192.168.64.12 }",
        "hosts4 { 10.5.2.0 }",
        "members4 { 192.168.64.12 }",
        "vxlan4_24 { 192.168.64.12 . 0x0a050200 }",
        "vxlan4_32 { 192.168.64.12 . 0xc0a8400c }",
    }


def test_the_own_lease_is_closed_to_pods_and_no_peer() -> None:
    expected = {"protected4 { 192.168.64.12 }", "hosts4 { 10.5.2.0 }"}
    assert elements(VXLAN, lease("10.5.2.0-24"), peer=False) == expected


def test_the_families_of_outer_and_inner_source_are_the_same() -> None:
    pairs = {
        text
        for text in elements(VXLAN, lease("10.5.2.0-24&fd05:0:0:2::-64", public_ipv6="fd00:1::12"))
        if text.startswith("vxlan")
    }
    assert pairs == {
        "vxlan4_24 { 192.168.64.12 . 0x0a050200 }",
        "vxlan4_32 { 192.168.64.12 . 0xc0a8400c }",
        f"vxlan6_64 {{ fd00:1::12 . 0xfd05000000000002{'0' * 16} }}",
        f"vxlan6_128 {{ fd00:1::12 . 0xfd000001{'0' * 22}12 }}",
    }


def test_plain_packets_may_have_a_peers_subnet_as_source() -> None:
    assert "plain4_24 { 10.5.2.0 }" in elements(Arrivals(plain=True), lease("10.5.2.0-24"))


def test_an_element_stays_while_another_lease_needs_it() -> None:
    one, other = lease("10.5.2.0-24"), lease("10.5.3.0-24")
    members = MemberElements(VXLAN, lambda _: True)
    members.update({one.key: one, other.key: other}, [one.key, other.key])
    gone, come = members.update({other.key: other}, [one.key])
    assert texts(gone) == {"hosts4 { 10.5.2.0 }", "vxlan4_24 { 192.168.64.12 . 0x0a050200 }"}
    assert not come
    gone, come = members.update({}, [other.key])
    assert "members4 { 192.168.64.12 }" in texts(gone)
    assert not members.uses


def test_a_peer_that_moves_to_another_address_changes_only_what_has_the_address() -> None:
    before, after = lease("10.5.2.0-24"), lease("10.5.2.0-24", "192.168.64.99")
    members = MemberElements(VXLAN, lambda _: True)
    members.update({before.key: before}, [before.key])
    gone, come = members.update({after.key: after}, [after.key])
    assert "members4 { 192.168.64.12 }" in texts(gone)
    assert "members4 { 192.168.64.99 }" in texts(come)
    assert "hosts4 { 10.5.2.0 }" not in texts(gone | come)
