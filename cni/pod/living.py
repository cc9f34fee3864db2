# SPDX-License-Identifier: Apache-2.0
"""Finds the pods that are attached to this host without asking the address store.

It is for a store that is lost, emptied, older than the pods, or can't be read. What tells:

- the host's end of a veth pair bears the attachment in its alias, and its MAC follows from the
  pod's IPv4 address (`cni.pod.naming`);
- the source guard has the addresses that the pod was given, for each host's end;
- the pod's own interface has addresses, which the pod may have changed.

So the guard is believed before the pod. A pod that other plugins attached has no alias; its
addresses are held as well, as far as they are of the lease, until its veth pair is gone.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cni.address_pool import lease_sets, read_subnet_env
from cni.attachment.store import AttachmentRecord
from cni.config.call import AttachmentKey
from cni.errors import CniError
from cni.pod.naming import DOCKER, DOCKER_NETWORK, FOUND, HOST_PREFIX, PLUGIN, attachment_of
from hostnet.kinds.link import read_links
from hostnet.netlink.address_messages import RT_SCOPE_UNIVERSE
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns_ids import addresses_in, link_in, numbers_of
from ipam.address_allocator import Address
from ipam.address_recovery import LivingAttachment

if TYPE_CHECKING:
    from cni.config.address_range import RangeSet
    from hostnet.kinds.actual_link import ActualLink

MAC_SIZE = 8  # bytes in a key of nftables: the six of a MAC, padded to a multiple of four
NETNS_DIRECTORIES = ("/run/netns", "/run/docker/netns")
"""Where runtimes name namespaces."""


class Guarded(NamedTuple):
    """What the source guard has of one host interface."""

    checked: bool
    trunk: bool
    addresses: tuple[str, ...]


def find_living(subnet_file: Path) -> list[LivingAttachment]:
    """All attachments of this host. Raises NetlinkError, OSError."""
    with NetlinkSocket() as sock:
        links = {link.index: link for link in read_links(sock)}
        veths = [one for one in links.values() if one.kind == "veth" and one.parent]
        if not veths:
            return []
        files = [file for d in NETNS_DIRECTORIES if Path(d).is_dir() for file in Path(d).iterdir()]
        paths = dict(numbers_of(sock, sorted(files)))
        guarded, sets = _guarded(), _lease(subnet_file)
        found = [
            _living(sock, link, links.get(link.master), paths, guarded.get(link.name), sets)
            for link in veths
        ]
    by_mac = {link.name: _told_by_mac(link) for link in veths}
    return list(_each_address_once([one for one in found if one is not None], by_mac))


def found_record(living: Sequence[LivingAttachment], key: AttachmentKey) -> AttachmentRecord | None:
    """What a record of the attachment would say; None when it is not there."""
    for one in living:
        if (one.network, one.container, one.ifname) == key:
            ips = tuple(map(str, one.addresses))
            return AttachmentRecord(key, True, one.netns, one.host_ifname, ips, one.metadata)
    return None


def _living(
    sock: NetlinkSocket,
    link: ActualLink,
    master: ActualLink | None,
    paths: Mapping[int, Path],
    guarded: Guarded | None,
    sets: Sequence[RangeSet],
) -> LivingAttachment | None:
    number = link.peer_netnsid
    key = attachment_of(link.alias, link.name)
    if number is None or (key is None and not sets):
        return None
    pod_end = link_in(sock, number, link.parent)
    own = [
        each.address.address
        for each in (addresses_in(sock, number, link.parent) if pod_end is not None else ())
        if each.scope == RT_SCOPE_UNIVERSE
    ]
    netns = str(paths.get(number, ""))
    if key is None:
        given = [one for one in map(_parsed, own) if _is_given(one, sets)]
        # not more: a pod may give itself as many as it likes
        held = list({one.family: one for one in reversed(given)}.values())
        if not held or pod_end is None:
            return None
        metadata: dict[str, Any] = {"plugin": FOUND}
        where = ("", link.name, pod_end.name)
        return LivingAttachment(*where, tuple(held), netns, link.name, metadata)
    ips = _trusted(own, link, guarded)
    plugin = DOCKER if key.network == DOCKER_NETWORK else PLUGIN
    metadata = {"plugin": plugin, "ips": ips, "masquerade": ips}
    if pod_end is not None:
        metadata |= {"mac": pod_end.mac, "guard": [link.name, pod_end.mac]}
    if guarded is not None:
        metadata["sourceGuard"] = {
            "bridge": master.name if master is not None else "",
            "check": guarded.checked,
            "trunk": guarded.trunk,
            "mac": pod_end.mac if pod_end is not None else "",
        }
    return LivingAttachment(*key, tuple(map(_parsed, ips)), netns, link.name, metadata)


def _trusted(own: Sequence[str], link: ActualLink, guarded: Guarded | None) -> list[str]:
    """The addresses that a pod was given, with the prefix lengths that it has them with."""
    lengths = {text.partition("/")[0]: text for text in own}
    if guarded is not None and guarded.addresses:
        given: Sequence[str] = guarded.addresses
    else:
        given = list(lengths)
    by_mac = _told_by_mac(link)
    if not given and by_mac:
        given = [by_mac]
    return [lengths.get(one, f"{one}/{128 if ':' in one else 32}") for one in given]


def _told_by_mac(link: ActualLink) -> str:
    """The pod's IPv4 address, from which the MAC of the host's end follows; empty: it doesn't.

    Of a pod that has IPv6 only it is no address that any pod has.
    """
    if not link.mac.startswith(HOST_PREFIX):
        return ""
    return socket.inet_ntoa(bytes.fromhex(link.mac.replace(":", ""))[2:])


def _guarded() -> dict[str, Guarded]:
    """What the source guard's sets hold, by host interface; nothing where there is no nftables."""
    from cni.pod import source_guard  # noqa: PLC0415 - 15 ms, of a lost store only
    from hostnet.nft.sets import SetSocket  # noqa: PLC0415

    with SetSocket() as sets:
        try:
            read = {
                name: [one.element for one in sets.elements(source_guard.nft_set(name))]
                for name in ("ports", "unchecked", "trunks", "senders4", "senders6")
            }
        except OSError:
            return {}
    size = source_guard.NAME_SIZE
    given: dict[bytes, list[str]] = {}
    for name, family in (("senders4", socket.AF_INET), ("senders6", socket.AF_INET6)):
        for one in sorted(read[name]):
            text = socket.inet_ntop(family, one[size + MAC_SIZE :])
            if not ipaddress.ip_address(text).is_link_local:
                given.setdefault(one[:size], []).append(text)
    return {
        key.rstrip(b"\0").decode(): Guarded(
            key not in read["unchecked"], key in read["trunks"], tuple(given.get(key, ()))
        )
        for key in read["ports"]
    }


def _lease(subnet_file: Path) -> Sequence[RangeSet]:
    try:
        return lease_sets(read_subnet_env(subnet_file))
    except CniError:
        return ()


def _parsed(text: str) -> Address:
    ip = ipaddress.ip_interface(text).ip
    return Address(ip.version, int(ip))


def _is_given(one: Address, sets: Sequence[RangeSet]) -> bool:
    return any(r.family == one.family and r.holds(one.value) for ranges in sets for r in ranges)


def _each_address_once(
    found: Sequence[LivingAttachment], by_mac: Mapping[str, str]
) -> Iterator[LivingAttachment]:
    """No pod gets an address, and so the leave to send from it, that another one was given.

    It is that pod's whose host's end has the MAC that follows from it; else ours come first.
    """
    taken: dict[Address, str] = {}
    for one in found:
        told = by_mac.get(one.host_ifname)
        if told and _parsed(told) in one.addresses:
            taken[_parsed(told)] = one.host_ifname
    for one in sorted(found, key=lambda one: (one.metadata["plugin"] == FOUND, one.host_ifname)):
        kept = [a for a in one.addresses if taken.setdefault(a, one.host_ifname) == one.host_ifname]
        if len(kept) == len(one.addresses):
            yield one
            continue
        ips = [ip for ip in one.metadata.get("ips", ()) if _parsed(ip) in kept]
        metadata = one.metadata
        if "ips" in metadata:
            metadata = {**metadata, "ips": ips, "masquerade": ips}
        yield LivingAttachment(
            *(one.network, one.container, one.ifname, tuple(kept), one.netns, one.host_ifname),
            metadata,
        )
