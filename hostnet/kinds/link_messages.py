# SPDX-License-Identifier: Apache-2.0
"""Network devices in rtnetlink: make, change, delete, and read them back.

Sources: rtnetlink(7), linux/if_link.h. Builders return a
`netlink.Request`; nothing here talks to the kernel. A device is named by its index where
that is known, else by its name.
"""

from __future__ import annotations

import socket
import struct

from hostnet.kinds.actual_link import (
    IFF_PROMISC,
    IFF_UP,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_MODE,
    ActualLink,
)
from hostnet.netlink.attributes import (
    attr,
    attr_nest,
    attr_text,
    attr_u8,
    attr_u16,
    attr_u32,
    attributes,
    nested,
    pack_mac,
    text_of,
    u32,
    unpack_mac,
)
from hostnet.netlink.buffers import Part
from hostnet.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Request

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_PROTINFO = 12
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC = 18, 19, 20, 26
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_PROP_LIST = 28, 29, 37, 52
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_DATA = 1, 2, 5
IFLA_INET6_ADDR_GEN_MODE = 8
ADDR_GEN_MODES = ("eui64", "none", "stable_secret", "random")
RTEXT_FILTER_BRVLAN, RTEXT_FILTER_SKIP_STATS = 1 << 1, 1 << 3
IFLA_BR_VLAN_DEFAULT_PVID = 39
VETH_INFO_PEER = 1
IFLA_BRIDGE_VLAN_INFO, IFLA_BRIDGE_FLAGS = 2, 0
BRIDGE_VLAN_INFO_PVID, BRIDGE_VLAN_INFO_UNTAGGED = 1 << 1, 1 << 2
BRIDGE_VLAN_INFO_RANGE_BEGIN, BRIDGE_VLAN_INFO_RANGE_END = 1 << 3, 1 << 4
BRIDGE_FLAGS_SELF = 2

_HEADER = struct.Struct("=BBHiII")  # struct ifinfomsg


def header(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    """Pack struct ifinfomsg."""
    return _HEADER.pack(family, 0, 0, index, flags, change)


def settings(
    *,
    name: str | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    alias: str | None = None,
    master: int | None = None,
    netns_fd: int | None = None,
    addrgenmode: str | None = None,
) -> bytes:
    """Pack the attributes that every kind of device has; `master` 0 takes it out of one."""
    parts = []
    if name is not None:
        parts.append(attr_text(IFLA_IFNAME, name))
    if mtu is not None:
        parts.append(attr_u32(IFLA_MTU, mtu))
    if mac is not None:
        parts.append(attr(IFLA_ADDRESS, pack_mac(mac)))
    if alias is not None:
        parts.append(attr(IFLA_IFALIAS, alias.encode()))
    if master is not None:
        parts.append(attr_u32(IFLA_MASTER, master))
    if netns_fd is not None:
        parts.append(attr_u32(IFLA_NET_NS_FD, netns_fd))
    if addrgenmode is not None:
        mode = attr_u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODES.index(addrgenmode))
        parts.append(attr_nest(IFLA_AF_SPEC, attr_nest(socket.AF_INET6, mode)))
    return b"".join(parts)


def add_link(kind: str, common: bytes, data: bytes = b"", *, up: bool = False) -> Request:
    """Make a device of a kind; EEXIST when the name is taken."""
    info = attr_text(IFLA_INFO_KIND, kind)
    if data:
        info += attr_nest(IFLA_INFO_DATA, data)
    flags = IFF_UP if up else 0
    body = header(flags=flags, change=flags) + common + attr_nest(IFLA_LINKINFO, info)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_veth(host: bytes, peer: bytes, *, host_up: bool = True, peer_up: bool = True) -> Request:
    """Make a veth pair; `settings(netns_fd=...)` of the peer puts it straight elsewhere."""
    flags = IFF_UP if peer_up else 0
    data = attr_nest(VETH_INFO_PEER, header(flags=flags, change=flags) + peer)
    return add_link("veth", host, data, up=host_up)


def bridge_pvid_data(pvid: int) -> bytes:
    """IFLA_INFO_DATA that sets the VLAN new ports join untagged; 0 for none."""
    return attr_u16(IFLA_BR_VLAN_DEFAULT_PVID, pvid)


def change_link(
    which: int | str, common: bytes = b"", *, up: bool | None = None, promisc: bool | None = None
) -> Request:
    """Change a device: `ip link set`. `common` comes from `settings`."""
    flags = change = 0
    if up is not None:
        change |= IFF_UP
        flags |= IFF_UP if up else 0
    if promisc is not None:
        change |= IFF_PROMISC
        flags |= IFF_PROMISC if promisc else 0
    index, name = _which(which)
    return Request(RTM_NEWLINK, 0, header(index, flags, change) + name + common)


def change_kind_data(which: int | str, kind: str, data: bytes) -> Request:
    """Change what is special to a kind: `ip link set DEV type KIND ...`."""
    index, name = _which(which)
    info = attr_text(IFLA_INFO_KIND, kind) + attr_nest(IFLA_INFO_DATA, data)
    return Request(RTM_NEWLINK, 0, header(index) + name + attr_nest(IFLA_LINKINFO, info))


def set_addrgenmode(which: int | str, mode: str) -> Request:
    """`ip link set DEV addrgenmode MODE`; `none`: no link-local IPv6 address by itself."""
    return change_link(which, settings(addrgenmode=mode))


def set_port(index: int, *, hairpin: bool | None = None, isolated: bool | None = None) -> Request:
    """`bridge link set dev DEV hairpin on isolated on`; the device is in a bridge already."""
    data = b""
    if hairpin is not None:
        data += attr_u8(IFLA_BRPORT_MODE, hairpin)
    if isolated is not None:
        data += attr_u8(IFLA_BRPORT_ISOLATED, isolated)
    body = header(index, family=socket.AF_BRIDGE) + attr_nest(IFLA_PROTINFO, data)
    return Request(RTM_SETLINK, 0, body)


def change_vlan(
    index: int,
    vid: int,
    *,
    last: int | None = None,
    pvid: bool = False,
    untagged: bool = False,
    on_bridge: bool = False,
    remove: bool = False,
) -> Request:
    """`bridge vlan add|del dev DEV vid VID[-LAST] [pvid] [untagged] [self]`."""
    flags = BRIDGE_VLAN_INFO_PVID if pvid else 0
    flags |= BRIDGE_VLAN_INFO_UNTAGGED if untagged else 0
    if last is None or last == vid:
        spec = attr(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", flags, vid))
    else:
        begin = struct.pack("=HH", flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, vid)
        end = struct.pack("=HH", flags | BRIDGE_VLAN_INFO_RANGE_END, last)
        spec = attr(IFLA_BRIDGE_VLAN_INFO, begin) + attr(IFLA_BRIDGE_VLAN_INFO, end)
    if on_bridge:
        spec = attr_u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF) + spec
    body = header(index, family=socket.AF_BRIDGE) + attr_nest(IFLA_AF_SPEC, spec)
    return Request(RTM_DELLINK if remove else RTM_SETLINK, 0, body)


def delete_link(which: int | str) -> Request:
    """`ip link del DEV`."""
    index, name = _which(which)
    return Request(RTM_DELLINK, 0, header(index) + name)


def get_link(which: int | str) -> Request:
    """Ask for one device, without its statistics."""
    index, name = _which(which)
    mask = attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, 0, header(index) + name + mask)


def dump_links(*, master: int = 0, kind: str = "") -> Request:
    """Ask for all devices, or those in a bridge, or of a kind."""
    body = header() + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    if master:
        body += attr_u32(IFLA_MASTER, master)
    if kind:
        body += attr_nest(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, kind))
    return Request(RTM_GETLINK, 0, body)


def parse_link(part: Part) -> ActualLink:
    """Read an RTM_NEWLINK message."""
    data, begin, end = part
    _, _, _, index, flags, _ = _HEADER.unpack_from(data, begin)
    found = attributes(data, begin + 16, end)
    info = nested(found.get(IFLA_LINKINFO, b""))
    return ActualLink(
        name=text_of(found.get(IFLA_IFNAME)),
        index=index,
        kind=text_of(info.get(IFLA_INFO_KIND)),
        flags=flags,
        mtu=u32(found.get(IFLA_MTU)),
        mac=unpack_mac(found.get(IFLA_ADDRESS, b"")),
        alias=text_of(found.get(IFLA_IFALIAS)),
        master=u32(found.get(IFLA_MASTER)),
        parent=u32(found.get(IFLA_LINK)),
        peer_netnsid=u32(found[IFLA_LINK_NETNSID]) if IFLA_LINK_NETNSID in found else None,
        addrgenmode=_addrgenmode(found.get(IFLA_AF_SPEC)),
        data=nested(info.get(IFLA_INFO_DATA, b"")),
        port=nested(info.get(IFLA_INFO_SLAVE_DATA, b"")),
    )


def parse_port(part: Part) -> dict[int, bytes]:
    """Read the settings of a bridge port (IFLA_BRPORT_*) from an AF_BRIDGE message."""
    data, begin, end = part
    found = attributes(data, begin + _HEADER.size, end)
    return nested(found.get(IFLA_PROTINFO, b""))


def _addrgenmode(af_spec: bytes | None) -> str | None:
    inet6 = nested(nested(af_spec or b"").get(socket.AF_INET6, b""))
    mode = inet6.get(IFLA_INET6_ADDR_GEN_MODE)
    return ADDR_GEN_MODES[mode[0]] if mode and mode[0] < len(ADDR_GEN_MODES) else None


def _which(which: int | str) -> tuple[int, bytes]:
    return (which, b"") if isinstance(which, int) else (0, attr_text(IFLA_IFNAME, which))
