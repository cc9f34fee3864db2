# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a host, and the mend: a line each, from what its report says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.status.model import Endpoint, HostReport, Peer, Pod

MAX_PEERS = 10
"""Peers that are named; more are counted."""


def advice(report: HostReport, known: Iterable[str] = ()) -> tuple[str, ...]:
    """All problems, without doubles; those `known` to the daemon come first."""
    controllers = [
        one.problem or f"{one.name}: not applied yet"
        for one in report.controllers
        if one.state != "ok"
    ]
    lines = [
        *known,
        *(controllers if report.subnets or not known else ()),
        *_etcd(report.endpoints),
        *_peers(report.peers),
        *_pods(report.pods),
    ]
    return tuple(dict.fromkeys(line for line in lines if line))


def _etcd(endpoints: tuple[Endpoint, ...]) -> Iterator[str]:
    silent = [one for one in endpoints if one.problem]
    for one in silent:
        yield f"etcd {one.url}: {one.problem}"
    if silent and len(silent) == len(endpoints):
        yield (
            "no member of etcd answers: packets flow and pods come and go all the same, until this "
            "host's lease ends; start etcd, or let this host reach it"
        )


def _peers(peers: Iterable[Peer]) -> Iterator[str]:
    asked = [one for one in peers if one.probed and not one.own]
    silent = [one for one in asked if one.round_trip is None and one.served]
    for one in silent[:MAX_PEERS]:
        address = one.addresses[0] if one.addresses else "?"
        subnet = ", ".join(one.subnets)
        if one.underlay_round_trip is None:
            yield (
                f"peer {one.label}: no answer, neither at {address} nor in {subnet}: is it down, "
                f"or is the way to it? Try: ping {address}"
            )
        else:
            yield (
                f"peer {one.label}: {address} answers, {subnet} does not: the pods' packets are "
                "lost on the way; see flatmesh status there, and docs/troubleshooting.md"
            )
    if len(silent) > MAX_PEERS:
        yield f"{len(silent) - MAX_PEERS} more peers do not answer: flatmesh peers lists them"


def _pods(pods: Iterable[Pod]) -> Iterator[str]:
    for pod in pods:
        if not pod.there:
            yield (
                f"pod {pod.name or pod.container[:13]}: its interface {pod.host_interface} is "
                "gone: make the pod anew"
            )
