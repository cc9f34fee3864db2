# SPDX-License-Identifier: Apache-2.0
"""A WireGuard device and its peers as values, for the kernel and for wireguard-go alike.

Keys are base64 text as wg(8) prints them; networks and addresses are canonical text. A
private key is compared as WireGuard keeps it, that is clamped (RFC 7748, section 5).
Secrets never show in a repr, nor in the lines of a plan.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

KEY_LENGTH = 32  # bytes, of private, public and preshared keys
NO_KEY = base64.b64encode(bytes(KEY_LENGTH)).decode()
"""All zeros: how WireGuard spells "no preshared key"."""


class Endpoint(NamedTuple):
    """Where a peer is on the underlay."""

    address: str
    port: int

    def __str__(self) -> str:
        """`192.168.64.3:51820` or `[fd00:1::3]:51821`."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read what `str` writes. Raises ValueError."""
        address, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        return cls(address.strip("[]"), int(port))


@dataclass(frozen=True, slots=True)
class WireguardPeer:
    """One peer; equality leaves out the counters."""

    public_key: str
    endpoint: Endpoint | None = None
    allowed_ips: frozenset[str] = frozenset()
    """Networks that may be sent to the peer, and that it may send from."""
    keepalive: int = 0
    """Seconds; 0 for none."""
    preshared_key: str | None = field(default=None, repr=False)
    last_handshake: float = field(default=0.0, compare=False)
    """Unix time; 0 for never."""
    received: int = field(default=0, compare=False)
    """Bytes on the underlay."""
    sent: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class WireguardDevice:
    """A device: what is wanted, or what is there."""

    private_key: str | None = field(default=None, repr=False)
    listen_port: int = 0
    peers: Mapping[str, WireguardPeer] = field(default_factory=dict)
    """By public key."""


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What to do to one peer; None leaves a property as it is."""

    public_key: str
    new: bool = False
    """It isn't there yet; else it must be, and isn't made."""
    remove: bool = False
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    preshared_key: str | None = field(default=None, repr=False)
    """NO_KEY takes one away."""
    replace_allowed_ips: bool = False
    """Take all allowed IPs away first; a packet that comes in between is dropped."""
    allowed_ips: tuple[str, ...] = ()
    """To add; one that another peer holds moves over at once."""

    def line(self, device: str) -> str:
        """The change as a wg(8) command, the preshared key left out."""
        words = [f"wg set {device} peer {self.public_key}"]
        if self.remove:
            return f"{words[0]} remove"
        if self.preshared_key is not None:
            words.append(f"preshared-key {'/dev/null' if self.preshared_key == NO_KEY else '...'}")
        if self.endpoint is not None:
            words.append(f"endpoint {self.endpoint}")
        if self.keepalive is not None:
            words.append(f"persistent-keepalive {self.keepalive or 'off'}")
        if self.allowed_ips or self.replace_allowed_ips:
            sign = "" if self.new or self.replace_allowed_ips else "+"
            words.append("allowed-ips " + ",".join(sign + ip for ip in self.allowed_ips))
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """What to do to a device, in order; falsy when that is nothing."""

    private_key: str | None = field(default=None, repr=False)
    listen_port: int | None = None
    peers: tuple[PeerChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.private_key or self.listen_port is not None or self.peers)

    def lines(self, device: str) -> list[str]:
        """The changes as wg(8) commands, secrets left out."""
        words = [f"wg set {device}"]
        if self.private_key is not None:
            words.append("private-key ...")
        if self.listen_port is not None:
            words.append(f"listen-port {self.listen_port}")
        return [" ".join(words)] * (len(words) > 1) + [p.line(device) for p in self.peers]


def key_bytes(key: str) -> bytes:
    """The 32 bytes of a key in base64. Raises ValueError, which doesn't show the key."""
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_LENGTH:
        raise ValueError("no WireGuard key: that is 32 bytes in base64, 44 characters")
    return raw


def key_text(raw: bytes) -> str:
    """A key in base64."""
    return base64.b64encode(raw).decode()


def clamped(raw: bytes) -> bytes:
    """A private key as X25519 uses it (RFC 7748, section 5), and as WireGuard shows it."""
    return bytes((raw[0] & 248, *raw[1:31], raw[31] & 127 | 64))
