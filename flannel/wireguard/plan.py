# SPDX-License-Identifier: Apache-2.0
"""From leases to what a WireGuard device should hold, and from there to a change. Pure.

A change never touches a peer that is right already: its session, its counters and the
endpoint it was last heard from stay (`flannel.wireguard.endpoints`). New peers come before
those that go, in one transaction, so that a subnet whose host has a new key moves from the old
peer to the new one at once.

A subnet that moves to a new key is a host that has changed its key. It can't reach us until
a handshake with the new key is made, and its own tries came before we knew that key; so we
start one: a keepalive that is switched on sends a packet at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flannel.wireguard.config import WireguardConfig, WireguardTunnel, tunnels
from hostnet.underlay import Underlay
from hostnet.wireguard.state import (
    NO_KEY,
    DeviceChange,
    PeerChange,
    WireguardDevice,
    WireguardPeer,
)
from ipam.lease import Lease, PeerUnusableError


@dataclass(frozen=True, slots=True)
class Wanted:
    """The devices this host should have, by name, and what kept peers out."""

    devices: dict[str, WireguardDevice]
    problems: list[str]


def wanted_devices(
    config: WireguardConfig,
    private_key: str | None,
    own: Lease,
    peers: Iterable[Lease],
    underlay: Underlay,
) -> Wanted:
    """What the leases say. A lease that can't be used is left out.

    Two leases with one key (cloned machines): the first by lease key has it.
    """
    found: dict[str, dict[str, WireguardPeer]] = {name: {} for name in config.ports}
    holders: dict[tuple[str, str], str] = {}
    problems = []
    for lease in sorted(peers, key=lambda lease: lease.key):
        try:
            paths = tunnels(config, lease, own, underlay)
        except PeerUnusableError as problem:
            problems.append(str(problem))
            continue
        for path in paths:
            holder = holders.setdefault((path.device, path.public_key), lease.key)
            if holder != lease.key:
                problems.append(
                    f"lease {lease.key}: its host has the same WireGuard key as that of {holder}, "
                    "as cloned machines do: delete wireguard.key on one and restart flatmeshd there"
                )
                continue
            found[path.device][path.public_key] = _peer(config, path)
    devices = {
        name: WireguardDevice(private_key, port, found[name]) for name, port in config.ports.items()
    }
    return Wanted(devices, problems)


def _peer(config: WireguardConfig, path: WireguardTunnel) -> WireguardPeer:
    return WireguardPeer(
        path.public_key, path.endpoint, path.allowed_ips, config.keepalive, config.psk
    )


def device_change(
    wanted: WireguardDevice, found: WireguardDevice, learned: Iterable[str] = ()
) -> DeviceChange:
    """The change that makes `found` into `wanted`.

    The endpoints of the peers whose public keys are in `learned` are left.
    """
    keep = set(learned)
    holders = {ip: key for key, peer in found.peers.items() for ip in peer.allowed_ips}
    changes: list[PeerChange] = []
    for key, peer in wanted.peers.items():
        there = found.peers.get(key)
        if there is None:
            # a peer that goes holds the subnet: it is the same host, with a new key
            starts_handshake = any(
                holders.get(ip, key) not in wanted.peers for ip in peer.allowed_ips
            )
            changes += _new(peer, starts_handshake=starts_handshake)
        elif there != peer:
            changes += _changed(peer, there, keep_endpoint=key in keep)
    gone = found.peers.keys() - wanted.peers.keys()
    changes += [PeerChange(key, remove=True) for key in sorted(gone)]
    return DeviceChange(
        wanted.private_key if wanted.private_key != found.private_key else None,
        wanted.listen_port if wanted.listen_port != found.listen_port else None,
        tuple(changes),
    )


def _new(peer: WireguardPeer, *, starts_handshake: bool) -> Sequence[PeerChange]:
    made = PeerChange(
        peer.public_key,
        new=True,
        endpoint=peer.endpoint,
        keepalive=peer.keepalive or None,
        preshared_key=peer.preshared_key,
        allowed_ips=tuple(sorted(peer.allowed_ips)),
    )
    if not starts_handshake or peer.keepalive:
        return [made]
    return [replace(made, keepalive=1), PeerChange(peer.public_key, keepalive=0)]


def _changed(
    peer: WireguardPeer, there: WireguardPeer, *, keep_endpoint: bool
) -> Sequence[PeerChange]:
    shrinks = not there.allowed_ips <= peer.allowed_ips
    add = peer.allowed_ips if shrinks else peer.allowed_ips - there.allowed_ips
    psk = peer.preshared_key or NO_KEY
    change = PeerChange(
        peer.public_key,
        endpoint=None if keep_endpoint or there.endpoint == peer.endpoint else peer.endpoint,
        keepalive=peer.keepalive if peer.keepalive != there.keepalive else None,
        preshared_key=psk if peer.preshared_key != there.preshared_key else None,
        replace_allowed_ips=shrinks,
        allowed_ips=tuple(sorted(add)),
    )
    return [change] if change != PeerChange(peer.public_key) else []
