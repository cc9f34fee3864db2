# SPDX-License-Identifier: Apache-2.0
"""Unicast routes as a kind of object, with the nexthop objects that they share.

A key (destination, metric, table) is free, or ours, or another program's: then it is never
displaced. New routes are written with NLM_F_EXCL, so that this holds too where another program
made one after we read the table. What others do to our routes is in `hostnet.kinds.foreign.routes`.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hostnet.kinds.batch import apply_batch
from hostnet.kinds.foreign.routes import (
    FAMILIES,
    RTPROT_BY_HAND,
    ForeignRoutes,
    PreferredRoute,
    UnmarkedRoute,
)
from hostnet.kinds.kind import (
    DiffContext,
    Failure,
    KernelView,
    PlanPart,
    Step,
    compare,
    ordered,
    step,
    without_occupied,
)
from hostnet.kinds.nexthop import (
    Nexthop,
    NexthopKey,
    NexthopReader,
    NexthopTable,
    delete_nexthops,
    put_nexthops,
)
from hostnet.kinds.route_messages import (
    Route,
    delete_one_by_one,
    delete_routes,
    dump_routes,
    parse_route,
    put_routes,
    route_line,
    route_protocol,
)
from hostnet.kinds.route_watcher import RouteWatcher
from hostnet.netlink.buffers import Part as Message
from hostnet.netlink.buffers import parts_of
from hostnet.netlink.socket import NetlinkError, RequestBatch
from hostnet.netlink.table_reader import TableReader
from hostnet.ownership import PROTOCOL, Mark
from hostnet.state import HostState

FLUSHED_BY_KERNEL = 256
"""Routes that may vanish with their device; more are deleted one by one before it."""


class RouteKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "route"
    types = (Route, UnmarkedRoute, PreferredRoute, NexthopTable)
    deletes_last = False

    def __init__(self) -> None:
        self.nexthops = NexthopReader()
        self._readers: dict[tuple[int, int], TableReader[Route]] = {}
        self.foreign = ForeignRoutes()

    # -- reading -------------------------------------------------------------------------

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Any]:
        """Those with our protocol number, those by hand through our overlay devices, occupants.

        The kernel filters the dumps: an operator's own routes are read only where a wanted key
        has none of ours.
        """
        self.nexthops.read(view.socket, view.names, view.mark.protocol)
        marked: list[Route] = []
        unmarked: list[Route] = []
        for family in FAMILIES:
            request = dump_routes(family, protocol=view.mark.protocol)
            buffers = view.socket.dump_what_there_is(request, "ip route show")
            marked += self._reader(view, family, 0).read(buffers, view.names)
            for name, other in itertools.product(sorted(view.overlay), RTPROT_BY_HAND):
                oif = view.index[name]
                request = dump_routes(family, oif=oif, protocol=other)
                what = f"ip route show dev {name} proto {other}"
                buffers = view.socket.dump_what_there_is(request, what)
                unmarked += self._reader(view, family, oif).read(buffers, view.names)
        found: list[Any] = [*marked, *map(UnmarkedRoute, unmarked)]
        keys = {route.key for route in (*marked, *unmarked)}
        found += self.foreign.find(view, wanted, keys, self.nexthops.hops)
        self.foreign.hold(keys)
        return found + ([self.nexthops.table] if self.nexthops.supported else [])

    def read_all(self, view: KernelView, family: int) -> list[Route]:
        """All unicast routes of a family, in all tables. Raises NetlinkError."""
        self.nexthops.read(view.socket, view.names, view.mark.protocol)
        buffers = view.socket.dump_what_there_is(dump_routes(family), "ip route show table all")
        parts = (part for data in buffers for part in parts_of(data))
        found = (parse_route(part, view.names, self.nexthops.hops)[0] for part in parts)
        return [route for route in found if route is not None]

    def _reader(self, view: KernelView, family: int, oif: int) -> TableReader[Route]:
        """Our routes of a family, or those of others through one device."""
        reader = self._readers.get((family, oif))
        if reader is None:
            mine, known = view.mark.protocol, self.nexthops

            def ours(part: Message, names: Mapping[int, str]) -> tuple[Route | None, int]:
                if route_protocol(part) != mine:
                    return None, 0
                return parse_route(part, names, known.hops)

            def others(part: Message, names: Mapping[int, str]) -> tuple[Route | None, int]:
                if route_protocol(part) not in RTPROT_BY_HAND:
                    return None, 0
                route, device = parse_route(part, names, known.hops)
                return (route if device == oif else None), device

            reader = TableReader(others if oif else ours)
            self._readers[family, oif] = reader
        return reader

    # -- comparing -----------------------------------------------------------------------

    def diff(self, context: DiffContext) -> PlanPart:
        """Wrong routes are replaced, stale ones deleted, nexthop objects made and swept."""
        nexthops = next(iter(context.actual.of(NexthopTable)), None)
        part = PlanPart()
        actual = context.actual.of(Route)
        unmarked = {one.route for one in context.actual.of(UnmarkedRoute)}
        if context.gone:
            if nexthops is not None:
                part.first = self._flush(actual, nexthops, context.gone)
            actual = frozenset(one for one in actual if one.link not in context.gone)
            unmarked = {one for one in unmarked if one.link not in context.gone}
        changes = _changes(context.desired.of(Route), actual, unmarked)
        put, part.conflicts = without_occupied(changes.put, context, Route)
        known = {route.key for route in (*actual, *unmarked)}
        new = [route for route in put if route.key not in known]
        ids, hops = _needed_nexthops(put, nexthops, context.gone)
        preferred = sorted(context.actual.of(PreferredRoute), key=lambda one: one.text)
        part.conflicts += [one.text for one in preferred if not one.may_be_deleted]
        part.put = [
            *step(self, "delete preferred", [one for one in preferred if one.may_be_deleted]),
            *step(self, "put nexthop", hops),
            *step(self, "delete", changes.doubles),
            *step(self, "put", ordered((r for r in put if r.key in known), _order), ids),
            *step(self, "add", ordered(new, _order), ids),
        ]
        part.delete = [
            *step(self, "delete", ordered(changes.stale, _order)),
            *step(self, "delete unmarked", ordered(changes.unmarked, _order)),
        ]
        if context.whole and nexthops is not None:
            stale = _stale_nexthops(context.desired, nexthops, context.gone)
            # routes may be by either of two equal ones, and go with it
            part.delete += step(
                self, "delete nexthop", ordered(stale), disturbs=bool(nexthops.doubles)
            )
        return part

    def _flush(self, actual: Iterable[Route], nexthops: NexthopTable, gone: set[str]) -> list[Step]:
        """Delete the routes of devices that go, where leaving it to the kernel takes too long.

        It walks the whole route table for every nexthop object of a device that goes.
        """
        routes = [route for route in actual if route.link in gone]
        if len(routes) <= FLUSHED_BY_KERNEL:
            return []
        keys = [key for key in nexthops.ids if key[0] in gone]
        hops = [Nexthop(nexthops.ids[key], key[0], key[1] or "", key[2]) for key in keys]
        return step(self, "delete", routes) + step(self, "delete nexthop", hops)

    # -- writing -------------------------------------------------------------------------

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """Write them."""
        protocol = view.mark.protocol

        def encode(objects: Sequence[Any]) -> RequestBatch:
            if step.verb == "put nexthop":
                return put_nexthops(objects, view.index, protocol)
            if step.verb == "delete nexthop":
                return delete_nexthops(hop.id for hop in objects)
            if step.verb == "delete preferred":
                return delete_one_by_one((one.route, one.protocol) for one in objects)
            if step.verb == "delete unmarked":
                return delete_routes(objects, 0, view.index)
            if step.verb == "delete":
                return delete_routes(objects, protocol)
            return put_routes(objects, view.index, protocol, step.data, replace=step.verb == "put")

        failures, failed = apply_batch(step, view, encode, on_device=False, explain=_explain)
        if step.verb in ("add", "put"):
            self.foreign.hold(r.key for n, r in enumerate(step.objects) if n not in failed)
        elif step.verb == "delete":
            self.foreign.release(route.key for route in step.objects)
        self._remember(step, failed)
        return failures

    def _remember(self, step: Step, failed: set[int]) -> None:
        table = self.nexthops.table
        for place, hop in enumerate(step.objects if step.verb.endswith("nexthop") else ()):
            if place in failed:
                continue
            if step.verb == "put nexthop":
                table.ids[hop[1:4]] = hop.id
                table.used.add(hop.id)
                table.top = max(table.top, hop.id)
            else:
                table.used.discard(hop.id)
                if table.ids.get(hop[1:4]) == hop.id:
                    del table.ids[hop[1:4]]

    def watcher(self, mark: Mark) -> RouteWatcher:
        """Tells that one was changed."""
        del mark
        return RouteWatcher(self.foreign, self.nexthops.is_ours)

    def line(self, verb: str, one: Any) -> str:
        """`ip route replace DESTINATION via VIA dev LINK ...`, `ip nexthop ...`."""
        if verb == "put nexthop":
            onlink = " onlink" if one.onlink else ""
            return (
                f"ip nexthop add id {one.id} via {one.via} dev {one.link}{onlink} proto {PROTOCOL}"
            )
        if verb == "delete nexthop":
            return f"ip nexthop del id {one.id}"
        if verb == "delete preferred":
            return route_line(one.route, delete=True, marked=False)
        return route_line(one, delete=verb.startswith("delete"), marked=verb != "delete unmarked")


class _RouteChanges(NamedTuple):
    put: set[Route]
    doubles: list[Route]
    """To delete before: of two routes for one key the wrong one."""
    stale: list[Route]
    unmarked: list[Route]
    """Stale, without our mark."""


def _changes(
    desired: frozenset[Route], actual: frozenset[Route], unmarked: set[Route]
) -> _RouteChanges:
    missing, wrong = compare(desired, actual)
    put = set(missing)
    if not wrong and not unmarked:
        return _RouteChanges(put, [], [], [])
    wanted = {(r.destination, r.metric, r.table): r for r in desired}
    replaced = {route.key for route in put}
    doubles: list[Route] = []
    stale: list[Route] = []
    for route in sorted(wrong, key=_order):
        if route.key not in wanted:
            stale.append(route)
        elif route.key in replaced:
            replaced.discard(route.key)
        else:
            # The kernel deletes whichever of the two comes first: put the right one again.
            doubles.append(route)
            put.add(wanted[route.key])
    return _RouteChanges(put, doubles, stale, [r for r in unmarked if r.key not in wanted])


def _needed_nexthops(
    routes: Iterable[Route], nexthops: NexthopTable | None, gone: set[str]
) -> tuple[dict[NexthopKey, int], list[Nexthop]]:
    """Ids of the nexthop objects that the routes need, and those that have to be made."""
    if nexthops is None:
        return {}, []
    number, used = nexthops.top, nexthops.used
    ids: dict[NexthopKey, int] = {}
    new: list[Nexthop] = []
    for key in ordered({route[1:4] for route in routes if route[2] is not None}):
        found = nexthops.ids.get(key)
        if found is None or key[0] in gone:
            number += 1
            while number in used:
                number += 1
            found = number
            new.append(Nexthop(number, *key))
        ids[key] = found
    return ids, new


def _stale_nexthops(desired: HostState, nexthops: NexthopTable, gone: set[str]) -> list[Nexthop]:
    """Our nexthop objects that nobody needs now; those of vanished devices are gone already."""
    ids = nexthops.ids
    stale = ids.keys() - {route[1:4] for route in desired.of(Route)}
    hops = [Nexthop(ids[key], key[0], key[1] or "", key[2]) for key in stale]
    return [hop for hop in [*hops, *nexthops.doubles] if hop.link not in gone]


def _order(route: Route) -> tuple[Any, ...]:
    return (route.destination, route.metric, route.table, route.link, route.via or "")


def _explain(one: Any, error: NetlinkError) -> str:
    if error.errno == errno.EEXIST and isinstance(one, Route):
        return "another program has a route at this destination and metric: remove it"
    return error.reason
