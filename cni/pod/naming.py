# SPDX-License-Identifier: Apache-2.0
"""Interface names and hardware addresses that follow from the attachment.

The host interface's name follows from the attachment, so DEL finds it without any record. A
hardware address follows from the pod's IP address: an address that is given to another pod
later keeps its hardware address, so the entries in other hosts' neighbour caches stay right.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

from cni import cidr
from cni.config.call import AttachmentKey
from cni.result.model import ResultAddress
from hostnet.address_mac import GATEWAY_PREFIX, mac_after
from hostnet.ownership import POD_ALIAS

PLUGIN = "flatmesh"
"""In the metadata of attachments that this plugin made, and in the names of its locks."""
DOCKER = "docker"
"""The same of containers that Docker's network driver attached."""
DOCKER_NETWORK = ".docker"
"""The network in their attachments: no network of CNI's can be called so."""
FOUND = "found"
"""The same of attachments that other plugins made, whose addresses are held all the same."""
POD_PREFIX = GATEWAY_PREFIX
"""The first two bytes of a pod's hardware address; the bridge has the same."""
HOST_PREFIX = "0a:59"
"""The first two bytes of a host interface's hardware address."""
MAX_ALIAS = 255  # bytes: IFALIASZ less the terminating zero, linux/if.h


MAX_POD_NAME = 320
"""Characters: a namespace has 63, a pod's name 253."""


def pod_name(arguments: Mapping[str, str] | None) -> dict[str, str]:
    """The pod's name in Kubernetes, from CNI_ARGS, as a part of the record; else nothing.

    For people only: `flatmesh pods` shows it.
    """
    names = [(arguments or {}).get(f"K8S_POD_{part}", "") for part in ("NAMESPACE", "NAME")]
    text = "/".join(names)[:MAX_POD_NAME]
    return {"pod": text} if all(names) and text.isprintable() else {}


@functools.lru_cache(maxsize=256)
def host_interface_name(key: AttachmentKey) -> str:
    """The name of the veth's end on the host: `veth` and 44 bits of a hash."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()
    return f"veth{digest[:11]}"


def host_interface_alias(key: AttachmentKey) -> str:
    """The alias of the veth's end on the host: our mark, and whose it is."""
    return f"{POD_ALIAS} {' '.join(key)}"[:MAX_ALIAS]


def attachment_of(alias: str, name: str) -> AttachmentKey | None:
    """The attachment that a host interface's alias names, if its name follows from that."""
    mark, *parts = alias.split(" ")
    if mark != POD_ALIAS or len(parts) != 3:
        return None
    key = AttachmentKey(*parts)
    return key if host_interface_name(key) == name else None


def mac_for(ips: Sequence[ResultAddress], prefix: str) -> str:
    """A hardware address that follows from the IPv4 address, or else from the first address.

    It starts with the two bytes `prefix`; without an address the other four are random.
    """
    if not ips:
        packed = os.urandom(4)
    else:
        parsed = [cidr.parse_cidr(ip.address) for ip in ips]
        family, value, _ = next((c for c in parsed if c.family == 4), parsed[0])
        packed = value.to_bytes(4 if family == 4 else 16, "big")
    return mac_after(packed, prefix)
