# SPDX-License-Identifier: Apache-2.0
"""Read a result from decoded JSON: a `prevResult`, or what a delegated plugin printed.

The shape tells the version: up to 0.2.0 a result has `ip4` and `ip6`, later ones have `ips`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cni import cidr, versions
from cni.errors import DECODING_FAILURE, CniError
from cni.fields import CniFields
from cni.result.model import CniResult, Dns, ResultAddress, ResultInterface, ResultRoute


def read_result(raw: object, where: str = "prevResult", code: int = DECODING_FAILURE) -> CniResult:
    """A result of any version. Raises CniError with `code`, whose message starts with `where`."""
    if not isinstance(raw, Mapping):
        raise CniError(code, f"{where}: is not an object")
    version = raw.get("cniVersion")
    if version is not None:
        versions.require(version)
    fields = CniFields(raw, where, code)
    if "ips" not in raw and ("ip4" in raw or "ip6" in raw):
        return _read_02(fields)
    interfaces = tuple(map(_read_interface, fields.sections("interfaces")))
    ips = tuple(_read_address(ip, interfaces) for ip in fields.sections("ips"))
    return CniResult(interfaces, ips, read_routes(fields), read_dns(fields))


def read_routes(fields: CniFields) -> tuple[ResultRoute, ...]:
    """The `routes` of a result or of an IPAM config. Raises CniError."""
    return tuple(
        ResultRoute(
            route.cidr("dst"),
            route.address("gw"),
            route.number("mtu") or 0,
            route.number("advmss") or 0,
            route.number("priority") or 0,
            route.number("table"),
            route.number("scope"),
        )
        for route in fields.sections("routes")
    )


def read_dns(fields: CniFields) -> Dns:
    """The `dns` of a result or a config. Raises CniError."""
    dns = fields.section("dns")
    if dns is None:
        return Dns()
    return Dns(
        dns.texts("nameservers"), dns.text("domain"), dns.texts("search"), dns.texts("options")
    )


def _read_02(fields: CniFields) -> CniResult:
    ips: list[ResultAddress] = []
    routes: list[ResultRoute] = []
    for family in (4, 6):
        part = fields.section(f"ip{family}")
        if part is None:
            continue
        address = part.cidr("ip")
        if cidr.parse_cidr(address).family != family:
            raise part.error("ip", f"{address} is not IPv{family}")
        ips.append(ResultAddress(address, part.address("gateway")))
        routes += read_routes(part)
    return CniResult((), tuple(ips), tuple(routes), read_dns(fields))


def _read_interface(fields: CniFields) -> ResultInterface:
    return ResultInterface(
        fields.text("name"),
        fields.text("mac").lower(),
        fields.text("sandbox"),
        fields.number("mtu") or 0,
        fields.text("socketPath"),
        fields.text("pciID"),
    )


def _read_address(fields: CniFields, interfaces: Sequence[ResultInterface]) -> ResultAddress:
    index = fields.number("interface")
    if index is not None and not 0 <= index < len(interfaces):
        raise fields.error("interface", f"there is no interface {index}")
    return ResultAddress(fields.cidr("address"), fields.address("gateway"), index)
