# SPDX-License-Identifier: Apache-2.0
"""Finds one end of a pod's veth pair from the other, and so the attachment that it belongs to.

A container's namespace is known by the path in the record of its ADD. The path may be gone since,
or belong to another namespace: a runtime that restarts makes them anew. So the path alone says
nothing; the interface in it has to be the other end of the host's.
"""

from __future__ import annotations

import os

from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.call import AttachmentKey
from cni.pod.naming import PLUGIN, attachment_of, host_interface_name
from hostnet.find_link import find_index, find_link
from hostnet.kinds.actual_link import ActualLink
from hostnet.netlink.socket import NetlinkSocket
from hostnet.netns import is_namespace


def has_host_interface(key: AttachmentKey) -> bool:
    """Whether the veth pair exists; a DEL deletes it first, as does the end of the namespace."""
    with NetlinkSocket() as host:
        return bool(find_index(host, host_interface_name(key)))


def is_where_recorded(record: AttachmentRecord, host_end: ActualLink) -> bool:
    """Whether the recorded namespace is there, and holds the other end. Raises NetlinkError."""
    try:
        fd = os.open(record.netns, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not is_namespace(fd):
            return False
        with NetlinkSocket(fd) as pod:
            pod_end = find_link(pod, record.key.ifname)
    finally:
        os.close(fd)
    return pod_end is not None and pod_end.parent == host_end.index


def attachment_in(netns: int, ifname: str) -> AttachmentKey | None:
    """The attachment whose pod's end is the interface of this name in a namespace.

    It is read from the alias of the host's end. Raises NetlinkError.
    """
    with NetlinkSocket(netns) as pod:
        pod_end = find_link(pod, ifname)
    if pod_end is None or pod_end.kind != "veth" or not pod_end.parent:
        return None
    with NetlinkSocket() as host:
        host_end = find_link(host, pod_end.parent)
    if host_end is None or host_end.parent != pod_end.index:
        return None
    return attachment_of(host_end.alias, host_end.name)


def under_former_name(
    key: AttachmentKey, netns: int | None, store: AttachmentStore | None
) -> AttachmentKey | None:
    """The attachment that a DEL means whose network was renamed since the ADD.

    It is the interface of that name in the container's namespace; or, where that is gone, what is
    recorded of this container and interface and is in no namespace any more. Another network's
    pod that lives is never meant. `store` is None where it can't be read.

    Raises NetlinkError, CniError (5).
    """
    if netns is not None:
        found = attachment_in(netns, key.ifname)
        if found is not None:
            same = (found.container_id, found.ifname) == (key.container_id, key.ifname)
            return found if same else None
    for record in store.records_of_interface(key) if store is not None else ():
        if record.plugin != PLUGIN or record.key.network == key.network:
            continue
        with NetlinkSocket() as host:
            host_end = find_link(host, host_interface_name(record.key))
        if host_end is None or not is_where_recorded(record, host_end):
            return record.key
    return None
