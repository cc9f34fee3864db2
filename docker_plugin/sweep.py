# SPDX-License-Identifier: Apache-2.0
"""Frees what dockerd lost: it was killed between two calls, or its state was deleted.

An endpoint whose veth pair is gone can send nothing, and an address without an endpoint is nobody's
own. Both are freed after GRACE: a container's start makes them one after the other. What dockerd
releases afterwards all the same is no error.
"""

from __future__ import annotations

import socket

from base.errors import FlatmeshError
from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentStore
from cni.errors import TRY_AGAIN_LATER, CniError
from cni.host import PluginHost
from cni.pod.naming import DOCKER, host_interface_name
from cni.pod.removal import Removal, detach
from docker_plugin import records

GRACE = 60
"""Seconds."""


def sweep(host: PluginHost, grace: int = GRACE) -> list[str]:
    """Free it; returns a line for each. Raises CniError when the address store can't be read."""
    store = AttachmentStore(host)
    lines = []
    interfaces = {name for _, name in socket.if_nameindex()}
    used: set[str] = set()
    for record in records.records(store, records.ENDPOINT):
        used |= {str(ip).partition("/")[0] for ip in record.metadata.get("ips", ())}
        if host_interface_name(record.key) in interfaces or records.age(record) < grace:
            continue
        what = f"Docker's endpoint {record.key.container_id}"
        try:
            with hold_lock(host, DOCKER, record.key, 0.0):
                detach(Removal(record.key, store.find(record.key)), store, host)
            lines.append(f"removed what was left of {what}")
        except (FlatmeshError, OSError) as error:
            if not (isinstance(error, CniError) and error.code == TRY_AGAIN_LATER):
                lines.append(f"could not remove {what}: {error}")
    # an address whose endpoint was removed just now goes with the next sweep, should dockerd
    # not release it before
    for record in records.records(store, records.ADDRESS):
        if records.age(record) >= grace and not used & set(record.ips):
            store.forget(record.key, DOCKER)
            lines.append(f"freed {' '.join(record.ips)}, which no container of Docker's has")
    if lines:
        host.pods_changed()
    return lines
