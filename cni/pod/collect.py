# SPDX-License-Identifier: Apache-2.0
"""Remove attachments that nobody uses any more: the runtime's GC, and the sweep.

The sweep is done when a daemon starts and every half a minute, and by an ADD that finds no free
address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from pathlib import Path

from base.errors import FlatmeshError
from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.call import AttachmentKey
from cni.config.ipam_config import OWN_IPAM as IPAM_PLUGIN
from cni.config.request import CniRequest
from cni.errors import IO_FAILURE, TRY_AGAIN_LATER, CniError
from cni.host import PluginHost
from cni.pod.naming import FOUND, PLUGIN, attachment_of, host_interface_name
from cni.pod.peer import has_host_interface
from cni.pod.removal import Removal, detach, with_record
from hostnet.kinds.link import read_links
from hostnet.netlink.socket import NetlinkSocket

SWEEP_LOCK_TIMEOUT = 0.0  # seconds: whoever holds the lock during a sweep is alive and at work
NETNS_FILES = ("/run/netns/", "/var/run/netns/")
VETH = re.compile(r"veth")
"""What plugins call the host's end: ours, and the reference bridge plugin's."""


def collect(request: CniRequest, valid: frozenset[tuple[str, str]], host: PluginHost) -> None:
    """GC: detach all attachments of the network but the valid ones. Raises CniError.

    They are known by their records, and by the aliases of host interfaces.
    """
    network = request.attachment.network
    errors, store = [], AttachmentStore(host)
    keys = {key for key in _keys_of_host_interfaces() if key.network == network}
    try:
        keys |= {record.key for record in store.records(network) if record.plugin == PLUGIN}
    except CniError as error:
        errors.append(str(error))
    for key in sorted(keys):
        if (key.container_id, key.ifname) in valid:
            continue
        try:
            with hold_lock(host, PLUGIN, key):
                detach(with_record(Removal(key, None, None, request), store, host), store, host)
        except (FlatmeshError, OSError) as error:
            errors.append(f"{key.container_id} {key.ifname}: {error}")
    if errors:
        raise CniError(IO_FAILURE, f"GC of {network}: {'; '.join(errors)}")


def sweep(host: PluginHost, *, same_mounts: bool = False, compare: bool = False) -> list[str]:
    """Remove what killed calls left, and what pods hold that vanished without a DEL.

    That is an ADD whose record never became ready, a DEL that had deleted the veth pair, and a
    pod whose namespace was deleted. A call that is at work in an executable holds the
    attachment's lock, and is left alone. With `same_mounts` our mount namespace is the runtime's,
    and containers whose namespace has no file any more give back what `flatmesh-ipam` gave them;
    with `compare` pods that are not recorded are recorded.

    Returns a line for each attachment. Raises CniError when the address store can't be read.
    """
    store = AttachmentStore(host)
    store.make_up_for_deletions()
    interfaces = {name for _, name in socket.if_nameindex()}
    lines, names = [], set()
    for record in store.records():
        names.add(record.host_ifname)
        try:
            if _sweep_one(record, interfaces, store, host, same_mounts=same_mounts):
                lines.append(f"removed what was left of {_named(record.key)}")
        except (FlatmeshError, OSError) as error:
            if not (isinstance(error, CniError) and error.code == TRY_AGAIN_LATER):
                lines.append(f"could not remove {_named(record.key)}: {error}; DEL will try again")
    if compare and host.find_living is not None and any(VETH.match(n) for n in interfaces - names):
        lines += [f"recorded {_named(key)}" for key in store.record_missing(host.find_living)]
    if lines:
        host.pods_changed()
    return lines


def _sweep_one(
    record: AttachmentRecord,
    interfaces: Collection[str],
    store: AttachmentStore,
    host: PluginHost,
    *,
    same_mounts: bool,
) -> bool:
    """Remove one attachment if it is left over; whether it was."""
    key = record.key
    if record.plugin == FOUND:
        left = record.host_ifname not in interfaces
        if left:
            store.forget(key, FOUND)
        return left
    if record.plugin == IPAM_PLUGIN:
        named = record.netns.startswith(NETNS_FILES)
        if not (same_mounts and named and not Path(record.netns).exists()):
            return False
        with hold_lock(host, IPAM_PLUGIN, key, SWEEP_LOCK_TIMEOUT):
            store.forget(key, IPAM_PLUGIN)
        return True
    if record.plugin != PLUGIN or (record.ready and host_interface_name(key) in interfaces):
        return False
    with hold_lock(host, PLUGIN, key, SWEEP_LOCK_TIMEOUT):
        now = store.find(key)
        if now is None or (now.ready and has_host_interface(key)):
            return False
        detach(Removal(key, now), store, host)
    return True


def _named(key: AttachmentKey) -> str:
    return " ".join(part for part in key if part)


def _keys_of_host_interfaces() -> set[AttachmentKey]:
    """The attachments that the aliases of this host's veths name."""
    with NetlinkSocket() as host:
        links = read_links(host, kind="veth")
    keys = (attachment_of(link.alias, link.name) for link in links)
    return {key for key in keys if key is not None}
