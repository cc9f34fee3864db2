# SPDX-License-Identifier: Apache-2.0
"""The rows of pods, peers, controllers and members of etcd, for tables and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable

from agent.status.model import ControllerState, Endpoint, Peer, Pod
from base.output import Column


def short_time(seconds: object) -> str:
    """`12s`, `5min`, `3h`, `4d`: seconds, as one number; `-` for none."""
    if not isinstance(seconds, int | float):
        return "-"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) // size:.0f}{unit}"
    return f"{seconds // 86400:.0f}d"


def milliseconds(value: object) -> str:
    """`0.15 ms`; `-` for none."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def _bad(value: object) -> str:
    return "red" if value in (False, "no answer", "not ready", "not served", "gone") else ""


PEERS = (
    Column("host", "Its name, as it says itself; null: it does not (a flanneld)."),
    Column("subnet", "The first of its subnets."),
    Column("address", "The first of its PublicIPs."),
    Column("state", "`ready`, `not ready`, `no answer`, `not served` or `here`.", style=_bad),
    Column("up", "Seconds since its daemon started, by its clock; null: unknown.", text=short_time),
    Column(
        "changed",
        "Seconds since its lease changed; null: not since this host's daemon started.",
        text=short_time,
    ),
    Column(
        "round_trip",
        "Milliseconds to its end of the pods' network; null: no answer.",
        title="trip",
        text=milliseconds,
    ),
    Column(
        "underlay_round_trip",
        "Milliseconds to its PublicIP; null: no answer.",
        title="underlay",
        text=milliseconds,
        wide=True,
    ),
    Column("backend", "`Backend.Type` of its lease.", wide=True),
    Column("version", "Of flatmesh there; null: it does not say.", wide=True),
    Column("subnets", "All its subnets.", wide=True),
    Column("addresses", "All its PublicIPs.", wide=True),
    Column("problem", "What it says is wrong with it, or null.", wide=True),
)

PODS = (
    Column("pod", "Namespace and name in Kubernetes; null: the runtime did not say."),
    Column("container", "Container id.", text=lambda value: str(value)[:13]),
    Column("interface", "Name of the interface in the pod."),
    Column("addresses", "The pod's addresses."),
    Column("state", "`ready`, `adding`, `deleting`, or `gone`: its interface is.", style=_bad),
    Column("network", "The network's name in the CNI config.", wide=True),
    Column("host_interface", "Name of the interface's other end, on the host.", wide=True),
    Column("netns", "The pod's network namespace.", wide=True),
)

CONTROLLERS = (
    Column("name", "Which part of the host it keeps right.", title="controller"),
    Column("state", "`ok`, `failing`, or `waiting`: not applied yet.", style=_bad),
    Column("applied", "Seconds since it was last applied well; null: not yet.", text=short_time),
    Column("problem", "What is wrong, or null."),
)

ENDPOINTS = (
    Column("url", "The member, as the daemon was told.", title="etcd"),
    Column("version", "Its version; null: no answer."),
    Column("milliseconds", "How long its answer took; null: no answer.", title="answer"),
    Column("problem", "What is wrong, or null."),
)


def peer_state(peer: Peer) -> str:
    """One word or two on a host of the cluster."""
    if peer.own:
        return "here"
    if not peer.served:
        return "not served"
    if peer.probed and peer.round_trip is None:
        return "no answer"
    return "not ready" if peer.ready is False else "ready"


def peer_rows(peers: Iterable[Peer], now: float | None = None) -> list[dict[str, object]]:
    """Rows for PEERS, sorted by name, then by subnet."""
    moment = time.time() if now is None else now

    def since(then: float | None) -> int | None:
        return None if then is None else max(0, int(moment - then))

    return [
        {
            "host": one.name or None,
            "subnet": one.subnets[0] if one.subnets else None,
            "address": one.addresses[0] if one.addresses else None,
            "state": peer_state(one),
            "up": since(one.started),
            "changed": since(one.changed),
            "round_trip": one.round_trip,
            "underlay_round_trip": one.underlay_round_trip,
            "backend": one.backend or None,
            "version": one.version or None,
            "subnets": one.subnets,
            "addresses": one.addresses,
            "problem": one.problem or None,
        }
        for one in sorted(peers, key=_by_name)
    ]


def _by_name(peer: Peer) -> tuple[bool, list[tuple[bool, int, str]], tuple[str, ...]]:
    """`node2` before `node10`; those without a name last."""
    parts, digits = list[tuple[bool, int, str]](), ""
    for letter in [*peer.name, ""]:
        if letter.isdecimal():
            digits += letter
            continue
        if digits:
            parts.append((False, int(digits), ""))
            digits = ""
        parts.append((True, 0, letter))
    return not peer.name, parts, peer.subnets


def pod_rows(pods: Iterable[Pod]) -> list[dict[str, object]]:
    """Rows for PODS."""
    return [
        {
            "pod": one.name or None,
            "container": one.container,
            "interface": one.interface,
            "addresses": one.addresses,
            "state": one.state if one.there else "gone",
            "network": one.network,
            "host_interface": one.host_interface or None,
            "netns": one.netns or None,
        }
        for one in pods
    ]


def controller_rows(controllers: Iterable[ControllerState]) -> list[dict[str, object]]:
    """Rows for CONTROLLERS."""
    now = time.time()
    return [
        {
            "name": one.name,
            "state": one.state,
            "applied": None if one.applied is None else max(0, int(now - one.applied)),
            "problem": one.problem or None,
        }
        for one in controllers
    ]


def endpoint_rows(endpoints: Iterable[Endpoint]) -> list[dict[str, object]]:
    """Rows for ENDPOINTS."""
    return [
        {
            "url": one.url,
            "version": one.version or None,
            "milliseconds": one.milliseconds,
            "problem": one.problem or None,
        }
        for one in endpoints
    ]
