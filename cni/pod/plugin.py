# SPDX-License-Identifier: Apache-2.0
"""`flatmesh`: attach a container to the host's network, and detach it again.

Theory of operation
-------------------
ADD is all or nothing. Everything that can be refused is refused before anything is changed
(`add_plan`). Then the record of the attachment is written, with its addresses, in one
transaction; then the kernel is changed (`attach`); then the record says `ready`. Wherever that
fails or is killed, `removal.detach` removes what there is. The undo of a failed ADD, DEL, GC
and the sweep at a daemon's start are that one function; it works from the record and looks
itself which of the changes were made. It deletes the record last, so the record exists as
long as anything else does.

Addresses come from this host's own store, or from the delegated IPAM plugin that `ipam.type`
names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cni.address_pool import resolve_pool
from cni.attachment.lock import hold_lock, hold_lock_if_possible
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.ipam_config import delegated_ipam_type, parse_own_ipam_config, uses_own_addresses
from cni.config.request import CniRequest
from cni.crash_points import crash_point
from cni.delegate.run import call_delegate, callable_ipam, forward
from cni.errors import ATTACHMENT_EXISTS, NOT_AVAILABLE, CniError, RunInClientError
from cni.host import PluginHost
from cni.pod import unanswered
from cni.pod.container_netns import open_container_netns, open_container_netns_if_present
from cni.pod.naming import PLUGIN, pod_name
from cni.pod.peer import has_host_interface, is_where_recorded, under_former_name
from cni.pod.removal import Removal, detach, with_record
from cni.result.model import CniResult
from hostnet.find_link import find_index, find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import entered, own_netns

if TYPE_CHECKING:
    from cni.pod.add_plan import AddPlan
    from cni.pod.veth_pair import PodSockets


def add(request: CniRequest, host: PluginHost) -> CniResult:
    """Attach the container. Raises CniError, NetlinkError, OSError."""
    # imported here, because they would take 8 ms of a DEL without a daemon
    from cni.pod.add_plan import plan_add  # noqa: PLC0415
    from cni.pod.attach import Attacher  # noqa: PLC0415
    from cni.pod.veth_pair import PodSockets  # noqa: PLC0415

    plan = plan_add(request, host)
    with ExitStack() as stack:
        netns = stack.enter_context(open_container_netns(request))
        stack.enter_context(hold_lock(host, PLUGIN, plan.key))
        store = AttachmentStore(host)
        own = stack.enter_context(own_netns())
        in_pod = stack.enter_context(_socket_in(netns, own))
        sockets = PodSockets(stack.enter_context(NetlinkSocket()), in_pod, netns, own)
        result = _result_of_repeated(plan, store, sockets, host)
        if result is None:
            _require_free(request, plan, store, sockets, host)
            with _undone_on_failure(request, store, host):
                metadata = {"plugin": PLUGIN, **pod_name(request.arguments)}
                result = Attacher(request, plan, store, sockets, host, metadata).attach()
    host.pods_changed()
    return result


def delete(request: CniRequest, host: PluginHost) -> None:
    """Detach the container; succeeds when there is nothing to detach. Raises CniError."""
    key = request.attachment
    callable_ipam(request)  # in another process, if need be, before anything is changed
    with ExitStack() as stack:
        netns = stack.enter_context(open_container_netns_if_present(request))
        stack.enter_context(hold_lock_if_possible(host, PLUGIN, key))
        store = AttachmentStore(host)
        removal = with_record(Removal(key, None, netns, request), store, host)
        if removal.record is None and not has_host_interface(key):
            former = under_former_name(key, netns, None if removal.unread else store)
            if former is not None:
                stack.enter_context(hold_lock_if_possible(host, PLUGIN, former))
                removal = with_record(Removal(former, None, netns), store, host)
        crash_point("del-found")
        detach(removal, store, host)
    host.pods_changed()


def check(request: CniRequest, host: PluginHost) -> None:
    """Check that the attachment is as ADD made it. Raises CniError (103)."""
    from cni.pod.add_plan import plan_add  # noqa: PLC0415 - see add
    from cni.pod.check import check_pod  # noqa: PLC0415

    plan = plan_add(request, host)
    with open_container_netns(request) as netns:
        record = AttachmentStore(host).find(plan.key)
        check_pod(plan, netns, record)
    if plan.delegate:
        call_delegate(plan.delegate, "CHECK", request.config.raw, request, host)
    status = host.status()
    if status.problem and status.pods_affected:
        raise CniError(NOT_AVAILABLE, status.problem)


def gc(request: CniRequest, host: PluginHost) -> None:
    """Detach every attachment of the network that is not valid any more. Raises CniError."""
    from cni.pod.collect import collect  # noqa: PLC0415 - only GC needs it

    collect(request, request.valid_attachments(), host)
    delegate = delegated_ipam_type(request)
    if delegate:
        forward(delegate, request, host)
    host.pods_changed()


def status(request: CniRequest, host: PluginHost) -> None:
    """Raise CniError (50, 51) when an ADD could not be served."""
    host.require_healthy()
    store = AttachmentStore(host)
    store.require_usable()
    delegate = delegated_ipam_type(request)
    if delegate:
        forward(delegate, request, host)
    elif uses_own_addresses(request):
        from cni.config.bridge_config import parse_bridge_config  # noqa: PLC0415 - STATUS only
        from cni.other_gateway import require_pool_has_one_gateway  # noqa: PLC0415
        from cni.pod.attach_mode import AttachMode  # noqa: PLC0415

        own = parse_own_ipam_config(request)
        pool = resolve_pool(own, request, host.subnet_file, host.set_aside())
        try:
            store.require_free_address(request.attachment.network, pool)
        except CniError:
            from cni.pod.collect import sweep  # noqa: PLC0415 - rarely needed

            sweep(host, same_mounts=request.call.same_mounts)
            store.require_free_address(request.attachment.network, pool)
        bridge = parse_bridge_config(request)
        if bridge.is_gateway and AttachMode.read(host.run_dir).to_bridge:
            require_pool_has_one_gateway(bridge.bridge, pool)


def _socket_in(netns: int, own: int) -> NetlinkSocket:
    """A netlink socket in another namespace, which this thread enters and leaves for it.

    The usual way, a new thread that enters the namespace, costs 0.15 ms more. Should leaving
    fail, the server sees at this thread's next call that it is in the wrong namespace.
    """
    with entered(netns, own):
        return NetlinkSocket()


def _result_of_repeated(
    plan: AddPlan, store: AttachmentStore, sockets: PodSockets, host: PluginHost
) -> CniResult | None:
    """The result of an ADD that was done and whose answer was lost; None: there is none such."""
    result = unanswered.kept(plan.key, host)
    if result is None:
        return None
    record = store.find(plan.key)
    in_pod = find_link(sockets.pod, plan.key.ifname)
    host_end = find_link(sockets.host, plan.host_name)
    if record is None or not record.ready or in_pod is None or host_end is None:
        return None
    return result if in_pod.parent == host_end.index else None


def _require_free(
    request: CniRequest,
    plan: AddPlan,
    store: AttachmentStore,
    sockets: PodSockets,
    host: PluginHost,
) -> None:
    """Refuse a second ADD (102); remove what a killed ADD, or a container that is gone, left."""
    record = store.find(plan.key)
    unfinished = record is not None and not record.ready
    if not unfinished:
        in_pod = find_index(sockets.pod, plan.key.ifname)
        on_host = find_index(sockets.host, plan.host_name)
        host_end = find_link(sockets.host, on_host) if on_host else None
        elsewhere = host_end is not None and not _is_left(record, host_end, request)
        if in_pod or elsewhere:
            where = "in the container" if in_pod else "in another namespace"
            raise CniError(
                ATTACHMENT_EXISTS,
                f"interface {plan.key.ifname} of container {plan.key.container_id} exists {where} "
                "already: DEL comes before another ADD",
            )
    if record is not None:
        detach(Removal(plan.key, record, sockets.pod_netns, request), store, host)


def _is_left(record: AttachmentRecord | None, host_end: ActualLink, request: CniRequest) -> bool:
    """Whether this host interface is that of a container whose recorded namespace is gone."""
    if record is None:
        return False
    if not request.call.same_mounts:
        raise RunInClientError  # the path of the namespace is the runtime's
    return not is_where_recorded(record, host_end)


@contextlib.contextmanager
def _undone_on_failure(
    request: CniRequest, store: AttachmentStore, host: PluginHost
) -> Iterator[None]:
    key = request.attachment
    try:
        yield
    except BaseException as failure:
        try:
            detach(Removal(key, store.find(key), None, request), store, host)
        except Exception as error:  # noqa: BLE001 - the first failure is the one to report
            failure.add_note(f"and undoing it failed too; DEL will try again: {error}")
        raise
