# SPDX-License-Identifier: Apache-2.0
"""From leases to WireGuard peers, and from what is there to the change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flannel.wireguard.endpoints import ANSWER_TIMEOUT, SESSION, EndpointMemory
from flannel.wireguard.plan import device_change
from hostnet.wireguard.state import (
    NO_KEY,
    DeviceChange,
    Endpoint,
    PeerChange,
    WireguardDevice,
    WireguardPeer,
    key_text,
)

A, B, C, D = (key_text(bytes([n]) * 32) for n in (1, 2, 3, 4))
PSK = key_text(b"p" * 32)
HERE, THERE = Endpoint("192.168.64.3", 51820), Endpoint("192.168.64.99", 4000)
NOW = 1_800_000_000.0


def peer(key: str = A, endpoint: Endpoint | None = HERE, **more: Any) -> WireguardPeer:
    return WireguardPeer(
        key, endpoint, **{"allowed_ips": frozenset(["10.5.76.0/24"]), "keepalive": 0, **more}
    )


def device(*peers: WireguardPeer, **more: Any) -> WireguardDevice:
    return WireguardDevice(
        **{"private_key": D, "listen_port": 51820, **more}, peers={p.public_key: p for p in peers}
    )


def lines(wanted: WireguardDevice, found: WireguardDevice, *stay: str) -> list[str]:
    return device_change(wanted, found, stay).lines("flannel-wg")


def test_a_fresh_device_gets_key_port_and_peers() -> None:
    wanted = device(peer(keepalive=25, preshared_key=PSK))
    settings = "persistent-keepalive 25 allowed-ips 10.5.76.0/24"
    assert lines(wanted, WireguardDevice()) == [
        "wg set flannel-wg private-key ... listen-port 51820",
        f"wg set flannel-wg peer {A} preshared-key ... endpoint {HERE} {settings}",
    ]


def test_no_line_and_no_repr_shows_a_secret() -> None:
    change = device_change(device(peer(preshared_key=PSK)), WireguardDevice())
    for text in (*change.lines("flannel-wg"), repr(change), repr(device(peer(preshared_key=PSK)))):
        assert D not in text
        assert PSK not in text


def test_what_is_right_is_not_touched() -> None:
    seen = peer(last_handshake=NOW, received=10, sent=20)
    assert not device_change(device(peer()), device(seen))
    assert device_change(device(peer()), device(seen)).lines("flannel-wg") == []


@pytest.mark.parametrize(
    ("there", "change"),
    [
        (peer(endpoint=THERE), "endpoint 192.168.64.3:51820"),
        (peer(endpoint=None), "endpoint 192.168.64.3:51820"),
        (peer(keepalive=25), "persistent-keepalive off"),
        (peer(preshared_key=PSK), "preshared-key /dev/null"),
        (peer(allowed_ips=frozenset()), "allowed-ips +10.5.76.0/24"),
        (peer(allowed_ips=frozenset(["10.9.0.0/24"])), "allowed-ips 10.5.76.0/24"),
    ],
)
def test_only_what_differs_is_changed(there: WireguardPeer, change: str) -> None:
    assert lines(device(peer()), device(there)) == [f"wg set flannel-wg peer {A} {change}"]


def test_allowed_ips_are_never_taken_away_only_to_add_one() -> None:
    more = peer(allowed_ips=frozenset(["10.5.76.0/24", "fd05::/64"]))
    assert device_change(device(more), device(peer())).peers == (
        PeerChange(A, allowed_ips=("fd05::/64",)),
    )


def test_a_peer_that_left_is_removed_after_the_new_ones_are_there() -> None:
    new = peer(B, allowed_ips=frozenset(["10.5.77.0/24"]))
    assert lines(device(new), device(peer())) == [
        f"wg set flannel-wg peer {B} endpoint 192.168.64.3:51820 allowed-ips 10.5.77.0/24",
        f"wg set flannel-wg peer {A} remove",
    ]


def test_a_handshake_with_a_new_key_is_started_at_once() -> None:
    settings = "persistent-keepalive 1 allowed-ips 10.5.76.0/24"
    assert lines(device(peer(B)), device(peer(A))) == [
        f"wg set flannel-wg peer {B} endpoint {HERE} {settings}",
        f"wg set flannel-wg peer {B} persistent-keepalive off",
        f"wg set flannel-wg peer {A} remove",
    ]


def test_a_persistent_keepalive_needs_no_extra_handshake() -> None:
    wanted, found = device(peer(B, keepalive=25)), device(peer(A))
    assert len(device_change(wanted, found).peers) == 2


def test_a_subnet_taken_from_another_peer_needs_no_extra_handshake() -> None:
    both = frozenset(["10.5.76.0/24", "10.5.77.0/24"])
    wanted = device(peer(A), peer(B, allowed_ips=frozenset(["10.5.77.0/24"])))
    change = device_change(wanted, device(peer(A, allowed_ips=both)))
    assert [(p.public_key, p.keepalive) for p in change.peers] == [(A, None), (B, None)]


# -- endpoints ---------------------------------------------------------------------------


def look(memory: EndpointMemory, there: WireguardPeer, now: float, want: Any = None) -> bool:
    """Whether the learned endpoint stays."""
    return memory.learned({A: want or peer()}, {A: there}, now) == {A}


def test_a_learned_endpoint_stays() -> None:
    memory = EndpointMemory()
    assert not look(memory, peer(), NOW)
    assert look(memory, peer(endpoint=THERE), NOW + 1)
    assert look(memory, peer(endpoint=THERE), NOW + 10 * SESSION)


def test_a_lease_that_moves_is_followed_at_once() -> None:
    memory = EndpointMemory()
    look(memory, peer(), NOW)
    moved = peer(endpoint=Endpoint("192.168.64.4", 51820))
    assert not look(memory, peer(last_handshake=NOW), NOW, moved)


def test_after_a_restart_a_live_session_keeps_its_endpoint_a_dead_one_does_not() -> None:
    assert look(EndpointMemory(), peer(endpoint=THERE, last_handshake=NOW - 60), NOW)
    assert not look(EndpointMemory(), peer(endpoint=THERE, last_handshake=NOW - SESSION), NOW)
    assert not look(EndpointMemory(), peer(endpoint=THERE), NOW)


def test_a_learned_endpoint_that_answers_no_more_is_replaced_by_the_leases() -> None:
    memory = EndpointMemory()
    roamed = peer(endpoint=THERE, last_handshake=NOW - SESSION, received=500, sent=500)
    assert not look(memory, replace(roamed, endpoint=HERE), NOW)
    assert look(memory, roamed, NOW)
    assert look(memory, replace(roamed, sent=648), NOW + 1), "asked once"
    assert look(memory, replace(roamed, sent=796), NOW + 6), "asks on"
    assert not look(memory, replace(roamed, sent=944), NOW + 1 + ANSWER_TIMEOUT), "in vain"


def test_an_idle_peer_keeps_its_learned_endpoint_for_ever() -> None:
    memory = EndpointMemory()
    roamed = peer(endpoint=THERE, last_handshake=NOW - SESSION, received=500, sent=500)
    look(memory, replace(roamed, endpoint=HERE), NOW)
    for minutes in range(60):
        assert look(memory, roamed, NOW + minutes * 60)


def test_one_that_answers_keeps_its_learned_endpoint() -> None:
    memory = EndpointMemory()
    look(memory, peer(), NOW)
    for step in range(1, 10):
        there = peer(endpoint=THERE, last_handshake=NOW, received=step, sent=step)
        assert look(memory, there, NOW + step * SESSION)


# -- any two states ----------------------------------------------------------------------

KEYS = [key_text(bytes([n]) * 32) for n in range(1, 6)]
NETWORKS = [f"10.5.{n}.0/24" for n in range(6)]


@st.composite
def devices(draw: st.DrawFn) -> WireguardDevice:
    """A device in any possible state: a network belongs to one peer at most."""
    owners = {n: draw(st.sampled_from([None, *KEYS])) for n in NETWORKS}
    peers = [
        WireguardPeer(
            key,
            draw(st.sampled_from([HERE, THERE])),
            frozenset(n for n, owner in owners.items() if owner == key),
            draw(st.sampled_from([0, 25])),
            draw(st.sampled_from([None, PSK])),
        )
        for key in draw(st.sets(st.sampled_from(KEYS)))
    ]
    return device(*peers, listen_port=draw(st.sampled_from([51820, 51821])))


def done(change: DeviceChange, found: WireguardDevice) -> WireguardDevice:
    """The device after a change (https://www.wireguard.com/xplatform/)."""
    peers = dict(found.peers)
    for one in change.peers:
        if one.remove:
            del peers[one.public_key]
            continue
        assert one.new == (one.public_key not in peers)
        there = peers.get(one.public_key, WireguardPeer(one.public_key))
        psk = there.preshared_key if one.preshared_key is None else one.preshared_key
        ips = frozenset[str]() if one.replace_allowed_ips else there.allowed_ips
        for key, other in peers.items():
            peers[key] = replace(other, allowed_ips=other.allowed_ips - set(one.allowed_ips))
        peers[one.public_key] = replace(
            there,
            endpoint=one.endpoint or there.endpoint,
            keepalive=there.keepalive if one.keepalive is None else one.keepalive,
            preshared_key=None if psk == NO_KEY else psk,
            allowed_ips=ips | set(one.allowed_ips),
        )
    port = found.listen_port if change.listen_port is None else change.listen_port
    return WireguardDevice(change.private_key or found.private_key, port, peers)


@given(devices(), devices())
def test_the_change_turns_any_state_into_any_other(
    wanted: WireguardDevice, found: WireguardDevice
) -> None:
    change = device_change(wanted, found)
    assert done(change, found) == wanted
    assert bool(change) == (wanted != found)
    touched = {one.public_key for one in change.peers}
    same = {key for key in wanted.peers if wanted.peers[key] == found.peers.get(key)}
    assert not touched & same
