"""What ADD answers, in the shape of every version of the specification.

Inside, there is one form: that of 1.1.0. It is written as the version that the request's
config names, and read from whatever version a `prevResult` has:

    0.1.0, 0.2.0   `ip4`, `ip6`: one address each, with its routes
    0.3.0 - 0.4.0  `interfaces`, `ips` (each with `version`), `routes`
    1.0.0          `ips` without `version`
    1.1.0          `mtu`, `socketPath`, `pciID` of interfaces; `mtu`, `advmss`, `priority`,
                   `table`, `scope` of routes

(CNI SPEC 1.1.0, section 5; the older shapes in the specification's own history.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cni import cidr, versions
from cni.errors import DECODING_FAILURE, CniError


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that an attachment has."""

    name: str
    mac: str = ""
    sandbox: str = ""
    """CNI_NETNS for the container's side; empty on the host."""
    mtu: int = 0
    """Bytes; 0 is unsaid."""
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True)
class Ip:
    """An address that an attachment has."""

    address: str
    """`10.5.1.2/24`."""
    gateway: str = ""
    interface: int | None = None
    """Index into the result's interfaces; None from an IPAM plugin."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route inside the container."""

    destination: str
    gateway: str = ""
    """Empty: the gateway of the address of the same family."""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """For the runtime's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to an ADD."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)

    def after(self, previous: Result) -> Result:
        """This result behind that of an earlier plugin in the chain."""
        shift = len(previous.interfaces)
        moved = tuple(
            ip if ip.interface is None else replace(ip, interface=ip.interface + shift)
            for ip in self.ips
        )
        return Result(
            previous.interfaces + self.interfaces,
            previous.ips + moved,
            previous.routes + self.routes,
            self.dns if self.dns != Dns() else previous.dns,
        )

    def as_dict(self, version: str) -> dict[str, Any]:
        """JSON of a version that we support."""
        if not versions.at_least(version, "0.3.0"):
            return self._as_02(version)
        modern = versions.at_least(version, "1.1.0")
        body: dict[str, Any] = {"cniVersion": version}
        if self.interfaces:
            body["interfaces"] = [_interface(i, modern=modern) for i in self.interfaces]
        if self.ips:
            old = not versions.at_least(version, "1.0.0")
            body["ips"] = [_ip(ip, with_version=old) for ip in self.ips]
        if self.routes:
            body["routes"] = [_route(r, modern=modern) for r in self.routes]
        body["dns"] = _dns(self.dns)
        return body

    def _as_02(self, version: str) -> dict[str, Any]:
        """One address per family, its routes beneath it; what doesn't fit is not said."""
        body: dict[str, Any] = {"cniVersion": version}
        for family in (4, 6):
            ip = next((ip for ip in self.ips if cidr.parse(ip.address).family == family), None)
            if ip is None:
                continue
            part: dict[str, Any] = {"ip": ip.address}
            if ip.gateway:
                part["gateway"] = ip.gateway
            routes = [
                _route(r, modern=False)
                for r in self.routes
                if cidr.parse(r.destination).family == family
            ]
            if routes:
                part["routes"] = routes
            body[f"ip{family}"] = part
        body["dns"] = _dns(self.dns)
        return body


def _interface(interface: Interface, *, modern: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"name": interface.name}
    pairs: list[tuple[str, Any]] = [("mac", interface.mac)]
    if modern:
        pairs.append(("mtu", interface.mtu))
    pairs.append(("sandbox", interface.sandbox))
    if modern:
        pairs += [("socketPath", interface.socket_path), ("pciID", interface.pci_id)]
    body.update((name, value) for name, value in pairs if value)
    return body


def _ip(ip: Ip, *, with_version: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if with_version:
        body["version"] = str(cidr.parse(ip.address).family)
    if ip.interface is not None:
        body["interface"] = ip.interface
    body["address"] = ip.address
    if ip.gateway:
        body["gateway"] = ip.gateway
    return body


def _route(route: Route, *, modern: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"dst": route.destination}
    if route.gateway:
        body["gw"] = route.gateway
    if modern:
        numbers = (("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority))
        body.update((name, value) for name, value in numbers if value)
        optional = (("table", route.table), ("scope", route.scope))
        body.update((name, value) for name, value in optional if value is not None)
    return body


def _dns(dns: Dns) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if dns.nameservers:
        body["nameservers"] = list(dns.nameservers)
    if dns.domain:
        body["domain"] = dns.domain
    if dns.search:
        body["search"] = list(dns.search)
    if dns.options:
        body["options"] = list(dns.options)
    return body


class _Reader:
    """Takes typed values out of decoded JSON; errors name the path of the key."""

    def __init__(self, code: int, where: str) -> None:
        self.code = code
        self.where = where

    def fail(self, path: str, problem: str) -> CniError:
        return CniError(self.code, f"{self.where}{path}: {problem}")

    def text(self, raw: Mapping[str, Any], key: str, path: str) -> str:
        value = raw.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.fail(f"{path}.{key}", f"{value!r} is not a string")
        return value

    def number(self, raw: Mapping[str, Any], key: str, path: str) -> int | None:
        value = raw.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fail(f"{path}.{key}", f"{value!r} is not a whole number")
        return value

    def objects(self, raw: Mapping[str, Any], key: str, path: str) -> list[Mapping[str, Any]]:
        value = raw.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
            raise self.fail(f"{path}.{key}", "is not a list of objects")
        return value

    def texts(self, raw: Mapping[str, Any], key: str, path: str) -> tuple[str, ...]:
        value = raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.fail(f"{path}.{key}", "is not a list of strings")
        return tuple(value)

    def cidr(self, raw: Mapping[str, Any], key: str, path: str) -> str:
        text = self.text(raw, key, path)
        try:
            return str(cidr.parse(text))
        except ValueError as error:
            raise self.fail(f"{path}.{key}", str(error)) from None

    def address(self, raw: Mapping[str, Any], key: str, path: str) -> str:
        text = self.text(raw, key, path)
        if not text:
            return ""
        try:
            return cidr.to_text(*cidr.parse_address(text))
        except ValueError as error:
            raise self.fail(f"{path}.{key}", str(error)) from None


def parse(raw: object, where: str = "prevResult", code: int = DECODING_FAILURE) -> Result:
    """A result from decoded JSON of any version, told by its shape.

    Raises CniError with `code`; the message starts with `where`.
    """
    if not isinstance(raw, Mapping):
        raise CniError(code, f"{where}: is not an object")
    version = raw.get("cniVersion")
    if version is not None:
        versions.require(version)
    reader = _Reader(code, where)
    if "ips" not in raw and ("ip4" in raw or "ip6" in raw):
        return _parse_02(raw, reader)
    interfaces = tuple(_parse_interface(i, reader) for i in reader.objects(raw, "interfaces", ""))
    ips = tuple(_parse_ip(ip, reader, interfaces) for ip in reader.objects(raw, "ips", ""))
    routes = parse_routes(raw, where, code)
    return Result(interfaces, ips, routes, parse_dns(raw, where, code))


def _parse_02(raw: Mapping[str, Any], reader: _Reader) -> Result:
    ips: list[Ip] = []
    routes: list[Route] = []
    for family in (4, 6):
        part = raw.get(f"ip{family}")
        if part is None:
            continue
        path = f".ip{family}"
        if not isinstance(part, Mapping):
            raise reader.fail(path, "is not an object")
        address = reader.cidr(part, "ip", path)
        if cidr.parse(address).family != family:
            raise reader.fail(f"{path}.ip", f"{address} is not IPv{family}")
        ips.append(Ip(address, reader.address(part, "gateway", path)))
        routes += parse_routes(part, f"{reader.where}{path}", reader.code)
    return Result((), tuple(ips), tuple(routes), parse_dns(raw, reader.where, reader.code))


def _parse_interface(raw: Mapping[str, Any], reader: _Reader) -> Interface:
    path = ".interfaces"
    return Interface(
        reader.text(raw, "name", path),
        reader.text(raw, "mac", path).lower(),
        reader.text(raw, "sandbox", path),
        reader.number(raw, "mtu", path) or 0,
        reader.text(raw, "socketPath", path),
        reader.text(raw, "pciID", path),
    )


def _parse_ip(raw: Mapping[str, Any], reader: _Reader, interfaces: Sequence[Interface]) -> Ip:
    path = ".ips"
    index = reader.number(raw, "interface", path)
    if index is not None and not 0 <= index < len(interfaces):
        raise reader.fail(f"{path}.interface", f"there is no interface {index}")
    return Ip(reader.cidr(raw, "address", path), reader.address(raw, "gateway", path), index)


def parse_routes(
    raw: Mapping[str, Any], where: str, code: int = DECODING_FAILURE
) -> tuple[Route, ...]:
    """The `routes` of a result or of an IPAM config. Raises CniError with `code`."""
    reader, path = _Reader(code, where), ".routes"
    return tuple(
        Route(
            reader.cidr(route, "dst", path),
            reader.address(route, "gw", path),
            reader.number(route, "mtu", path) or 0,
            reader.number(route, "advmss", path) or 0,
            reader.number(route, "priority", path) or 0,
            reader.number(route, "table", path),
            reader.number(route, "scope", path),
        )
        for route in reader.objects(raw, "routes", "")
    )


def parse_dns(raw: Mapping[str, Any], where: str, code: int = DECODING_FAILURE) -> Dns:
    """The `dns` of a result or a config. Raises CniError with `code`."""
    dns = raw.get("dns")
    if dns is None:
        return Dns()
    reader = _Reader(code, where)
    if not isinstance(dns, Mapping):
        raise reader.fail(".dns", "is not an object")
    return Dns(
        reader.texts(dns, "nameservers", ".dns"),
        reader.text(dns, "domain", ".dns"),
        reader.texts(dns, "search", ".dns"),
        reader.texts(dns, "options", ".dns"),
    )
