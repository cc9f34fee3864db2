"""`flatmesh`: plug a container into the host's bridge, and out again.

Theory of operation
-------------------
ADD is all or nothing. Everything that can be refused is refused before anything is touched;
then the intent is recorded, with the addresses, in one transaction; then the kernel is
changed; then the record says `ready`. Whatever goes wrong in between, and wherever we are
killed, `removal.detach` leads back to nothing: the undo of a failed ADD, DEL, GC and the
sweep at a daemon's start are that one function, which works from the record and finds out
for itself how far things had come. The record goes last, so there is a trace until there is
nothing.

Addresses come from this host's own book, or from a delegated IPAM plugin where `ipam.type`
names another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from cni import cidr, delegate, ipam_config
from cni.crash_points import reach
from cni.errors import (
    ATTACHMENT_EXISTS,
    INVALID_CONFIG,
    IO_FAILURE,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
)
from cni.host import Host
from cni.ipam_config import PoolConfig
from cni.pod import attachment_lock, bridge_config, container_netns, firewall, removal, wiring
from cni.pod.attach_mode import AttachMode
from cni.pod.attachments import Attachments
from cni.pod.bridge_config import BridgeConfig
from cni.request import Key, Request
from cni.result import Interface, Ip, Result, Route, parse_dns
from hostnet.find_link import find_link
from hostnet.kinds import sysctl
from hostnet.kinds.link import FoundLink
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import entered
from hostnet.ownership import POD_ALIAS
from hostnet.state import Sysctl

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
IPV6_MIN_MTU = 1280  # bytes, RFC 8200 section 5
MAX_ALIAS = 255  # bytes: IFALIASZ less the zero, linux/if.h


@dataclass(frozen=True, slots=True)
class Plan:
    """What an ADD will do, found out before anything is touched."""

    key: Key
    bridge: BridgeConfig
    attach: AttachMode
    pool: PoolConfig | None
    """None: a delegated plugin gives the addresses, or nobody does."""
    delegate: str
    """Type of the delegated IPAM plugin; empty: none."""
    previous: Result | None

    @property
    def host_name(self) -> str:
        """The host end of the cable."""
        return wiring.host_name(*self.key)


def add(request: Request, host: Host) -> Result:
    """Attach the container. Raises CniError, NetlinkError, OSError."""
    plan = _plan(request, host)
    with ExitStack() as stack:
        netns = stack.enter_context(container_netns.opened(request))
        stack.enter_context(attachment_lock.hold(host, "flatmesh", plan.key))
        book = Attachments(host)
        ends = wiring.Ends(
            stack.enter_context(NetlinkSocket()), stack.enter_context(_socket_in(netns)), netns
        )
        _require_free(request, plan, book, ends, host)
        with _undone_on_failure(request, plan.key, book, host):
            result = _attach(request, plan, book, ends, host)
    _tell(host)
    return result


def delete(request: Request, host: Host) -> None:
    """Detach the container; what is gone already is fine. Raises CniError."""
    key = request.key
    with ExitStack() as stack:
        netns = stack.enter_context(container_netns.opened_if_there(request))
        stack.enter_context(attachment_lock.hold(host, "flatmesh", key))
        book = Attachments(host)
        record = book.find(key)
        delegate_type = _delegate_type(request)
        if delegate_type:
            delegate.prepare(delegate_type, request)
        reach("del-found")
        removal.detach(removal.Removal(key, record, netns, request), book, host)
    _tell(host)


def check(request: Request, host: Host) -> None:
    """Look whether the attachment is as ADD made it. Raises CniError (103)."""
    from cni.pod import check as pod_check  # noqa: PLC0415 - 3 ms that ADD and DEL needn't pay

    plan = _plan(request, host)
    with container_netns.opened(request) as netns:
        record = Attachments(host).find(plan.key)
        pod_check.check(request, plan.previous, plan.host_name, netns, record)
    if plan.delegate:
        delegate.call(plan.delegate, "CHECK", request.conf, request, host)
    status = host.status()
    if status.problem and status.pods_affected:
        raise CniError(NOT_AVAILABLE, status.problem)


def gc(request: Request, host: Host) -> None:
    """Detach all of this network that is not valid, past errors. Raises CniError."""
    removal.collect(request, request.valid_attachments(), host)
    delegate_type = _delegate_type(request)
    if delegate_type:
        delegate.forward(delegate_type, request, host)
    _tell(host)


def status(request: Request, host: Host) -> None:
    """Raise CniError (50, 51) when an ADD could not be served."""
    known = host.status()
    if known.problem:
        raise CniError(NOT_AVAILABLE + known.pods_affected, known.problem)
    delegate_type = _delegate_type(request)
    if delegate_type:
        delegate.forward(delegate_type, request, host)
    elif _uses_own_pool(request):
        Attachments(host).require_room(
            request.network, ipam_config.parse(request, host.subnet_file)
        )


def _socket_in(netns: int) -> NetlinkSocket:
    """Open a socket in a namespace by going there: a thread for it would cost 0.15 ms more.

    Our thread is a server's worker or the only one of an executable: nobody minds. Should
    the way back fail, the server sees at its next call that it is in the wrong namespace.
    """
    with entered(netns):
        return NetlinkSocket()


def _plan(request: Request, host: Host) -> Plan:
    key = request.key
    delegate_type = _delegate_type(request)
    if delegate_type:
        delegate.prepare(delegate_type, request)
    pool = ipam_config.parse(request, host.subnet_file) if _uses_own_pool(request) else None
    config = bridge_config.parse(request)
    if not config.mtu:
        with contextlib.suppress(CniError):  # only needed for the MTU: the kernel's will do
            path = ipam_config.subnet_file(request, host.subnet_file)
            config = replace(config, mtu=ipam_config.read_subnet_env(path).mtu)
    ipv6 = pool is not None and any(ranges[0].family == 6 for ranges in pool.sets)
    if ipv6 and 0 < config.mtu < IPV6_MIN_MTU:
        raise CniError(INVALID_CONFIG, f"mtu: {config.mtu} is below IPv6's {IPV6_MIN_MTU}")
    attach = AttachMode.read(host.run_dir)
    return Plan(key, config, attach, pool, delegate_type, request.previous())


def _delegate_type(request: Request) -> str:
    """The type of a delegated IPAM plugin that is not ours; empty when there is none."""
    section = request.conf.get("ipam")
    kind = section.get("type", "") if isinstance(section, dict) else ""
    if not isinstance(kind, str):
        raise CniError(INVALID_CONFIG, f"ipam.type: {kind!r} is no name")
    return "" if kind == removal.OWN_IPAM else kind


def _uses_own_pool(request: Request) -> bool:
    """No `ipam` means the lease; `ipam` without a type means no addresses, as in `bridge`."""
    section = request.conf.get("ipam")
    if section is None:
        return True
    if not isinstance(section, dict):
        raise CniError(INVALID_CONFIG, "ipam: is not an object")
    return section.get("type") == removal.OWN_IPAM


def _require_free(
    request: Request, plan: Plan, book: Attachments, ends: wiring.Ends, host: Host
) -> None:
    """Refuse a second ADD; clear away what a killed one, or a pod of old, left."""
    record = book.find(plan.key)
    unfinished = record is not None and not record.ready
    if not unfinished:
        inside = find_link(ends.pod, request.ifname)
        if inside is not None or find_link(ends.host, plan.host_name) is not None:
            where = "in the container" if inside is not None else "in another namespace"
            raise CniError(
                ATTACHMENT_EXISTS,
                f"interface {request.ifname} of container {request.container_id} exists {where} "
                "already: DEL comes before another ADD",
            )
    if record is not None:
        attachment = removal.Removal(plan.key, record, ends.pod_netns, request)
        removal.detach(attachment, book, host)


@contextlib.contextmanager
def _undone_on_failure(request: Request, key: Key, book: Attachments, host: Host) -> Iterator[None]:
    try:
        yield
    except BaseException as failure:
        try:
            record = book.find(key)
            removal.detach(removal.Removal(key, record, None, request), book, host)
        except Exception as trouble:  # noqa: BLE001 - the first fault is the one to report
            failure.add_note(f"and undoing it failed too; DEL will try again: {trouble}")
        raise


def _attach(
    request: Request, plan: Plan, book: Attachments, ends: wiring.Ends, host: Host
) -> Result:
    note: dict[str, Any] = {"plugin": "flatmesh"}
    if plan.delegate:
        note["delegate"] = delegate.to_remember(plan.delegate, request)
    pool = plan.pool
    ips = book.begin(request.netns, plan.key, pool, note)
    reach("add-recorded")
    routes = pool.routes if pool else ()
    dns = pool.dns if pool else parse_dns(request.conf, "config")
    ips, routes = with_gateways(ips, routes, plan.bridge)
    bridge = _bridge(plan, ends, ips)
    cable = wiring.Cable(
        plan.host_name,
        request.ifname,
        plan.bridge.mac or wiring.mac_for(ips, "0a:58"),
        wiring.mac_for(ips, "0a:59"),
        plan.bridge.mtu,
        f"{POD_ALIAS} {' '.join(plan.key)}"[:MAX_ALIAS],
    )
    interface = wiring.plug_in(ends, cable, bridge, plan.bridge)
    reach("add-cable")
    if plan.delegate:
        given = _delegated(request, plan, book, note, host)
        reach("add-delegated")
        ips, routes = with_gateways(given.ips, given.routes, plan.bridge)
        dns = given.dns
        bridge = _bridge(plan, ends, ips)
        if not plan.bridge.mac and plan.delegate not in delegate.NEED_INTERFACE:
            cable = replace(cable, mac=wiring.mac_for(ips, "0a:58"))
            wiring.set_mac(ends.pod, interface, cable.mac)
    if plan.bridge.container_interface_up:
        _allow_ipv6(request, ends, ips)
        wiring.configure_pod(ends.pod, interface, ips, routes)
    reach("add-configured")
    _firewall(plan, cable, ips, book, note)
    reach("add-firewalled")
    result = _result(request, cable, bridge, interface, Result((), ips, routes, dns))
    note |= {"mac": cable.mac, "ips": [ip.address for ip in ips]}
    book.finish(plan.key, cable.host_name, note)
    reach("add-ready")
    return result.after(plan.previous) if plan.previous is not None else result


def _delegated(
    request: Request, plan: Plan, book: Attachments, note: dict[str, Any], host: Host
) -> Result:
    """Addresses from the delegated plugin; what it refuses it need not be asked to undo.

    The cable is there already: a dhcp plugin asks through it.
    Its DEL is called all the same, as the specification wants, but a plugin which refuses a
    config refuses it in a DEL too: that must not leave a record behind.
    """
    try:
        given = delegate.add_addresses(plan.delegate, request, host)
    except CniError as error:
        with contextlib.suppress(CniError):
            delegate.call(plan.delegate, "DEL", request.conf, request, host)
        if error.code != TRY_AGAIN_LATER:  # one that was cut short may have given something
            book.note(plan.key, {k: v for k, v in note.items() if k != "delegate"})
        raise
    return given


def with_gateways(
    ips: tuple[Ip, ...], routes: tuple[Route, ...], config: BridgeConfig
) -> tuple[tuple[Ip, ...], tuple[Route, ...]]:
    """Addresses with a gateway each, and the default routes, as the config wants them."""
    if config.is_gateway:
        ips = tuple(ip if ip.gateway else replace(ip, gateway=_first_host(ip)) for ip in ips)
    if not config.is_default_gateway:
        return ips, routes
    for ip in ips:
        family = cidr.parse(ip.address).family
        default = str(cidr.default_network(family))
        if ip.gateway and not any(r.destination == default for r in routes):
            routes = (*routes, Route(default, ip.gateway))
    return ips, routes


def _first_host(ip: Ip) -> str:
    network = cidr.parse(ip.address).network
    return cidr.to_text(network.family, network.value + 1)


def _bridge(plan: Plan, ends: wiring.Ends, ips: tuple[Ip, ...]) -> FoundLink | None:
    """The bridge with its gateway addresses; None where the daemon plugs the host end in."""
    gateways = []
    if plan.bridge.is_gateway:
        for ip in ips:
            parsed = cidr.parse(ip.address)
            family, value = cidr.parse_address(ip.gateway)
            gateways.append(cidr.Cidr(family, value, parsed.length))
        wanted = [Sysctl(FORWARDING[f], "1") for f in sorted({g.family for g in gateways})]
        missing = set(wanted) - set(sysctl.read(wanted))
        for setting, error in sysctl.write(missing).items():
            raise CniError(IO_FAILURE, f"{sysctl.line(setting)}: {error.strerror}")
    if not plan.attach.to_bridge:
        return None
    bridge = wiring.ensure_bridge(ends.host, plan.bridge, plan.bridge.mtu, gateways)
    reach("add-bridge")
    return bridge


def _allow_ipv6(request: Request, ends: wiring.Ends, ips: tuple[Ip, ...]) -> None:
    """Some runtimes switch IPv6 off in new namespaces; an IPv6 address needs it."""
    if not any(":" in ip.address for ip in ips):
        return
    wanted = [Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in ("lo", request.ifname)]
    missing = set(wanted) - set(sysctl.read(wanted, ends.pod_netns))
    for setting, error in sysctl.write(missing, ends.pod_netns).items():
        raise CniError(IO_FAILURE, f"{sysctl.line(setting)}: {error.strerror}")


def _firewall(
    plan: Plan, cable: wiring.Cable, ips: tuple[Ip, ...], book: Attachments, note: dict[str, Any]
) -> None:
    """Noted before it is done: what is noted and not done costs DEL nothing."""
    if plan.bridge.ip_masq and ips:
        note["masquerade"] = [ip.address for ip in ips]
    if plan.bridge.mac_spoof_check:
        note["guard"] = [cable.host_name, cable.mac]
    if "masquerade" not in note and "guard" not in note:
        return
    book.note(plan.key, note)
    if "masquerade" in note:
        firewall.masquerade(note["masquerade"])
    if "guard" in note:
        firewall.guard(*note["guard"])


def _result(
    request: Request,
    cable: wiring.Cable,
    bridge: FoundLink | None,
    interface: FoundLink,
    base: Result,
) -> Result:
    interfaces = [Interface(bridge.name, bridge.mac, mtu=bridge.mtu)] if bridge else []
    interfaces += [
        Interface(cable.host_name, cable.host_mac, mtu=interface.mtu),
        Interface(request.ifname, cable.mac, request.netns, interface.mtu),
    ]
    ours = len(interfaces) - 1
    ips = tuple(replace(ip, interface=ours) for ip in base.ips)
    return replace(base, interfaces=tuple(interfaces), ips=ips)


def _tell(host: Host) -> None:
    if host.on_pods_changed is not None:
        host.on_pods_changed()
