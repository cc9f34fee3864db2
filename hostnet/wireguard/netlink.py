# SPDX-License-Identifier: Apache-2.0
"""Kernel WireGuard through generic netlink: is it there, read a device, change one.

Sources: linux/wireguard.h, linux/genetlink.h. A device is read by a dump whose messages may
each hold a part of its peers, and even a part of a peer's allowed IPs; a change is one
message, or several where the peers don't fit in one (an attribute holds at most 64 KiB).

Asking for the family makes the kernel load its module, where it has one.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from hostnet.netlink.attributes import (
    ATTRIBUTE,
    attr,
    attr_nest,
    attr_text,
    attr_u16,
    attr_u32,
    nested,
    pack_address,
    unpack_address,
)
from hostnet.netlink.generic import GENL_HEADER, NETLINK_GENERIC, family_id, has_family
from hostnet.netlink.socket import NetlinkSocket, Request
from hostnet.netns import NetnsRef
from hostnet.wireguard.state import (
    NO_KEY,
    DeviceChange,
    Endpoint,
    PeerChange,
    WireguardDevice,
    WireguardPeer,
    key_bytes,
    key_text,
)

FAMILY = "wireguard"
GET_DEVICE, SET_DEVICE = 0, 1
DEVICE_NAME, DEVICE_PRIVATE_KEY, DEVICE_PORT, DEVICE_PEERS = 2, 3, 6, 8
PEER_KEY, PEER_PSK, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE = 1, 2, 3, 4, 5
PEER_HANDSHAKE, PEER_RX, PEER_TX, PEER_ALLOWED_IPS = 6, 7, 8, 9
REMOVE_ME, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4
IP_FAMILY, IP_ADDRESS, IP_MASK = 1, 2, 3
PEERS_SIZE = 48 * 1024  # bytes of peers in a message: below the 64 KiB of an attribute

_SOCKADDR_IN6 = struct.Struct(">HI16s")  # port, flow info, address; the family goes before it


class KernelWireguard:
    """The kernel's WireGuard devices in one namespace (None: the caller's). Close it."""

    def __init__(self, netns: NetnsRef | None = None) -> None:
        """Find the family. Raises NetlinkError: ENOENT, the kernel has no WireGuard."""
        self.socket = NetlinkSocket(netns, protocol=NETLINK_GENERIC)
        try:
            self.family = family_id(self.socket, FAMILY)
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self.socket.close()

    def read(self, device: str) -> WireguardDevice:
        """A device and its peers. Raises NetlinkError: ENODEV, EOPNOTSUPP (of another kind)."""
        body = _header(GET_DEVICE) + attr_text(DEVICE_NAME, device)
        parts = self.socket.dump(self.family, body, f"wg show {device}")
        return parse_device([data[begin + 4 : end] for data, begin, end in parts])

    def write(self, device: str, change: DeviceChange) -> None:
        """Change a device. Raises NetlinkError: the changes before the failing one are done."""
        requests = [Request(self.family, 0, body) for body in pack_change(device, change)]
        errors = self.socket.execute(requests, lambda _: f"wg set {device}")
        for error in errors.values():
            raise error


def kernel_has_wireguard(netns: NetnsRef | None = None) -> bool:
    """Whether it is built in or loads as a module. Raises NetlinkError, OSError."""
    return has_family(FAMILY, netns)


def _header(command: int) -> bytes:
    return GENL_HEADER.pack(command, 1, 0)


# -- writing ---------------------------------------------------------------------------


def pack_change(device: str, change: DeviceChange) -> list[bytes]:
    """The payloads (struct genlmsghdr and attributes) of the messages that make a change."""
    name = attr_text(DEVICE_NAME, device)
    first = b""
    if change.private_key is not None:
        first += attr(DEVICE_PRIVATE_KEY, key_bytes(change.private_key))
    if change.listen_port is not None:
        first += attr_u16(DEVICE_PORT, change.listen_port)
    bodies: list[bytes] = []
    batch: list[bytes] = []
    size = 0
    for one in change.peers:
        packed = attr_nest(0, _pack_peer(one))
        if batch and size + len(packed) > PEERS_SIZE:
            bodies.append(_header(SET_DEVICE) + name + first + attr_nest(DEVICE_PEERS, *batch))
            batch, size, first = [], 0, b""
        batch.append(packed)
        size += len(packed)
    if batch or first:
        peers = attr_nest(DEVICE_PEERS, *batch) if batch else b""
        bodies.append(_header(SET_DEVICE) + name + first + peers)
    return bodies


def _pack_peer(change: PeerChange) -> bytes:
    flags = REMOVE_ME if change.remove else 0
    flags |= REPLACE_ALLOWED_IPS if change.replace_allowed_ips else 0
    flags |= 0 if change.new else UPDATE_ONLY
    packed = attr(PEER_KEY, key_bytes(change.public_key)) + attr_u32(PEER_FLAGS, flags)
    if change.preshared_key is not None:
        packed += attr(PEER_PSK, key_bytes(change.preshared_key))
    if change.endpoint is not None:
        packed += attr(PEER_ENDPOINT, _pack_endpoint(change.endpoint))
    if change.keepalive is not None:
        packed += attr_u16(PEER_KEEPALIVE, change.keepalive)
    if change.allowed_ips:
        packed += attr_nest(PEER_ALLOWED_IPS, *map(_pack_network, change.allowed_ips))
    return packed


def _pack_endpoint(endpoint: Endpoint) -> bytes:
    """Pack a struct sockaddr_in or sockaddr_in6."""
    family, address = pack_address(endpoint.address)
    head = struct.pack("=H", family)
    if family == socket.AF_INET:
        return head + struct.pack(">H4s8x", endpoint.port, address)
    return head + _SOCKADDR_IN6.pack(endpoint.port, 0, address) + bytes(4)


def _pack_network(network: str) -> bytes:
    address, _, length = network.partition("/")
    family, packed = pack_address(address)
    fields = attr_u16(IP_FAMILY, family) + attr(IP_ADDRESS, packed)
    return attr_nest(0, fields + attr(IP_MASK, bytes((int(length),))))


# -- reading ---------------------------------------------------------------------------


def parse_device(messages: list[bytes]) -> WireguardDevice:
    """A device from the attributes of a dump's messages, put together."""
    private_key: str | None = None
    port = 0
    peers: dict[str, WireguardPeer] = {}
    for message in messages:
        found = nested(message)
        if DEVICE_PRIVATE_KEY in found:
            text = key_text(found[DEVICE_PRIVATE_KEY])
            private_key = text if text != NO_KEY else None
        if DEVICE_PORT in found:
            port = struct.unpack("=H", found[DEVICE_PORT][:2])[0]
        for packed in _each(found.get(DEVICE_PEERS, b"")):
            one = _parse_peer(nested(packed))
            begun = peers.get(one.public_key)
            if begun is not None:  # the rest of a peer that the last message had no room for
                one = replace(begun, allowed_ips=begun.allowed_ips | one.allowed_ips)
            peers[one.public_key] = one
    return WireguardDevice(private_key, port, peers)


def _parse_peer(found: dict[int, bytes]) -> WireguardPeer:
    psk = key_text(found.get(PEER_PSK, bytes(32)))
    seconds, nanoseconds = struct.unpack("=qq", found.get(PEER_HANDSHAKE, bytes(16))[:16])
    return WireguardPeer(
        key_text(found[PEER_KEY]),
        _parse_endpoint(found.get(PEER_ENDPOINT, b"")),
        frozenset(_parse_network(nested(ip)) for ip in _each(found.get(PEER_ALLOWED_IPS, b""))),
        struct.unpack("=H", found.get(PEER_KEEPALIVE, bytes(2))[:2])[0],
        psk if psk != NO_KEY else None,
        seconds + nanoseconds / 1e9,
        struct.unpack("=Q", found.get(PEER_RX, bytes(8))[:8])[0],
        struct.unpack("=Q", found.get(PEER_TX, bytes(8))[:8])[0],
    )


def _parse_endpoint(packed: bytes) -> Endpoint | None:
    if len(packed) < 16:
        return None
    family = struct.unpack_from("=H", packed)[0]
    port = int.from_bytes(packed[2:4], "big")
    if family == socket.AF_INET:
        return Endpoint(unpack_address(packed[4:8]), port)
    return Endpoint(unpack_address(packed[8:24]), port)


def _parse_network(found: dict[int, bytes]) -> str:
    address = unpack_address(found[IP_ADDRESS])
    return str(ipaddress.ip_network(f"{address}/{found[IP_MASK][0]}", strict=False))


def _each(data: bytes) -> Iterator[bytes]:
    """The payloads of a list: nested attributes whose types mean nothing."""
    position = 0
    while position + 4 <= len(data):
        length, _ = ATTRIBUTE.unpack_from(data, position)
        if length < 4:
            return
        yield data[position + 4 : position + length]
        position += (length + 3) & ~3
