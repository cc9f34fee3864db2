# SPDX-License-Identifier: Apache-2.0
"""CHECK: compare an attachment with what ADD, and the plugins after it, made.

The prevResult, the chain's last result, says what is expected: later plugins may have changed
the MAC or the routes, and then their result has the change. Two things are checked beside it:
that both ends are one veth pair whose host end is a port of the bridge, and the record.
"""

from __future__ import annotations

from cni import cidr
from cni.attachment.store import AttachmentRecord
from cni.errors import CHECK_FAILED, INVALID_CONFIG, CniError
from cni.pod.add_plan import AddPlan
from cni.pod.pod_addresses import kernel_route
from cni.result.model import CniResult, ResultAddress, ResultInterface
from hostnet.find_link import find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.route_messages import RTM_GETROUTE, dump_routes, parse_route
from hostnet.netlink.address_messages import dump_addresses, parse_addresses
from hostnet.netlink.socket import NetlinkSocket


def check_pod(plan: AddPlan, netns: int, record: AttachmentRecord | None) -> None:
    """Compare the prevResult and the record with the kernel. Raises CniError (7, 103)."""
    previous = plan.previous
    if previous is None:
        raise CniError(INVALID_CONFIG, "CHECK: required prevResult missing")
    if record is None or not record.ready:
        raise _wrong(f"no record of container {plan.key.container_id} {plan.key.ifname}")
    expected = next(
        (
            (index, interface)
            for index, interface in enumerate(previous.interfaces)
            if interface.name == plan.key.ifname and interface.sandbox == plan.netns
        ),
        None,
    )
    if expected is None:
        raise _wrong(f"prevResult has no interface {plan.key.ifname} in {plan.netns}")
    with NetlinkSocket() as host, NetlinkSocket(netns) as pod:
        pod_end = _check_pod_end(pod, expected[1])
        _check_host_end(host, pod_end, plan.host_name, previous)
        ips = [ip for ip in previous.ips if ip.interface in (None, expected[0])]
        _check_addresses(pod, pod_end, ips)
        _check_routes(pod, pod_end, previous, ips)
    for address in record.ips:
        if not any(cidr.parse_cidr(ip.address).address == address for ip in ips):
            raise _wrong(f"{address} is recorded for it, but not in prevResult")


def _wrong(problem: str) -> CniError:
    return CniError(CHECK_FAILED, f"CHECK: {problem}")


def _check_pod_end(pod: NetlinkSocket, expected: ResultInterface) -> ActualLink:
    link = find_link(pod, expected.name)
    if link is None:
        raise _wrong(f"interface {expected.name} is not in the container")
    if link.kind != "veth":
        raise _wrong(f"interface {expected.name} is a {link.kind or 'device'}, no veth")
    if expected.mac and link.mac != expected.mac:
        raise _wrong(f"{expected.name} has MAC {link.mac}, expected {expected.mac}")
    return link


def _check_host_end(
    host: NetlinkSocket, pod_end: ActualLink, host_name: str, previous: CniResult
) -> None:
    host_end = find_link(host, host_name)
    if host_end is None:
        raise _wrong(f"host interface {host_name} is gone")
    if host_end.index != pod_end.parent or host_end.parent != pod_end.index:
        raise _wrong(f"{pod_end.name} and {host_name} are not the two ends of one veth")
    bridges = [i.name for i in previous.interfaces if not i.sandbox and i.name != host_name]
    for name in bridges:
        bridge = find_link(host, name)
        if bridge is None or bridge.kind != "bridge":
            continue
        if host_end.master == bridge.index:
            return
    if bridges:
        raise _wrong(f"{host_name} is not a port of {' or '.join(bridges)}")


def _check_addresses(pod: NetlinkSocket, pod_end: ActualLink, ips: list[ResultAddress]) -> None:
    dump = dump_addresses(0, pod_end.index)
    parts = pod.dump(dump.type, dump.body, f"ip addr show {pod_end.name}")
    present = {
        each.address.address
        for each in parse_addresses(parts, {pod_end.index: pod_end.name})
        if each.ifindex == pod_end.index
    }
    for ip in ips:
        if ip.address not in present:
            raise _wrong(f"{pod_end.name} does not have the address {ip.address}")


def _check_routes(
    pod: NetlinkSocket, pod_end: ActualLink, previous: CniResult, ips: list[ResultAddress]
) -> None:
    names = {pod_end.index: pod_end.name}
    for family, constant in cidr.FAMILIES.items():
        wanted = [r for r in previous.routes if cidr.parse_cidr(r.destination).family == family]
        if not wanted:
            continue
        dump = dump_routes(constant)
        parts = pod.dump(RTM_GETROUTE, dump.body, "ip route show table all")
        routes = [parse_route(part, names, {})[0] for part in parts]
        present = {(r.destination, r.via) for r in routes if r is not None}
        for route in wanted:
            expected = kernel_route(route, pod_end.name, ips)
            if (expected.destination, expected.via) not in present:
                via = f" via {expected.via}" if expected.via else ""
                raise _wrong(f"the container has no route to {expected.destination}{via}")
