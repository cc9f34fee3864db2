# SPDX-License-Identifier: Apache-2.0
"""What is recorded of Docker's addresses and endpoints, beside the pods' in the address store.

    .docker TOKEN address       an address, from RequestAddress to ReleaseAddress
    .docker ENDPOINT eth        an endpoint, from CreateEndpoint to DeleteEndpoint

No CNI network can be called `.docker`. The record of an endpoint says what a pod's says, so that
the source guard, the repair of wiring and Open vSwitch's flows treat a container as a pod.
"""

from __future__ import annotations

import time

from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.config.call import AttachmentKey
from cni.pod.naming import DOCKER, DOCKER_NETWORK

ADDRESS, ENDPOINT = "address", "eth"
"""In place of an interface's name; Docker names the container's end itself."""
SINCE = "since"
"""In the metadata: when it was recorded, in seconds since boot."""


def endpoint_key(endpoint: str) -> AttachmentKey:
    """The attachment of an endpoint."""
    return AttachmentKey(DOCKER_NETWORK, endpoint, ENDPOINT)


def is_address(attachment: tuple[str, str, str]) -> bool:
    """Whether a record is of an address alone; its endpoint has a record of its own."""
    return (attachment[0], attachment[2]) == (DOCKER_NETWORK, ADDRESS)


def now() -> int:
    """Seconds since boot, sleep included; the clock may be set."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def age(record: AttachmentRecord) -> int:
    """Seconds since it was recorded; since boot where that is not known."""
    since = record.metadata.get(SINCE)
    return now() - (since if isinstance(since, int) else 0)


def records(store: AttachmentStore, kind: str) -> list[AttachmentRecord]:
    """All addresses, or all endpoints. Raises CniError (5)."""
    found = store.records(DOCKER_NETWORK)
    return [one for one in found if one.key.ifname == kind and one.plugin == DOCKER]


def address_record(store: AttachmentStore, address: str) -> AttachmentRecord | None:
    """The record of an address that Docker holds. Raises CniError (5)."""
    return next((one for one in records(store, ADDRESS) if address in one.ips), None)
