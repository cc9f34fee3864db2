# SPDX-License-Identifier: Apache-2.0
"""This host's pods as obr0 must know them: from the address store on disk.

The CNI plugins write the store whether or not the daemon runs; so a daemon that was away
learns of every pod at its next reconcile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.paths import ADDRESS_STORE
from hostnet.find_link import find_link
from hostnet.netlink.socket import NetlinkSocket
from ipam.address_store import AddressStore, AddressStoreError, Attachment
from ovs_mesh.devices import KBR0
from ovs_mesh.errors import OvsError
from ovs_mesh.inputs import PodPort


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the address store."""

    attachment: Attachment
    host_link: str
    """The host end of its veth pair."""
    netns: str
    mac: str
    addresses: tuple[str, ...]
    """Without prefix length."""
    checked: bool = True
    """Whether it may send from its own addresses only."""
    bridge: str = ""
    """The Linux bridge that it is a port of; empty: none, or not recorded."""

    def port(self, ofport: int | None) -> PodPort:
        """The pod at a port of obr0; None: it is a port of kbr0."""
        on_kbr0 = ofport is None and self.bridge == KBR0
        return PodPort(self.mac, self.addresses, ofport, self.checked, on_kbr0)


def pods_of_host(state_dir: Path) -> list[Pod]:
    """All pods that are ready, by the names of their veth pairs. Raises OvsError."""
    path = state_dir / ADDRESS_STORE
    if not path.exists():
        return []
    try:
        store = AddressStore(path, durable=False)
        try:
            records = store.list()
        finally:
            store.close()
    except AddressStoreError as error:
        raise OvsError(str(error)) from None
    pods = []
    for record in records:
        metadata: Mapping[str, object] = record.metadata
        mac, ips = metadata.get("mac"), metadata.get("ips")
        if record.state != "ready" or not isinstance(mac, str) or not isinstance(ips, list):
            continue
        addresses = tuple(str(ip).partition("/")[0] for ip in ips)
        said = metadata.get("sourceGuard")  # records of earlier versions have none
        checked = not (isinstance(said, dict) and said.get("check") is False)
        bridge = str(said.get("bridge") or "") if isinstance(said, dict) else ""
        where = (record.attachment, record.host_ifname, record.netns)
        pods.append(Pod(*where, mac, addresses, checked, bridge))
    return sorted(pods, key=lambda pod: pod.host_link)


def veths_of(pods: Sequence[Pod]) -> dict[str, int]:
    """The host ends of the pods' veth pairs that are there: interface index by name.

    Raises NetlinkError.
    """
    with NetlinkSocket() as sock:
        links = {pod.host_link: find_link(sock, pod.host_link) for pod in pods}
    return {name: link.index for name, link in links.items() if link is not None}
