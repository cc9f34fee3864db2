# SPDX-License-Identifier: Apache-2.0
"""`flatmesh-ipam`: addresses from this host's store, for the main plugin of any network.

Below the reference bridge plugin (or macvlan, ptp, ...) it does what host-local does; where
the config names no ranges, the addresses are those of the lease. It touches no interface, so
a failed ADD has nothing to undo: the addresses are written in one transaction or not at all.
"""

from __future__ import annotations

from pathlib import Path

from cni.address_pool import AddressPool, resolve_pool
from cni.attachment.lock import hold_lock, hold_lock_if_possible
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.ipam_config import parse_data_dir, parse_own_ipam_config
from cni.config.request import CniRequest
from cni.errors import CHECK_FAILED, INVALID_CONFIG, NO_ADDRESS, CniError
from cni.host import PluginHost
from cni.result.model import CniResult

PLUGIN = "flatmesh-ipam"


def add(request: CniRequest, host: PluginHost) -> CniResult:
    """Give the attachment its addresses. Raises CniError (7, 50, 101)."""
    pool = _pool(request, host)
    key = request.attachment
    request.previous()  # a malformed prevResult is refused, though it isn't used here
    with hold_lock(host, PLUGIN, key):
        store = _store(request, host)
        metadata = {"plugin": PLUGIN}
        try:
            ips = store.begin(request.netns, key, pool, metadata).ips
        except CniError as error:
            if error.code != NO_ADDRESS or not _sweep(request, host):
                raise
            ips = store.begin(request.netns, key, pool, metadata).ips
        store.finish(key, "", metadata)
    return CniResult((), ips, pool.routes, pool.dns)


def delete(request: CniRequest, host: PluginHost) -> None:
    """Free the attachment's addresses, if it has any. Raises CniError."""
    key = request.attachment
    with hold_lock_if_possible(host, PLUGIN, key):
        store = _store_if_named(request, host)
        try:
            record = store.find(key) or _under_former_name(request, store)
        except CniError:
            store.forget(key, PLUGIN)  # if it can't be read, it can't be written: later
            return
        if record is not None and record.plugin == PLUGIN:
            store.forget(record.key, PLUGIN)


def check(request: CniRequest, host: PluginHost) -> None:
    """Check that the attachment still has its addresses. Raises CniError (7, 103)."""
    previous = request.required_previous()
    record = _store(request, host).find(request.attachment)
    if record is None or not record.ready:
        container = request.attachment.container_id
        raise CniError(CHECK_FAILED, f"CHECK: no address recorded for {container}")
    listed = {ip.address.partition("/")[0] for ip in previous.ips}
    missing = [address for address in record.ips if address not in listed]
    if missing:
        raise CniError(CHECK_FAILED, f"CHECK: recorded but not in prevResult: {', '.join(missing)}")


def gc(request: CniRequest, host: PluginHost) -> None:
    """Free the addresses of attachments that are not valid any more. Raises CniError."""
    valid = request.valid_attachments()
    store = _store(request, host)
    for record in store.records(request.attachment.network):
        key = record.key
        if record.plugin == PLUGIN and (key.container_id, key.ifname) not in valid:
            with hold_lock(host, PLUGIN, key):
                store.forget(key, PLUGIN)


def status(request: CniRequest, host: PluginHost) -> None:
    """Raise CniError (50, 51) when no address could be given."""
    host.require_healthy()
    pool = _pool(request, host)
    store = _store(request, host)
    store.require_usable()
    try:
        store.require_free_address(request.attachment.network, pool)
    except CniError:
        _sweep(request, host)
        store.require_free_address(request.attachment.network, pool)


def _pool(request: CniRequest, host: PluginHost) -> AddressPool:
    own = parse_own_ipam_config(request)
    return resolve_pool(own, request, host.subnet_file, host.set_aside())


def _sweep(request: CniRequest, host: PluginHost) -> list[str]:
    """Free what pods hold that vanished; a line for each."""
    from cni.pod.collect import sweep  # noqa: PLC0415 - rarely needed

    other = host.with_state_dir(parse_data_dir(request))
    return sweep(other, same_mounts=request.call.same_mounts)


def _under_former_name(request: CniRequest, store: AttachmentStore) -> AttachmentRecord | None:
    """The record of this interface from before its network was renamed."""
    for record in store.records_of_interface(request.attachment):
        same = record.netns == request.netns
        gone = request.call.same_mounts and not Path(record.netns).exists()
        if record.plugin == PLUGIN and (same or gone):
            return record
    return None


def _store_if_named(request: CniRequest, host: PluginHost) -> AttachmentStore:
    """The store of a DEL; the host's own where the config names none that could be."""
    try:
        return _store(request, host)
    except CniError as error:
        if error.code != INVALID_CONFIG:
            raise
        return AttachmentStore(host)


def _store(request: CniRequest, host: PluginHost) -> AttachmentStore:
    return AttachmentStore(host.with_state_dir(parse_data_dir(request)))
