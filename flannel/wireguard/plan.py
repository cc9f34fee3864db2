"""From leases to what a WireGuard device should hold, and from there to a change. Pure.

A change never touches a peer that is right already: its session, its counters and the
endpoint it was last heard from stay. What is new comes before what goes, in one transaction,
so that a subnet whose host has a new key moves from the old peer to the new one at once.

Endpoints. WireGuard sends to where a peer was last heard from, so a device may rightly hold
an endpoint that isn't the lease's (a peer behind NAT, or with two addresses). flanneld sets
an endpoint when a lease appears or changes, and never looks again. We do the same, and add a
way back:

    the lease's endpoint is not the one we last saw there     set it
    the lease says what it said, the device something else    leave it: it was learned
    learned, but nothing comes back from there any more       set the lease's again
    we have just started, and don't know what was there       leave it while its session is
                                                              alive, else set the lease's

"Nothing comes back": we sent, at two looks at least 15 s apart, and received nothing in
between, and the last handshake is older than any session.

A subnet that moves to a new key is a host that has changed its key. It can't reach us until
a handshake with the new key is made, and its own tries came before we knew that key; so we
start one: a keepalive that is switched on sends a packet at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flannel.wireguard.config import Tunnel, WireguardConfig, tunnels
from hostnet.underlay import Underlay
from hostnet.wireguard.state import (
    NO_KEY,
    DeviceChange,
    Endpoint,
    PeerChange,
    WireguardDevice,
    WireguardPeer,
)
from ipam.lease import Lease, PeerUnusableError

SESSION = 180.0  # seconds: REJECT_AFTER_TIME of the WireGuard paper, section 6.1
PATIENCE = 15.0  # seconds: three tries of a handshake (REKEY_TIMEOUT is 5 s)


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


def _peer(config: WireguardConfig, path: Tunnel) -> WireguardPeer:
    return WireguardPeer(
        path.public_key, path.endpoint, path.allowed_ips, config.keepalive, config.psk
    )


@dataclass(slots=True)
class _Sight:
    """What was last seen of one peer."""

    lease: Endpoint | None
    received: int
    sent: int
    asking_since: float | None = None
    """When we first saw ourselves send with nothing coming back since."""


@dataclass(slots=True)
class EndpointMemory:
    """One device's peers as last seen; lost with the daemon, and no harm done."""

    seen: dict[str, _Sight] = field(default_factory=dict)

    def look(
        self,
        wanted: Mapping[str, WireguardPeer],
        found: Mapping[str, WireguardPeer],
        now: float,
    ) -> set[str]:
        """Take in what is there; returns the keys of peers whose learned endpoint stays.

        `now` is Unix time.
        """
        stay, seen = set(), {}
        for key, peer in wanted.items():
            there = found.get(key)
            if there is None:
                seen[key] = _Sight(peer.endpoint, 0, 0)
                continue
            before = self.seen.get(key)
            sight = _Sight(peer.endpoint, there.received, there.sent)
            alive = now - there.last_handshake < SESSION
            if before is None:
                learned = alive
            else:
                learned = before.lease == peer.endpoint
                asks = there.sent > before.sent
                if there.received == before.received:
                    sight.asking_since = before.asking_since or (now if asks else None)
                    since = before.asking_since
                    if asks and not alive and since is not None and now - since >= PATIENCE:
                        learned = False
            seen[key] = sight
            if learned and there.endpoint not in (None, peer.endpoint):
                stay.add(key)
        self.seen = seen
        return stay


def diff(wanted: WireguardDevice, found: WireguardDevice, stay: Iterable[str] = ()) -> DeviceChange:
    """The change that makes `found` into `wanted`; endpoints of the peers in `stay` are left."""
    keep = set(stay)
    holders = {ip: key for key, peer in found.peers.items() for ip in peer.allowed_ips}
    changes: list[PeerChange] = []
    for key, peer in wanted.peers.items():
        there = found.peers.get(key)
        if there is None:
            # held by a peer that goes: the same host, under a new key
            greet = any(holders.get(ip, key) not in wanted.peers for ip in peer.allowed_ips)
            changes += _new(peer, greet=greet)
        elif there != peer:
            changes += _changed(peer, there, keep_endpoint=key in keep)
    gone = found.peers.keys() - wanted.peers.keys()
    changes += [PeerChange(key, remove=True) for key in sorted(gone)]
    return DeviceChange(
        wanted.private_key if wanted.private_key != found.private_key else None,
        wanted.listen_port if wanted.listen_port != found.listen_port else None,
        tuple(changes),
    )


def _new(peer: WireguardPeer, *, greet: bool) -> Sequence[PeerChange]:
    made = PeerChange(
        peer.public_key,
        new=True,
        endpoint=peer.endpoint,
        keepalive=peer.keepalive or None,
        preshared_key=peer.preshared_key,
        allowed_ips=tuple(sorted(peer.allowed_ips)),
    )
    if not greet or peer.keepalive:
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
