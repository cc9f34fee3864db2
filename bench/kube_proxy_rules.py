# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy writes in iptables mode for services with virtual addresses. Pure.

A rule for each service in KUBE-SERVICES, a chain with a rule for each endpoint, and a chain for
each endpoint: the text is what `iptables-restore --noflush` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.model import Endpoint, Service


def rules(services: Iterable[tuple[Service, list[Endpoint]]]) -> str:
    """All services, into a table that is empty."""
    chains, lines = [":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]"], []
    lines += ["-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES"]
    lines.append("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000")
    for service, endpoints in services:
        port, address = service.ports[0], service.address(4)
        lines.append(
            f"-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport {port.port} "
            f"-j KUBE-SVC-{service.name}"
        )
        chains += _chains(service, endpoints)
        lines += _rules(service, endpoints)
    return _text([*chains, *lines])


def change(service: Service, endpoints: list[Endpoint]) -> str:
    """One service whose endpoints have changed, as kube-proxy's partial writes since 1.27."""
    return _text([*_chains(service, endpoints), *_rules(service, endpoints)])


def _text(lines: Iterable[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


def _chains(service: Service, endpoints: list[Endpoint]) -> Iterator[str]:
    yield f":KUBE-SVC-{service.name} - [0:0]"
    for one in endpoints:
        yield f":KUBE-SEP-{service.name}-{one.id} - [0:0]"


def _rules(service: Service, endpoints: list[Endpoint]) -> Iterator[str]:
    for number, one in enumerate(endpoints):
        left = len(endpoints) - number
        chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        chain = f"KUBE-SEP-{service.name}-{one.id}"
        address = one.address(4)
        yield f"-A KUBE-SVC-{service.name} {chance}-j {chain}"
        yield f"-A {chain} -s {address}/32 -j KUBE-MARK-MASQ"
        port = one.port(service.ports[0])
        yield f"-A {chain} -p tcp -m tcp -j DNAT --to-destination {address}:{port}"
