"""From two states to the changes between them: pure, and printable.

Theory of operation
-------------------
`diff(desired, actual)` compares by set arithmetic and says what to do, in an order that
never breaks what already works: first everything new, each thing after what it refers to
(links, addresses, neighbours, FDB, nexthops, routes), put in place of the old where the key
is the same; then the stale, in reverse. So a peer that moves from a tunnel to a direct
route is never without one. The exceptions:

* a device that can't be changed (a VXLAN with another VNI, port or local address) is
  deleted and made anew; what vanishes with it is put again by the same plan;
* of two routes for one key the wrong one goes first, as the kernel can't tell which of
  them a replace means.

Only what `actual` holds is ever deleted, and `hostnet.kernel.Kernel.dump` reads only what
is ours; what stands in the way and isn't ours is a `conflict`: reported, not touched.

A plan is a list of steps, each one verb on many objects of one kind, so that 5,000 peers
are a dozen steps. `plan.lines()` prints it as commands of ip(8), bridge(8), sysctl(8), nft(8).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from hostnet import plan_lines
from hostnet.kinds.route import NexthopKey, NexthopTable
from hostnet.ownership import MARK, OVERLAY_KINDS, Mark
from hostnet.plan_lines import LinkChange
from hostnet.state import (
    Bridge,
    FdbEntry,
    HostState,
    Link,
    Neighbour,
    Nexthop,
    NftTable,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)

FLUSHED_BY_KERNEL = 256
"""Routes that may vanish with their device; more are deleted one by one before it."""

Bulky = TypeVar("Bulky", Route, FdbEntry, Neighbour)
Pair = TypeVar("Pair", FdbEntry, Neighbour)
Kind = Literal["link", "address", "neighbour", "fdb", "nexthop", "route", "sysctl", "table"]
Verb = Literal["add", "set", "put", "delete", "delete unmarked"]


@dataclass(frozen=True, slots=True)
class Step:
    """One verb on many objects of one kind."""

    kind: Kind
    verb: Verb
    objects: Sequence[Any]

    def lines(self) -> Iterator[str]:
        """Yield a command each."""
        return (plan_lines.line(self.kind, self.verb, o) for o in self.objects)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in order, and what stands in the way."""

    steps: list[Step] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """One line each: what is in the way, and the mend."""
    nexthop_ids: dict[NexthopKey, int] = field(default_factory=dict)
    """Ids of nexthop objects for the routes in this plan; empty: plain routes."""

    def __bool__(self) -> bool:
        return bool(self.steps or self.conflicts)

    def __len__(self) -> int:
        """The number of changes."""
        return sum(len(step.objects) for step in self.steps)

    def lines(self) -> list[str]:
        """The changes as commands, in order."""
        return [line for step in self.steps for line in step.lines()]

    @property
    def disturbing(self) -> bool:
        """Whether a change can take other objects with it: worth a second look after.

        What is done to a device that the plan itself makes can't: there was nothing on it.
        """
        made: set[str] = set()
        for step in self.steps:
            if step.kind == "link" and step.verb == "add":
                made.update(link.name for link in step.objects)
            elif step.kind == "link":
                if not made.issuperset(one.name for one in step.objects):
                    return True
            elif step.kind == "address" and step.verb == "delete":
                return True
        return False


def diff(
    desired: HostState,
    actual: HostState,
    *,
    nexthops: NexthopTable | None = None,
    mark: Mark = MARK,
    sweep_nexthops: bool = True,
) -> Plan:
    """The changes that make `actual` into `desired`.

    `nexthops` are the nexthop objects there; None: this kernel has none, plan plain routes.
    Those that no desired route needs are deleted, unless `sweep_nexthops` is off.
    """
    plan = Plan()
    links = _diff_links(desired, actual, mark, plan)
    steps = plan.steps
    if links.gone:
        if nexthops is not None:
            _flush(steps, actual, nexthops, links.gone)
        actual = _without(actual, links.gone)
    now, later = _sysctls(desired, actual)
    _step(steps, "sysctl", "put", now)
    _step(steps, "link", "delete", links.remade)
    _step(steps, "link", "add", links.added)
    _step(steps, "link", "set", links.changed)
    _step(steps, "sysctl", "put", later)
    stale_addresses = actual.addresses - desired.addresses
    _step(steps, "address", "put", sorted(desired.addresses - actual.addresses))
    _step(steps, "address", "delete", sorted(stale_addresses))
    _step(steps, "table", "put", _sorted_tables(desired.tables - actual.tables))

    neighbours, wrong_neighbours = _compare(desired.neighbours, actual.neighbours)
    _step(steps, "neighbour", "put", _ordered(neighbours))
    fdb, wrong_fdb = _compare(desired.fdb, actual.fdb)
    _step(steps, "fdb", "put", _ordered(fdb))
    routes, double_routes, stale_routes, stale_unmarked = _diff_routes(desired, actual)
    _put_nexthops(routes, nexthops, links.gone, plan)
    _step(steps, "route", "delete", double_routes)
    _step(steps, "route", "put", _ordered(routes))

    _step(steps, "route", "delete", _ordered(stale_routes))
    _step(steps, "route", "delete unmarked", _ordered(stale_unmarked))
    if sweep_nexthops and nexthops is not None:
        stale_nexthops = _stale_nexthops(desired, nexthops, links.gone)
        _step(steps, "nexthop", "delete", _ordered(stale_nexthops))
    _step(steps, "fdb", "delete", _ordered(_not_replaced(wrong_fdb, fdb)))
    stale_neighbours = _not_replaced(wrong_neighbours, neighbours)
    _step(steps, "neighbour", "delete", _ordered(stale_neighbours))
    _step(steps, "link", "delete", links.stale)
    wanted_tables = {t.key for t in desired.tables}
    gone_tables = (t for t in actual.tables if t.key not in wanted_tables)
    _step(steps, "table", "delete", _sorted_tables(gone_tables))
    return plan


@dataclass(slots=True)
class _Links:
    """What happens to devices."""

    added: list[Link] = field(default_factory=list)
    changed: list[LinkChange] = field(default_factory=list)
    remade: list[Link] = field(default_factory=list)
    stale: list[Link] = field(default_factory=list)

    @property
    def gone(self) -> set[str]:
        """Names of the devices whose addresses, routes and entries vanish with them."""
        return {link.name for link in self.remade} | {link.name for link in self.stale}


def _diff_links(desired: HostState, actual: HostState, mark: Mark, plan: Plan) -> _Links:
    result = _Links()
    found = {link.name: link for link in actual.links}
    made_as_peer: set[str] = set()
    # bridges first: other devices name them as their master
    for want in sorted(desired.links, key=lambda w: (w.kind != "bridge", w.name)):
        have = found.get(want.name)
        if have is not None and not _changeable(want, have):
            if have.kind not in OVERLAY_KINDS and not _marked(have, mark):
                plan.conflicts.append(
                    f"device {have.name} exists, is of type {have.kind or 'hardware'} and not "
                    f"ours, a {want.kind} of this name is wanted: rename or remove it"
                )
                continue
            result.remade.append(have)
            have = None
        if have is None and want.name not in made_as_peer:
            if not want.kind:
                plan.conflicts.append(f"device {want.name} is not there, and we can't make it")
                continue
            result.added.append(want)
            if isinstance(want.details, Veth):
                made_as_peer.add(want.details.peer)
        fields = _link_fields(want, have, mark)
        if fields:
            result.changed.append(LinkChange(want.name, fields))
    wanted = {link.name for link in desired.links}
    stale = [link for link in actual.links if link.name not in wanted and _marked(link, mark)]
    result.stale = sorted(stale, key=lambda link: link.name)
    return result


def _marked(link: Link, mark: Mark) -> bool:
    """None stands for the usual mark: a link that was itself a desired one (delta)."""
    return link.alias is None or link.alias == mark.alias


def _changeable(want: Link, have: Link) -> bool:
    """Whether the device found can become the wanted one without being made anew."""
    if want.kind and want.kind != have.kind:
        return False
    if isinstance(want.details, Vxlan) and isinstance(have.details, Vxlan):
        underlay = want.details.underlay_link or have.details.underlay_link
        return replace(want.details, underlay_link=underlay) == have.details
    if isinstance(want.details, Veth):
        return want.details == have.details
    return True


def _link_fields(want: Link, have: Link | None, mark: Mark) -> dict[str, Any]:
    """What to set on a device, by name of the field; `up` comes last."""
    fields: dict[str, Any] = {}
    alias = want.alias or mark.alias
    if have is None:
        fields["alias"] = alias
    elif have.alias not in (alias, None) and (want.alias or have.kind in OVERLAY_KINDS):
        # A foreign bridge that we use stays foreign; a VTEP of that name was flanneld's.
        fields["alias"] = alias
    for name in ("mac", "mtu", "addrgenmode", "master"):
        value = getattr(want, name)
        if value is None or (have is not None and getattr(have, name) == value):
            continue
        if have is None and name in ("mac", "mtu") and not isinstance(want.details, Veth):
            continue  # made with it
        knows_ipv6 = have is None or have.addrgenmode is not None or "mtu" in fields
        if name == "addrgenmode" and not knows_ipv6:
            continue  # the kernel has no IPv6
        fields[name] = value
    if have is not None and isinstance(want.details, Bridge) and want.details != have.details:
        fields["details"] = want.details
    if want.up != (have.up if have is not None else False):
        fields["up"] = want.up
    return fields


def _flush(steps: list[Step], actual: HostState, nexthops: NexthopTable, gone: set[str]) -> None:
    """Delete the routes of devices that go, where leaving it to the kernel takes too long.

    It walks the whole route table for every nexthop object of a device that goes.
    """
    routes = [r for r in actual.routes if r.link in gone]
    if len(routes) > FLUSHED_BY_KERNEL:
        _step(steps, "route", "delete", routes)
        keys = [key for key in nexthops.ids if key[0] in gone]
        hops = [Nexthop(nexthops.ids[key], key[0], key[1] or "", key[2]) for key in keys]
        _step(steps, "nexthop", "delete", hops)


def _without(actual: HostState, gone: set[str]) -> HostState:
    """What is left when devices have gone."""

    def rest(objects: Iterable[Any]) -> frozenset[Any]:
        return frozenset(o for o in objects if o.link not in gone)

    return replace(
        actual,
        addresses=rest(actual.addresses),
        routes=rest(actual.routes),
        neighbours=rest(actual.neighbours),
        fdb=rest(actual.fdb),
        unmarked=rest(actual.unmarked),
    )


def _compare(
    desired: AbstractSet[Bulky], actual: AbstractSet[Bulky]
) -> tuple[AbstractSet[Bulky], AbstractSet[Bulky]]:
    """What is missing, and what is wrong; half the work where there is nothing of the first."""
    wrong = actual - desired
    if len(desired) == len(actual) - len(wrong):
        return frozenset(), wrong
    return desired - actual, wrong


def _not_replaced(wrong: AbstractSet[Pair], put: AbstractSet[Pair]) -> list[Pair]:
    """What must be deleted, as nothing is put in its place: their key is their first two fields."""
    if not wrong:
        return []
    replaced = {new[:2] for new in put}
    return [old for old in wrong if old[:2] not in replaced]


def _diff_routes(
    desired: HostState, actual: HostState
) -> tuple[set[Route], list[Route], list[Route], list[Route]]:
    """To put, to delete before (doubles of a key), to delete after, unmarked ones to delete."""
    missing, wrong = _compare(desired.routes, actual.routes)
    put = set(missing)
    if not wrong and not actual.unmarked:
        return put, [], [], []
    wanted = {(r.destination, r.metric, r.table): r for r in desired.routes}
    replaced = {r.key for r in put}
    first: list[Route] = []
    stale: list[Route] = []
    for route in sorted(wrong, key=_route_order):
        if route.key not in wanted:
            stale.append(route)
        elif route.key in replaced:
            replaced.discard(route.key)
        else:
            # The kernel deletes whichever of the two comes first: put the right one again.
            first.append(route)
            put.add(wanted[route.key])
    unmarked = [r for r in actual.unmarked if r.key not in wanted]
    return put, first, stale, unmarked


def _put_nexthops(
    routes: AbstractSet[Route], nexthops: NexthopTable | None, gone: set[str], plan: Plan
) -> None:
    """Plan the nexthop objects that `routes` need."""
    if nexthops is None:
        return
    number, used = nexthops.top, nexthops.used
    new: list[Nexthop] = []
    ids = plan.nexthop_ids
    for key in _ordered({r[1:4] for r in routes if r[2] is not None}):
        found = nexthops.ids.get(key)
        if found is None or key[0] in gone:
            number += 1
            while number in used:
                number += 1
            found = number
            new.append(Nexthop(number, *key))
        ids[key] = found
    _step(plan.steps, "nexthop", "put", new)


def _stale_nexthops(desired: HostState, nexthops: NexthopTable, gone: set[str]) -> list[Nexthop]:
    """Our nexthop objects that nobody needs now; those of vanished devices are gone already."""
    ids = nexthops.ids
    stale = ids.keys() - {r[1:4] for r in desired.routes}
    hops = [Nexthop(ids[key], key[0], key[1] or "", key[2]) for key in stale]
    return [hop for hop in [*hops, *nexthops.doubles] if hop.link not in gone]


def _sysctls(desired: HostState, actual: HostState) -> tuple[list[Sysctl], list[Sysctl]]:
    """What to set before, and after the devices are there."""
    changed = sorted(desired.sysctls - actual.sysctls)
    devices = {link.name for link in desired.links}
    later = [s for s in changed if not devices.isdisjoint(s.path.split("/"))]
    return [s for s in changed if s not in later], later


def _step(steps: list[Step], kind: Kind, verb: Verb, objects: Collection[Any]) -> None:
    if objects:
        steps.append(Step(kind, verb, objects if isinstance(objects, list) else list(objects)))


def _ordered(objects: Iterable[Any]) -> list[Any]:
    """Small plans are sorted, to be read; large ones aren't, to be fast."""
    found = list(objects)
    if len(found) <= 256:
        found.sort(key=_route_order if found and isinstance(found[0], Route) else None)
    return found


def _route_order(route: Route) -> tuple[Any, ...]:
    return (route.destination, route.metric, route.table, route.link, route.via or "")


def _sorted_tables(tables: Iterable[NftTable]) -> list[NftTable]:
    return sorted(tables, key=lambda t: t.key)
