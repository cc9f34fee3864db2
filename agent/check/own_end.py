# SPDX-License-Identifier: Apache-2.0
"""This host's end of a check: its pod, the responder in it, and the probes that it sends.

All calls block; one thread at a time makes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agent.check.echo import PORT as ECHO_PORT
from agent.check.echo import Echo, Prober, Responder, udp_socket
from agent.check.keys import Arrived, End, Results, Sent, gateways
from agent.check.pod import CheckPod
from agent.status.round_trip import round_trips
from cni.host import PluginHost
from hostnet.kernel import Kernel
from hostnet.netns import run_in
from ipam.lease import format_key
from ipam.subnet_env import SubnetEnv

GATEWAY_TIMEOUT = 1.0
"""Seconds for the hosts' gateways to answer an echo request, which is sent twice."""


def own_key(subnet_file: Path) -> str:
    """The key of this host's lease. Raises OSError, SubnetEnvError: there is none."""
    env = SubnetEnv.read(subnet_file)
    v4 = env.subnet.network if env.subnet else None
    v6 = env.ipv6_subnet.network if env.ipv6_subnet else None
    return format_key(v4, v6)


class OwnEnd:
    """One check on this host."""

    def __init__(
        self, host: PluginHost, name: str, check: str, token: bytes, *, by_daemon: bool
    ) -> None:
        """`by_daemon`: whether the daemon is there to answer CNI calls."""
        self._host = host
        self._name = name
        self._token = token
        self._pod = CheckPod(host, f"check-{check}", by_daemon)
        self._stack = contextlib.ExitStack()
        self._responder: Responder | None = None

    def open(self) -> End:
        """Make the pod, and answer in it. Raises FlatmeshError, OSError."""
        key, mtu = own_key(self._host.subnet_file), SubnetEnv.read(self._host.subnet_file).mtu
        self._pod.make()
        self._stack.callback(self._pod.remove)
        families = {6 if ":" in one else 4 for one in self._pod.addresses}
        sockets = {
            family: run_in(self._pod.netns, partial(udp_socket, family, ECHO_PORT))
            for family in families
        }
        self._responder = Responder(sockets, self._token)
        self._stack.callback(self._responder.close)
        with Kernel() as kernel:
            own = tuple(one.address.address.partition("/")[0] for one in kernel.addresses())
        return End(key, self._name, self._pod.addresses, own, mtu)

    def probe(self, ends: Sequence[End], number: int) -> Results:
        """Send to all other ends; this one is `ends[number]`. Raises OSError."""
        sent: list[Sent] = []
        for family in (4, 6):
            targets = {
                address: other
                for other, end in enumerate(ends)
                for address in end.addresses
                if other != number and (":" in address) == (family == 6)
            }
            if not any((":" in one) == (family == 6) for one in self._pod.addresses):
                continue
            for origin in ("pod", "host"):
                found = self._probe(list(targets), family, number, origin, ends[number].mtu)
                for address, echo in found.items():
                    sent.append(
                        Sent(
                            targets[address],
                            origin,
                            "pod",
                            family,
                            echo.milliseconds,
                            echo.seen,
                            echo.large,
                        )
                    )
            sent += self._to_hosts(ends, family)
        return Results(tuple(sent))

    def _probe(
        self, addresses: list[str], family: int, number: int, origin: str, mtu: int
    ) -> dict[str, Echo]:
        netns = self._pod.netns if origin == "pod" else None
        sock = run_in(netns, lambda: udp_socket(family))
        with sock:
            prober = Prober(sock, family, self._token, number, origin)
            return prober.probe(addresses, mtu if origin == "pod" else None)

    def _to_hosts(self, ends: Sequence[End], family: int) -> list[Sent]:
        """From the pod to each host, this one among them, at its gateway's address."""
        targets = {
            gateway: number
            for number, end in enumerate(ends)
            if end.addresses and (gateway := gateways(end).get(family)) is not None
        }
        found: dict[str, float] = {}
        for _ in range(2):
            silent = [one for one in targets if one not in found]
            if silent:
                found |= run_in(self._pod.netns, partial(round_trips, silent, GATEWAY_TIMEOUT))
        return [
            Sent(number, "pod", "host", family, _milliseconds(found.get(gateway)))
            for gateway, number in targets.items()
        ]

    def arrivals(self) -> Results:
        """What has arrived at this end's pod so far."""
        arrivals = self._responder.arrivals.copy() if self._responder is not None else {}
        return Results(
            arrived=tuple(
                Arrived(one.sender, one.origin, one.family, one.large, seen)
                for one, seen in arrivals.items()
            )
        )

    def close(self) -> None:
        """Remove the pod. Raises FlatmeshError, OSError."""
        self._stack.close()


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
