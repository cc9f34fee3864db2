"""CHECK: look whether the attachment is as ADD, and what came after it, made it.

What must hold is in the prevResult, the chain's last result: later plugins may have changed
the MAC or moved routes, and say so there. What we add of our own knowledge is the cable (both
ends are one veth, its host end is in the bridge) and the record.
"""

from __future__ import annotations

import socket

from cni import cidr
from cni.errors import CHECK_FAILED, INVALID_CONFIG, CniError
from cni.pod import wiring
from cni.pod.attachments import Record
from cni.request import Request
from cni.result import Interface, Ip, Result
from hostnet.find_link import find_link
from hostnet.kinds.address import dump_addresses, parse_addresses
from hostnet.kinds.link import FoundLink
from hostnet.kinds.route import RTM_GETROUTE, dump_routes, parse_route
from hostnet.netlink.socket import NetlinkSocket

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def check(
    request: Request, previous: Result | None, host_name: str, netns: int, record: Record | None
) -> None:
    """Compare the prevResult with what is there. Raises CniError (7, 103)."""
    if previous is None:
        raise CniError(INVALID_CONFIG, "CHECK: required prevResult missing")
    if record is None or not record.ready:
        raise _wrong(f"no record of container {request.container_id} {request.ifname}")
    said = next(
        (
            (index, interface)
            for index, interface in enumerate(previous.interfaces)
            if interface.name == request.ifname and interface.sandbox == request.netns
        ),
        None,
    )
    if said is None:
        raise _wrong(f"prevResult has no interface {request.ifname} in {request.netns}")
    with NetlinkSocket() as host, NetlinkSocket(netns) as pod:
        inside = _inside(pod, said[1])
        _cable(host, inside, host_name, previous)
        ips = [ip for ip in previous.ips if ip.interface in (None, said[0])]
        _addresses(pod, inside, ips)
        _routes(pod, inside, previous, ips)
    for address in record.ips:
        if not any(cidr.parse(ip.address).address == address for ip in ips):
            raise _wrong(f"{address} is recorded for it, but not in prevResult")


def _wrong(problem: str) -> CniError:
    return CniError(CHECK_FAILED, f"CHECK: {problem}")


def _inside(pod: NetlinkSocket, said: Interface) -> FoundLink:
    found = find_link(pod, said.name)
    if found is None:
        raise _wrong(f"interface {said.name} is not in the container")
    if found.kind != "veth":
        raise _wrong(f"interface {said.name} is a {found.kind or 'device'}, no veth")
    if said.mac and found.mac != said.mac:
        raise _wrong(f"{said.name} has MAC {found.mac}, expected {said.mac}")
    return found


def _cable(host: NetlinkSocket, inside: FoundLink, host_name: str, previous: Result) -> None:
    near = find_link(host, host_name)
    if near is None:
        raise _wrong(f"host interface {host_name} is gone")
    if near.index != inside.parent or near.parent != inside.index:
        raise _wrong(f"{inside.name} and {host_name} are not the two ends of one veth")
    bridges = [i.name for i in previous.interfaces if not i.sandbox and i.name != host_name]
    for name in bridges:
        found = find_link(host, name)
        if found is not None and found.kind == "bridge" and near.master == found.index:
            return
    if bridges:
        raise _wrong(f"{host_name} is not a port of {' or '.join(bridges)}")


def _addresses(pod: NetlinkSocket, inside: FoundLink, ips: list[Ip]) -> None:
    dump = dump_addresses(0, inside.index)
    parts = pod.dump(dump.type, dump.body, f"ip addr show {inside.name}")
    present = {
        found.address.address
        for found in parse_addresses(parts, {inside.index: inside.name})
        if found.ifindex == inside.index
    }
    for ip in ips:
        if ip.address not in present:
            raise _wrong(f"{inside.name} does not have the address {ip.address}")


def _routes(pod: NetlinkSocket, inside: FoundLink, previous: Result, ips: list[Ip]) -> None:
    names = {inside.index: inside.name}
    for family, constant in FAMILIES.items():
        wanted = [r for r in previous.routes if cidr.parse(r.destination).family == family]
        if not wanted:
            continue
        dump = dump_routes(constant)
        parts = pod.dump(RTM_GETROUTE, dump.body, "ip route show table all")
        found = [parse_route(part, names, {})[0] for part in parts]
        present = {(r.destination, r.via) for r in found if r is not None}
        for route in wanted:
            expected = wiring.kernel_route(route, inside.name, ips)
            if (expected.destination, expected.via) not in present:
                via = f" via {expected.via}" if expected.via else ""
                raise _wrong(f"the container has no route to {expected.destination}{via}")
