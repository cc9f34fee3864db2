# SPDX-License-Identifier: Apache-2.0
"""Remove a pod from the host, however much of its ADD was made.

`detach` gets the record of the attachment and trusts none of it: each step looks whether there
is something to remove. The steps go on past errors, and all errors are reported, with two
exceptions. An address is freed only when the veth pair is gone, because until then something
can use it. And the record is deleted last, when nothing else is left, so that the next DEL, GC
or sweep finds it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from base.errors import FlatmeshError
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.call import AttachmentKey
from cni.config.request import CniRequest
from cni.crash_points import crash_point
from cni.delegate.remembered import delete_remembered
from cni.delegate.run import NEED_INTERFACE, call_delegate, callable_ipam
from cni.errors import NETWORK_FAILURE, TRY_AGAIN_LATER, CniError
from cni.host import PluginHost
from cni.pod import firewall, source_guard, unanswered, veth_removal
from cni.pod.naming import PLUGIN, host_interface_name
from hostnet.find_link import find_link
from hostnet.netlink.socket import NetlinkSocket


class Removal(NamedTuple):
    """What is to be removed."""

    key: AttachmentKey
    record: AttachmentRecord | None
    netns: int | None = None
    """The container's namespace, open; None when it is gone or unknown."""
    request: CniRequest | None = None
    """The runtime's call. A DEL's config goes to the delegate; for other commands, and None,
    the delegate gets what the record has."""
    unread: bool = False
    """Whether the address store can't be read: it may have a record."""


def detach(removal: Removal, store: AttachmentStore, host: PluginHost) -> None:
    """Remove everything of an attachment; what fails stays in the record. Raises CniError."""
    metadata = removal.record.metadata if removal.record is not None else {}
    errors: list[str] = []

    def attempt(step: Callable[[], None]) -> bool:
        try:
            step()
        except (FlatmeshError, OSError) as error:
            errors.append(str(error))
        else:
            return True
        return False

    if "masquerade" in metadata:
        attempt(lambda: firewall.delete_masquerade(metadata["masquerade"]))
    if "guard" in metadata:
        attempt(lambda: firewall.delete_mac_spoof_check(*metadata["guard"]))
    crash_point("del-unfirewalled")
    if _delegate_of(removal) in NEED_INTERFACE:
        # The DHCP lease is released by a packet through the pod's interface, so the plugin is
        # called before the veth pair goes. Its second call below finds nothing to release.
        attempt(lambda: _release_delegated(removal, host))
    unanswered.forget(removal.key, host)
    if attempt(lambda: _delete_veth(removal)):
        crash_point("del-detached")
        pod = source_guard.recorded(removal.record) if removal.record is not None else None
        if pod is not None:  # not before: until then it can send
            attempt(partial(host.remove_from_guard or source_guard.remove, pod))
        attempt(lambda: _release_delegated(removal, host))
        crash_point("del-delegated")
    if not errors and (removal.record is not None or removal.unread):
        with contextlib.suppress(CniError):  # a record without an interface is swept
            store.forget(removal.key, PLUGIN)
        crash_point("del-forgotten")
    if errors:
        raise CniError(NETWORK_FAILURE, "; ".join(errors))


def with_record(removal: Removal, store: AttachmentStore, host: PluginHost) -> Removal:
    """With what is recorded; where the store can't be read, with what is found on the host."""
    try:
        return removal._replace(record=store.find(removal.key))
    except CniError:
        from cni.pod.living import find_living, found_record  # noqa: PLC0415 - rarely needed

        record = found_record(find_living(host.subnet_file), removal.key)
        return removal._replace(record=record, unread=True)


def _delete_veth(removal: Removal) -> None:
    """Delete the veth pair by its host's end or, if that is gone, by the container's end."""
    name = host_interface_name(removal.key)
    with NetlinkSocket() as host:
        host_end = find_link(host, name)
    if host_end is not None:
        if host_end.kind != "veth":
            raise CniError(NETWORK_FAILURE, f"{name} is no veth, and so not ours to delete")
        veth_removal.delete_veth(host_end.index)
    elif removal.netns is not None and removal.record is not None:
        with NetlinkSocket(removal.netns) as pod:
            pod_end = find_link(pod, removal.key.ifname)
        if pod_end is not None and pod_end.kind == "veth":
            veth_removal.delete_veth(pod_end.index, removal.netns)


def _delegate_of(removal: Removal) -> str:
    """The type of the delegated IPAM plugin that ADD called; empty when none is known."""
    metadata = removal.record.metadata if removal.record is not None else {}
    return str(metadata.get("delegate", {}).get("type", ""))


def _release_delegated(removal: Removal, host: PluginHost) -> None:
    """DEL of the delegated IPAM plugin, if there is one.

    The DEL's config may name one that can't be called. Then the config of the ADD is used; where
    no ADD is recorded, there is nothing to release.
    """
    request = removal.request
    kind = callable_ipam(request) if request is not None and request.command == "DEL" else ""
    if request is not None and kind:
        try:
            call_delegate(kind, "DEL", request.config.raw, request, host)
        except CniError as error:
            if removal.record is not None or error.code == TRY_AGAIN_LATER:
                raise  # else it refuses a config by which it has given nothing
    elif removal.record is not None and "delegate" in removal.record.metadata:
        delete_remembered(removal.record.metadata["delegate"], removal.key, host)
