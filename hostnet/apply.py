"""Do a plan, and reconcile: make this namespace agree with a desired state.

Theory of operation
-------------------
`reconcile` is the one call for start, event, repair and shutdown: dump, diff, apply. Where
the caller knows the state before (`delta_of`), one changed lease at 5,000 peers costs one
lease's work and no dump. A plan is done past
errors, and all of them are reported; a plan which made or removed devices or addresses is
followed by a second look, as the kernel may have taken more along with them than was said.

That a thing to delete has gone already is success.
"""

from __future__ import annotations

import contextlib
import errno
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostnet import plan_lines
from hostnet.kernel import Kernel
from hostnet.kinds import sysctl
from hostnet.kinds.address import delete_addresses, put_addresses
from hostnet.kinds.link import (
    add_link,
    add_veth,
    bridge_data,
    change_kind_data,
    change_link,
    delete_link,
    set_addrgenmode,
    settings,
    vlan_filtering_data,
    vxlan_data,
)
from hostnet.kinds.neighbour import delete_fdb, delete_neighbours, put_fdb, put_neighbours
from hostnet.kinds.route import (
    NexthopTable,
    delete_nexthops,
    delete_routes,
    put_nexthops,
    put_routes,
)
from hostnet.netlink.socket import Bulk, NetlinkError, Request
from hostnet.nft import tables as nftables
from hostnet.plan import Plan, Step, diff
from hostnet.plan_lines import LinkChange
from hostnet.state import Bridge, HostState, Link, Veth, Vxlan

GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""What the kernel answers, by kind of object, to the deletion of what isn't there."""
ROUNDS = 3
"""Looks at the tables in one full reconcile; more is a fight with another program."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One change that could not be made."""

    line: str
    """The change, as a command."""
    reason: str

    def __str__(self) -> str:
        return f"{self.line}: {self.reason}"


@dataclass(slots=True)
class Outcome:
    """What was done, and what could not be."""

    plans: list[Plan] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Everything is as desired."""
        return not self.failures

    @property
    def changes(self) -> int:
        """How many changes were tried."""
        return sum(len(plan) for plan in self.plans)

    def lines(self) -> list[str]:
        """All changes as commands, in order."""
        return [line for plan in self.plans for line in plan.lines()]


def reconcile(desired: HostState, kernel: Kernel, *, delta_of: HostState | None = None) -> Outcome:
    """Make the kernel agree with `desired`.

    With `delta_of`, the state that was desired and reached before, only the difference
    between the two is applied, without looking at the kernel's tables. Two parts do as well
    as two whole states: say what the changed peers add now, and what they added before.
    When such an outcome isn't `ok`, reconcile the whole state: the kernel isn't as was thought.

    Raises NetlinkError, OSError or NftError when the tables can't be read; what can't be
    changed is in the outcome.
    """
    with _no_collection():
        if delta_of is not None:
            return apply(plan_delta(desired, delta_of, kernel), kernel)
        total = Outcome()
        for _ in range(ROUNDS):
            outcome = apply(plan_full(desired, kernel), kernel)
            total.plans += outcome.plans
            total.failures = outcome.failures
            if not any(plan.disturbing for plan in outcome.plans):
                break
        return total


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away while tens of thousands of tuples are made.

    None of them is in a cycle, but each few hundred would make it search the whole heap:
    more than half of the time of a large reconcile.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def plan_full(desired: HostState, kernel: Kernel) -> Plan:
    """What a full reconcile would do now (`--dry-run`). Raises as `reconcile` does."""
    actual = kernel.dump(desired)
    return diff(desired, actual, nexthops=_nexthops(kernel), mark=kernel.mark)


def plan_delta(desired: HostState, before: HostState, kernel: Kernel) -> Plan:
    """The difference between two desired states, or parts of them.

    Nexthop objects that nobody needs any more stay until the next full reconcile: a part
    doesn't tell whether another route uses them.
    """
    nexthops = _nexthops(kernel)
    return diff(desired, before, nexthops=nexthops, mark=kernel.mark, sweep_nexthops=False)


def _nexthops(kernel: Kernel) -> NexthopTable | None:
    return kernel.nexthops if kernel.nexthop_objects else None


def apply(plan: Plan, kernel: Kernel) -> Outcome:
    """Do a plan, past errors."""
    failures = [Failure("conflict", line) for line in plan.conflicts]
    if plan and not kernel.index:
        kernel.links()
    for step in plan.steps:
        if step.kind == "sysctl":
            errors = sysctl.write(step.objects, kernel.netns_fd)
            failures += [Failure(sysctl.line(s), e.strerror or str(e)) for s, e in errors.items()]
        elif step.kind == "table":
            failures += _tables(step, kernel)
        elif step.kind == "link":
            failures += _links(step, kernel)
            if step.verb == "delete":
                gone = {link.name for link in step.objects}
                ids = kernel.nexthops.ids
                kernel.nexthops.ids = {key: ids[key] for key in ids if key[0] not in gone}
            kernel.links()
        else:
            failures += _bulk(step, plan, kernel)
    return Outcome([plan] if plan else [], failures)


def _bulk(step: Step, plan: Plan, kernel: Kernel) -> list[Failure]:
    """Do a step on one of the tables, in as few system calls as it takes."""
    objects: Sequence[Any] = step.objects
    failures = []
    missing = {o.link for o in objects} - kernel.index.keys()
    if missing and step.verb != "delete":
        lost = [o for o in objects if o.link in missing]
        objects = [o for o in objects if o.link not in missing]
        failures = [
            Failure(plan_lines.line(step.kind, step.verb, o), f"no device {o.link}") for o in lost
        ]
    elif missing and step.kind not in ("route", "nexthop"):
        objects = [o for o in objects if o.link not in missing]  # gone with their device
    try:
        requests = _requests(step, objects, plan, kernel)
    except (OSError, ValueError, LookupError):
        return failures + _one_by_one(step, objects, plan, kernel)
    errors = kernel.socket.execute_bulk(requests)
    failed = {i: e for i, e in errors.items() if step.verb == "put" or e.errno not in GONE}
    if step.kind == "nexthop":
        _remember(step, objects, failed, kernel)
    return failures + [
        Failure(plan_lines.line(step.kind, step.verb, objects[i]), e.reason)
        for i, e in failed.items()
    ]


def _failures(line: str, errors: dict[int, NetlinkError], *, gone_is_fine: bool) -> list[Failure]:
    wrong = [e for e in errors.values() if not (gone_is_fine and e.errno in GONE)]
    return [Failure(line, e.reason) for e in wrong]


def _one_by_one(step: Step, objects: Sequence[Any], plan: Plan, kernel: Kernel) -> list[Failure]:
    """A value among many that can't be packed (text that is no address) fails alone."""
    failures = []
    for one in objects:
        line = plan_lines.line(step.kind, step.verb, one)
        try:
            requests = _requests(step, [one], plan, kernel)
        except (OSError, ValueError, LookupError) as error:
            failures.append(Failure(line, f"can't be said in netlink: {error}"))
            continue
        failures += _failures(
            line, kernel.socket.execute_bulk(requests), gone_is_fine=step.verb != "put"
        )
    return failures


def _requests(step: Step, objects: Sequence[Any], plan: Plan, kernel: Kernel) -> Bulk:
    index, protocol = kernel.index, kernel.mark.protocol
    match step.kind, step.verb:
        case "route", "put":
            return put_routes(objects, index, protocol, plan.nexthop_ids)
        case "route", "delete":
            return delete_routes(objects, protocol)
        case "route", "delete unmarked":
            return delete_routes(objects, 0, index)
        case "nexthop", "put":
            return put_nexthops(objects, index, protocol)
        case "nexthop", "delete":
            return delete_nexthops(hop.id for hop in objects)
        case "neighbour", "put":
            return put_neighbours(objects, index, protocol)
        case "neighbour", "delete":
            return delete_neighbours(objects, index)
        case "fdb", "put":
            return put_fdb(objects, index)
        case "fdb", "delete":
            return delete_fdb(objects, index)
        case "address", "put":
            return put_addresses(objects, index, protocol)
        case "address", "delete":
            return delete_addresses(objects, index)
        case _:
            raise ValueError(f"no way to {step.verb} a {step.kind}")


def _remember(
    step: Step, hops: Sequence[Any], failed: dict[int, NetlinkError], kernel: Kernel
) -> None:
    table = kernel.nexthops
    for i, hop in enumerate(hops):
        if step.verb == "put" and i not in failed:
            table.ids[hop[1:4]] = hop.id
            table.used.add(hop.id)
            table.top = max(table.top, hop.id)
        elif step.verb == "delete" and i not in failed:
            table.used.discard(hop.id)
            if table.ids.get(hop[1:4]) == hop.id:
                del table.ids[hop[1:4]]


def _links(step: Step, kernel: Kernel) -> list[Failure]:
    failures: list[Failure] = []
    do: Callable[[Any], list[Request]]
    for one in step.objects:
        line = plan_lines.line("link", step.verb, one)
        if step.verb == "delete":
            do = _delete_link
        elif step.verb == "add":
            do = _add_link(kernel)
        else:
            do = _set_link(kernel)
        try:
            requests = do(one)
        except (OSError, ValueError, LookupError) as error:
            failures.append(Failure(line, str(error)))
            continue
        errors = kernel.socket.execute(requests)
        if step.verb == "set":
            # only addrgenmode asks for IPv6: without it there is no link-local address to prevent
            errors = {i: e for i, e in errors.items() if e.errno != errno.EAFNOSUPPORT}
        failures += _failures(line, errors, gone_is_fine=step.verb == "delete")
    return failures


def _delete_link(link: Link) -> list[Request]:
    return [delete_link(link.name)]


def _add_link(kernel: Kernel) -> Callable[[Link], list[Request]]:
    def build(link: Link) -> list[Request]:
        common = settings(name=link.name, mac=link.mac, mtu=link.mtu)
        match link.details:
            case Vxlan(underlay_link=underlay):
                if underlay is not None and underlay not in kernel.index:
                    raise LookupError(f"no device {underlay}")
                index = kernel.index[underlay] if underlay is not None else 0
                return [add_link("vxlan", common, vxlan_data(link.details, index))]
            case Bridge():
                return [add_link("bridge", common, bridge_data(link.details))]
            case Veth(peer=peer):
                ends = settings(name=link.name), settings(name=peer)
                return [add_veth(*ends, host_up=False, peer_up=False)]
            case _:
                return [add_link(link.kind, common)]

    return build


def _set_link(kernel: Kernel) -> Callable[[LinkChange], list[Request]]:
    def build(change: LinkChange) -> list[Request]:
        fields = dict(change.fields)
        requests = []
        master = fields.get("master")
        if master is not None and master not in kernel.index:
            raise LookupError(f"no device {master}")
        common = settings(
            mac=fields.get("mac"),
            mtu=fields.get("mtu"),
            alias=fields.get("alias"),
            master=kernel.index[master] if master is not None else None,
        )
        if common:
            requests.append(change_link(change.name, common))
        if "addrgenmode" in fields:
            # on its own: below an MTU of 1280 a device has no IPv6 to set it on
            requests.append(set_addrgenmode(change.name, fields["addrgenmode"]))
        details = fields.get("details")
        if isinstance(details, Bridge):
            requests.append(change_kind_data(change.name, "bridge", vlan_filtering_data(details)))
        if "up" in fields:
            requests.append(change_link(change.name, up=fields["up"]))
        return requests

    return build


def _tables(step: Step, kernel: Kernel) -> list[Failure]:
    failures = []
    for table in step.objects:
        try:
            if step.verb == "delete":
                nftables.delete_table(table.family, table.name, kernel.netns_fd)
            else:
                nftables.replace_table(table, kernel.netns_fd)
        except (nftables.NftError, OSError) as error:
            what = "delete" if step.verb == "delete" else "replace"
            failures.append(Failure(f"nft {what} table {table.family} {table.name}", str(error)))
    return failures
