"""Take a pod off the host: the one way back, from wherever things stand.

Theory of operation: `detach` is told what the record says and trusts none of it; each step
looks whether there is something to undo. Steps go on past errors, all of which are reported,
with two exceptions: an address is given back only when the cable is gone, since until then
something can use it; and the record goes last and only when nothing else is left, so that the
next DEL, GC or sweep finds it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cni import delegate
from cni.crash_points import reach
from cni.errors import IO_FAILURE, NETWORK_FAILURE, CniError
from cni.host import Host
from cni.pod import attachment_lock, firewall, veth_removal, wiring
from cni.pod.attachments import Attachments, Record
from cni.request import Key, Request
from hostnet.find_link import find_link
from hostnet.kinds.link import RTM_GETLINK, dump_links, parse_link
from hostnet.netlink.socket import NetlinkSocket
from hostnet.ownership import POD_ALIAS

PLUGIN = "flatmesh"
OWN_IPAM = "flatmesh-ipam"
"""`ipam.type` of a config whose addresses come from this host's own store."""
SWEEP_PATIENCE = 0.0  # seconds: whoever holds the lock at a sweep is alive and at work


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be removed."""

    key: Key
    record: Record | None
    netns: int | None = None
    """The container's namespace, open; None when it is gone or unknown."""
    request: Request | None = None
    """The runtime's DEL, whose config a delegate gets; None or another command: the record's."""


def detach(removal: Removal, book: Attachments, host: Host) -> None:
    """Leave nothing of an attachment, or a record of what is left. Raises CniError."""
    note = removal.record.note if removal.record is not None else {}
    errors: list[str] = []

    def attempt(step: Callable[[], None]) -> bool:
        try:
            step()
        except CniError as error:
            errors.append(error.message)
        except OSError as error:
            errors.append(str(error))
        else:
            return True
        return False

    if "masquerade" in note:
        attempt(lambda: firewall.unmasquerade(note["masquerade"]))
    if "guard" in note:
        attempt(lambda: firewall.unguard(*note["guard"]))
    reach("del-unfirewalled")
    if _delegate_of(removal) in delegate.NEED_INTERFACE:
        # it says goodbye through the cable; the second call below finds nothing to do
        attempt(lambda: _release_delegated(removal, host))
    if attempt(lambda: _unplug(removal)):
        reach("del-unplugged")
        attempt(lambda: _release_delegated(removal, host))
        reach("del-delegated")
    if not errors and removal.record is not None:
        attempt(lambda: book.forget(removal.key))
        reach("del-forgotten")
    if errors:
        raise CniError(NETWORK_FAILURE, "; ".join(errors))


def collect(request: Request, valid: frozenset[tuple[str, str]], host: Host) -> None:
    """GC: detach all attachments of the network but the valid ones. Raises CniError."""
    errors, book = [], Attachments(host)
    stale = {record.key for record in book.of(request.network) if record.plugin == PLUGIN}
    stale |= {key for key in _linked() if key.network == request.network}
    for key in sorted(stale):
        if (key.container_id, key.ifname) in valid:
            continue
        try:
            with attachment_lock.hold(host, PLUGIN, key):
                detach(Removal(key, book.find(key), None, request), book, host)
        except (CniError, OSError) as error:
            errors.append(f"{key.container_id} {key.ifname}: {error}")
    if errors:
        raise CniError(IO_FAILURE, f"GC of {request.network}: {'; '.join(errors)}")


def sweep(host: Host) -> list[str]:
    """At a daemon's start: finish what killed calls left. Returns what was done, a line each.

    An ADD that got no further than its record, a DEL that got as far as the cable, a pod
    whose namespace went without a DEL. What is under way in an executable is left alone.
    Raises CniError when the address book can't be read.
    """
    lines, book = [], Attachments(host)
    for key in [record.key for record in book.of() if record.plugin == PLUGIN]:
        try:
            with attachment_lock.hold(host, PLUGIN, key, SWEEP_PATIENCE):
                record = book.find(key)
                if record is None or (record.ready and _plugged_in(key)):
                    continue
                detach(Removal(key, record), book, host)
                lines.append(f"removed what was left of {' '.join(key)}")
        except (CniError, OSError) as error:
            lines.append(f"could not remove {' '.join(key)}: {error}; DEL will try again")
    return lines


def _plugged_in(key: Key) -> bool:
    """Whether the cable is there: it goes first in a DEL, and with the pod's namespace."""
    with NetlinkSocket() as host:
        return find_link(host, wiring.host_name(*key)) is not None


def _unplug(removal: Removal) -> None:
    """Delete the veth, by its host end's name or, failing that, from inside the container."""
    name = wiring.host_name(*removal.key)
    with NetlinkSocket() as host:
        found = find_link(host, name)
    if found is not None:
        if found.kind != "veth":
            raise CniError(NETWORK_FAILURE, f"{name} is no veth, and so not ours to delete")
        veth_removal.delete(found.index)
    elif removal.netns is not None and removal.record is not None:
        with NetlinkSocket(removal.netns) as pod:
            inside = find_link(pod, removal.key.ifname)
        if inside is not None and inside.kind == "veth":
            veth_removal.delete(inside.index, removal.netns)


def _delegate_of(removal: Removal) -> str:
    """The type of the delegated IPAM plugin that ADD called; empty when none is known."""
    note = removal.record.note if removal.record is not None else {}
    return str(note.get("delegate", {}).get("type", ""))


def _release_delegated(removal: Removal, host: Host) -> None:
    """DEL of the delegated IPAM plugin: with the runtime's config if this is its DEL."""
    request = removal.request
    section = request.conf.get("ipam") if request is not None else None
    kind = section.get("type") if isinstance(section, dict) else None
    if request is not None and request.command == "DEL" and kind and kind != OWN_IPAM:
        delegate.call(kind, "DEL", request.conf, request, host)
    elif removal.record is not None and "delegate" in removal.record.note:
        delegate.undo(removal.record.note["delegate"], removal.key, host)


def _linked() -> set[Key]:
    """The attachments that host ends on this host say they belong to, by their alias."""
    request = dump_links(kind="veth")
    with NetlinkSocket() as host:
        parts = host.dump(RTM_GETLINK, request.body, "ip link show type veth")
    keys = set()
    for part in parts:
        found = parse_link(part)
        words = found.alias.split(" ")
        if len(words) == 4 and words[0] == POD_ALIAS:
            key = Key(*words[1:])
            if found.name == wiring.host_name(*key):
                keys.add(key)
    return keys
