# SPDX-License-Identifier: Apache-2.0
"""Network devices as a kind of object: which are ours, what has to be changed, and how.

What is special to one kind of device is in `hostnet.kinds.links`; messages that every device takes
are in `hostnet.kinds.link_messages`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hostnet.kinds.actual_link import ActualLink
from hostnet.kinds.batch import GONE
from hostnet.kinds.kind import DiffContext, Failure, KernelView, PlanPart, Step, step
from hostnet.kinds.link_messages import (
    add_link,
    change_link,
    delete_link,
    dump_links,
    parse_link,
    set_addrgenmode,
    settings,
)
from hostnet.kinds.link_watcher import LinkWatcher
from hostnet.kinds.links.table import device_kind
from hostnet.netlink.socket import NetlinkError, NetlinkSocket, Request
from hostnet.netns import run_in
from hostnet.ownership import OVERLAY_KINDS, Mark
from hostnet.state import HostState

Change = Request | Callable[[], None]
"""A message, or a function that is called in the namespace."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. None means: as it is found (nothing to put right)."""

    name: str
    kind: str = ""
    """IFLA_INFO_KIND: `vxlan`, `bridge`, `veth`, `dummy`, ...; empty for hardware."""
    mtu: int | None = None
    mac: str | None = None
    up: bool = True
    master: str | None = None
    addrgenmode: str | None = None
    """`none` keeps the kernel from giving a VTEP a link-local IPv6 address."""
    details: Any = None
    """What the kind has of its own: a value of its `DeviceKind.details` type."""
    alias: str | None = None
    """The ownership mark (`hostnet.ownership`); None in a desired link: the usual one."""

    @property
    def key(self) -> str:
        """The name, unique in a namespace."""
        return self.name


class LinkChange(NamedTuple):
    """What to set on a device: `mac`, `mtu`, `alias`, `master`, `addrgenmode`, `details`, `up`."""

    name: str
    kind: str
    fields: dict[str, Any]


@dataclass(slots=True)
class _Changes:
    """What happens to devices."""

    added: list[Link] = field(default_factory=list)
    changed: list[LinkChange] = field(default_factory=list)
    remade: list[Link] = field(default_factory=list)
    stale: list[Link] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


class LinkKind:
    """Fits `hostnet.kinds.kind.Kind`."""

    name = "link"
    types = (Link,)
    deletes_last = False

    def read(self, view: KernelView, wanted: HostState) -> Iterable[Link]:
        """The devices that are wanted by name, whoever made them, and those with our alias.

        Refreshes what the view knows of devices.
        """
        names = {link.name for link in wanted.of(Link)}
        found = read_links(view.socket)
        remember(view, found)
        view.links = [f for f in found if f.name in names or f.alias == view.mark.alias]
        view.overlay = frozenset(f.name for f in view.links if f.kind in OVERLAY_KINDS)
        return [state_of(f, view.names) for f in view.links]

    def diff(self, context: DiffContext) -> PlanPart:
        """A device that can't be changed is deleted and made anew."""
        changes = _changes(context)
        context.made = {link.name for link in context.desired.of(Link)}
        context.gone = {link.name for link in (*changes.remade, *changes.stale)}
        # Nothing was on a device that the plan itself makes: what is done to it takes nothing.
        made = {link.name for link in changes.added}
        disturbs = any(change.name not in made for change in changes.changed)
        return PlanPart(
            first=step(self, "delete", changes.remade, disturbs=True),
            put=step(self, "add", changes.added)
            + step(self, "set", changes.changed, disturbs=disturbs),
            delete=step(self, "delete", changes.stale, disturbs=True),
            conflicts=changes.conflicts,
        )

    def apply(self, step: Step, view: KernelView) -> list[Failure]:
        """One device after the other."""
        failures: list[Failure] = []
        encode: Mapping[str, Callable[[Any, Mapping[str, int]], list[Change]]] = {
            "delete": _delete,
            "add": _add,
            "set": _set,
        }
        for one in step.objects:
            line = self.line(step.verb, one)
            try:
                requests = _call(encode[step.verb](one, view.index), view.netns_fd)
            except (OSError, ValueError, LookupError) as error:
                failures.append(Failure(line, str(error)))
                continue
            errors = view.socket.execute(requests).values()
            failures += [
                Failure(line, refusal.reason)
                for refusal in errors
                if not _is_harmless(step.verb, refusal)
            ]
        remember(view, read_links(view.socket))
        return failures

    def watcher(self, mark: Mark) -> LinkWatcher:
        """Tells that one was changed."""
        del mark
        return LinkWatcher()

    def line(self, verb: str, one: Link | LinkChange) -> str:
        """`ip link add`, `ip link set` or `ip link del`."""
        if verb == "delete":
            return f"ip link del {one.name}"
        return _add_line(one) if isinstance(one, Link) else _set_line(one)


def read_links(sock: NetlinkSocket, *, kind: str = "") -> list[ActualLink]:
    """All devices, or those of a kind. Raises NetlinkError."""
    request = dump_links(kind=kind)
    return [parse_link(part) for part in sock.dump(request.type, request.body, "ip link show")]


def remember(view: KernelView, found: Iterable[ActualLink]) -> None:
    """Let the view know the devices' indexes, and the overlay devices that bear our mark."""
    view.index = {link.name: link.index for link in found}
    view.names = {index: name for name, index in view.index.items()}
    ours = {f.name for f in found if f.kind in OVERLAY_KINDS and f.alias == view.mark.alias}
    view.overlay = (view.overlay & view.index.keys()) | ours


def state_of(found: ActualLink, names: Mapping[int, str]) -> Link:
    """The value that is compared; `names` maps indexes to names."""
    kind = device_kind(found.kind)
    return Link(
        name=found.name,
        kind=found.kind,
        mtu=found.mtu,
        mac=found.mac or None,
        up=found.up,
        master=names.get(found.master),
        addrgenmode=found.addrgenmode,
        details=kind.parse(found, names) if kind is not None else None,
        alias=found.alias,
    )


def _changes(context: DiffContext) -> _Changes:
    result, mark = _Changes(), context.mark
    found = {link.name: link for link in context.actual.of(Link)}
    desired = context.desired.of(Link)
    made_as_peer: set[str] = set()
    # bridges first: other devices name them as their master
    for want in sorted(desired, key=lambda w: (w.kind != "bridge", w.name)):
        have = found.get(want.name)
        if have is not None and _is_held(have, want, mark):
            result.conflicts.append(_in_the_way(have, want))
            continue
        if have is not None and not _can_become(have, want):
            if not _is_marked(have, mark) and not _is_adopted(have, want):
                result.conflicts.append(_in_the_way(have, want))
                continue
            result.remade.append(have)
            have = None
        if have is None and want.name not in made_as_peer:
            if not want.kind:
                result.conflicts.append(f"device {want.name} is not there, and we can't make it")
                continue
            result.added.append(want)
            kind = device_kind(want.kind)
            if kind is not None and want.details is not None:
                made_as_peer.update(kind.also_makes(want.details))
        fields = _fields(want, have, mark)
        if fields:
            result.changed.append(LinkChange(want.name, want.kind, fields))
    wanted = {link.name for link in desired}
    stale = (link for link in found.values() if link.name not in wanted and _is_marked(link, mark))
    result.stale = sorted(stale, key=lambda link: link.name)
    return result


def _is_marked(link: Link, mark: Mark) -> bool:
    """None stands for the usual mark: a link that was itself a desired one (delta)."""
    return link.alias is None or link.alias == mark.alias


def _is_adopted(have: Link, want: Link) -> bool:
    """Whether a device without any mark is deleted and made anew as ours: a flanneld's."""
    if have.alias or have.kind != want.kind:
        return False
    kind = device_kind(have.kind)
    return kind.adopts_unmarked if kind is not None else have.kind in OVERLAY_KINDS


def _is_held(have: Link, want: Link, mark: Mark) -> bool:
    """Whether a device that is not ours, and equal to the wanted one, is left to its maker."""
    kind = device_kind(have.kind)
    adopts = kind is None or kind.adopts_unmarked or have.kind not in OVERLAY_KINDS
    return not adopts and want.details is not None and not _is_marked(have, mark)


def _in_the_way(have: Link, want: Link) -> str:
    return (
        f"device {have.name} exists, is of type {have.kind or 'hardware'} and not ours, "
        f"a {want.kind} of this name is wanted: rename or remove it"
    )


def _can_become(have: Link, want: Link) -> bool:
    """Whether the device found can become the wanted one without being made anew."""
    if want.kind and want.kind != have.kind:
        return False
    kind = device_kind(want.kind)
    if kind is None or want.details is None:
        return True
    return have.details is not None and kind.can_become(have.details, want.details)


def _fields(want: Link, have: Link | None, mark: Mark) -> dict[str, Any]:
    """What to set on a device, by name of the field; `up` comes last."""
    fields: dict[str, Any] = {}
    kind = device_kind(want.kind)
    made_with_common = kind is None or kind.takes_common()
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
        if have is None and name in ("mac", "mtu") and made_with_common:
            continue
        knows_ipv6 = have is None or have.addrgenmode is not None or "mtu" in fields
        if name == "addrgenmode" and not knows_ipv6:
            continue  # the kernel has no IPv6
        fields[name] = value
    if have is not None and have.master and want.master is None and want.kind in OVERLAY_KINDS:
        fields["master"] = ""  # an overlay's device that is a bridge's port receives nothing itself
    if (
        have is not None
        and kind is not None
        and want.details is not None
        and want.details != have.details
        and kind.change(want.name, want.details) is not None
    ):
        fields["details"] = want.details
    if want.up != (have.up if have is not None else False):
        fields["up"] = want.up
    return fields


def _call(changes: Iterable[Change], netns_fd: int) -> list[Request]:
    """Call the functions among the changes in the namespace; returns the messages to be sent."""
    requests = []
    for change in changes:
        if isinstance(change, Request):
            requests.append(change)
        else:
            run_in(netns_fd, change)
    return requests


def _delete(link: Link, index: Mapping[str, int]) -> list[Change]:
    del index
    return [delete_link(link.name)]


def _add(link: Link, index: Mapping[str, int]) -> list[Change]:
    common = settings(name=link.name, mac=link.mac, mtu=link.mtu)
    kind = device_kind(link.kind)
    if kind is None or link.details is None:
        return [add_link(link.kind, common)]
    return [kind.add(link.name, common, link.details, index)]


def _set(change: LinkChange, index: Mapping[str, int]) -> list[Change]:
    fields = change.fields
    requests: list[Change] = []
    master = fields.get("master")
    if master and master not in index:
        raise LookupError(f"no device {master}")
    common = settings(
        mac=fields.get("mac"),
        mtu=fields.get("mtu"),
        alias=fields.get("alias"),
        master=index.get(master, 0) if master is not None else None,
    )
    if common:
        requests.append(change_link(change.name, common))
    if "addrgenmode" in fields:
        # on its own: below an MTU of 1280 a device has no IPv6 to set it on
        requests.append(set_addrgenmode(change.name, fields["addrgenmode"]))
    kind = device_kind(change.kind)
    if "details" in fields and kind is not None:
        request = kind.change(change.name, fields["details"])
        requests += [request] if request is not None else []
    if "up" in fields:
        requests.append(change_link(change.name, up=fields["up"]))
    return requests


def _is_harmless(verb: str, error: NetlinkError) -> bool:
    if verb == "delete":
        return error.errno in GONE
    # Only addrgenmode asks for IPv6: without it there is no link-local address to prevent.
    return verb == "set" and error.errno == errno.EAFNOSUPPORT


def _add_line(link: Link) -> str:
    kind = device_kind(link.kind)
    if kind is not None and link.details is not None:
        line = kind.line(link.name, link.details)
        if line is not None:
            return line
    words = ["ip link add", link.name]
    if kind is None or kind.takes_common():
        words += ["address", link.mac] if link.mac else []
        words += ["mtu", str(link.mtu)] if link.mtu else []
    words += ["type", link.kind]
    if kind is not None and link.details is not None:
        words += kind.words(link.details)
    return " ".join(words)


def _set_line(change: LinkChange) -> str:
    words = ["ip link set", change.name]
    kind = device_kind(change.kind)
    for name, value in change.fields.items():
        if name == "up":
            words.append("up" if value else "down")
        elif name == "mac":
            words += ["address", value]
        elif name == "master" and not value:
            words.append("nomaster")
        elif name == "details":
            words += ["type", change.kind, *(kind.words(value) if kind is not None else ())]
        else:
            words += [name, str(value)]
    return " ".join(words)
