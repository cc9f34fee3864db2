# SPDX-License-Identifier: Apache-2.0
"""Other programs' routes to the destinations of ours.

A route of another program is never displaced where it was before ours. One that came later, while
this `Kernel` lives, is drift:

    it overwrote a route of ours     that is put back
    the kernel prefers it to ours    it is deleted where it was set by hand (`ip route add`); what a
                                     routing daemon or the kernel itself has set is reported
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hostnet.kinds.kind import KernelView
from hostnet.kinds.nexthop import NexthopKey
from hostnet.kinds.route_messages import (
    Place,
    Route,
    dump_routes,
    parse_place,
    parse_route,
    route_line,
)
from hostnet.netlink.buffers import parts_of
from hostnet.state import HostState, Occupant

FAMILIES = (socket.AF_INET, socket.AF_INET6)
RTPROT_BOOT, RTPROT_STATIC = 3, 4  # linux/rtnetlink.h; boot: what ip(8) and flanneld set
RTPROT_BY_HAND = (RTPROT_BOOT, RTPROT_STATIC)

RouteKey = tuple[str, int, int]
"""Destination, metric, table."""


class UnmarkedRoute(NamedTuple):
    """In an actual state only: a route without our mark that we replace or delete.

    It leads through an overlay device of ours, or stands where a route of ours stood.
    """

    route: Route


class PreferredRoute(NamedTuple):
    """In an actual state only: a route to a destination of ours that the kernel prefers."""

    route: Route
    protocol: int
    may_be_deleted: bool
    text: str
    """What it is, as one line with the mend."""


@dataclass(slots=True)
class ForeignRoutes:
    """Which keys are ours, and what others have put there."""

    _held: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    """Metrics and tables by destination: where we have read or written a route of ours."""
    _looked: set[str] = field(default_factory=set)
    """Destinations that we have looked at; less those at which others have set a route since."""
    _earlier: set[tuple[RouteKey, int]] = field(default_factory=set)
    """Preferred routes that were there at the first look: key and protocol."""
    _seen: set[str] = field(default_factory=set)
    """Destinations that we have looked at once."""

    def hold(self, keys: Iterable[RouteKey]) -> None:
        """Routes of ours are at these keys."""
        held = self._held
        for destination, metric, table in keys:
            there = held.get(destination)
            if there is None:
                held[destination] = {(metric, table)}
            else:
                there.add((metric, table))

    def release(self, keys: Iterable[RouteKey]) -> None:
        """We have deleted our routes at these keys."""
        for destination, metric, table in keys:
            there = self._held.get(destination, set())
            there.discard((metric, table))
            if not there:
                self._held.pop(destination, None)

    def was_told(self, place: Place) -> bool:
        """Take in that another program has changed a route; whether it concerns one of ours."""
        table = place.key[2]
        if all(mine != table for _, mine in self._held.get(place.key[0], ())):
            return False
        self._looked.discard(place.key[0])
        return True

    def find(
        self,
        view: KernelView,
        wanted: HostState,
        ours: set[RouteKey],
        nexthops: Mapping[int, NexthopKey],
    ) -> list[Any]:
        """What others have at wanted keys, and in front of them; `ours` are those found already.

        The whole route table is read only where a wanted key has no route of ours, for new
        destinations, and when another program was seen to set a route.
        """
        right = wanted.of(Route)
        missing = {route.key for route in right} - ours
        suspects = {route.key for route in right if route.destination not in self._looked}
        if not missing and not suspects:
            return []
        by_hand = {(key[0], key[2]): key for key in suspects}
        passed: set[RouteKey] = set()
        """Suspects whose own route came already: what follows with the same key is not used."""
        found: list[Any] = []
        for part, place in _places(view, missing | suspects):
            first = by_hand.get((place.key[0], place.key[2]))
            if place.key in missing:
                route = parse_route(part, view.names, nexthops)[0] or place.route()
                found.append(self._occupying(route, place, route in right))
            elif place.protocol == view.mark.protocol:
                passed.add(place.key)
            elif first is not None and place.is_preferred_to(first, first in passed):
                route = parse_route(part, view.names, nexthops)[0] or place.route()
                found.append(self._preferred(route, place))
        self._looked = {route.destination for route in right}
        self._looked -= {one.route.destination for one in found if isinstance(one, PreferredRoute)}
        self._seen = {route.destination for route in right}
        return found

    def _occupying(self, route: Route, place: Place, is_right: bool) -> UnmarkedRoute | Occupant:
        """What stands at a wanted key: ours to overwrite, or another program's.

        Ours is what overwrote a route of ours, and a route equal to the wanted one without any
        protocol: a flanneld's, that we follow.
        """
        left_by_flanneld = place.protocol == RTPROT_BOOT and is_right
        held = place.key[1:] in self._held.get(place.key[0], ())
        if held or left_by_flanneld:
            return UnmarkedRoute(route)
        return Occupant(Route, route.key, in_the_way(route, place))

    def _preferred(self, route: Route, place: Place) -> PreferredRoute:
        identity = (place.key, place.protocol)
        if place.key[0] not in self._seen:
            self._earlier.add(identity)
        by_hand = place.protocol in RTPROT_BY_HAND and not place.tos
        deletable = by_hand and identity not in self._earlier
        return PreferredRoute(route, place.protocol, deletable, in_the_way(route, place))


def _places(view: KernelView, keys: set[RouteKey]) -> Iterator[tuple[Any, Place]]:
    """The routes of others, and ours, to the keys' destinations, in the kernel's order."""
    destinations = {(key[0], key[2]) for key in keys}
    for family in FAMILIES:
        if not any((":" in where) == (family == socket.AF_INET6) for where, _ in destinations):
            continue
        buffers = view.socket.dump_what_there_is(dump_routes(family), "ip route show table all")
        for part in (part for data in buffers for part in parts_of(data)):
            place = parse_place(part)
            if (place.key[0], place.key[2]) in destinations:
                yield part, place


def in_the_way(route: Route, place: Place) -> str:
    """One line on a route of another program that takes the packets of ours."""
    words = route_line(route, delete=True, marked=False).split(" ")
    words = [word for word in words if word not in ("ip", "-6", "route", "del")]
    return (
        f"route {place.kind_word}{' '.join(words)} (proto {place.protocol}) is not ours: "
        "remove it, or take its network out of the cluster's"
    )
