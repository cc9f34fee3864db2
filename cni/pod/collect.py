"""Remove attachments that nobody uses any more: the runtime's GC, and at a daemon's start."""

from __future__ import annotations

from base.errors import FlatmeshError
from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey
from cni.config.request import CniRequest
from cni.errors import IO_FAILURE, CniError
from cni.host import PluginHost
from cni.pod.naming import PLUGIN, attachment_of, host_interface_name
from cni.pod.removal import Removal, detach
from hostnet.find_link import find_link
from hostnet.kinds.link_messages import RTM_GETLINK, dump_links, parse_link
from hostnet.netlink.socket import NetlinkSocket

SWEEP_LOCK_TIMEOUT = 0.0  # seconds: whoever holds the lock during a sweep is alive and at work


def collect(request: CniRequest, valid: frozenset[tuple[str, str]], host: PluginHost) -> None:
    """GC: detach all attachments of the network but the valid ones. Raises CniError.

    They are known by their records, and by the aliases of host interfaces.
    """
    network = request.attachment.network
    errors, store = [], AttachmentStore(host)
    keys = {record.key for record in store.records(network) if record.plugin == PLUGIN}
    keys |= {key for key in _keys_of_host_interfaces() if key.network == network}
    for key in sorted(keys):
        if (key.container_id, key.ifname) in valid:
            continue
        try:
            with hold_lock(host, PLUGIN, key):
                detach(Removal(key, store.find(key), None, request), store, host)
        except (FlatmeshError, OSError) as error:
            errors.append(f"{key.container_id} {key.ifname}: {error}")
    if errors:
        raise CniError(IO_FAILURE, f"GC of {network}: {'; '.join(errors)}")


def sweep(host: PluginHost) -> list[str]:
    """At a daemon's start: remove what killed calls left. Returns a line for each attachment.

    That is an ADD whose record never became ready, a DEL that had deleted the veth pair, and a
    pod whose namespace was deleted without a DEL. A call that is at work in an executable
    holds the attachment's lock, and is left alone. Raises CniError when the address store
    can't be read.
    """
    lines, store = [], AttachmentStore(host)
    for key in [record.key for record in store.records() if record.plugin == PLUGIN]:
        try:
            with hold_lock(host, PLUGIN, key, SWEEP_LOCK_TIMEOUT):
                record = store.find(key)
                if record is None or (record.ready and _has_host_interface(key)):
                    continue
                detach(Removal(key, record), store, host)
                lines.append(f"removed what was left of {' '.join(key)}")
        except (FlatmeshError, OSError) as error:
            lines.append(f"could not remove {' '.join(key)}: {error}; DEL will try again")
    return lines


def _has_host_interface(key: AttachmentKey) -> bool:
    """Whether the veth pair exists; a DEL deletes it first, as does the end of the namespace."""
    with NetlinkSocket() as host:
        return find_link(host, host_interface_name(key)) is not None


def _keys_of_host_interfaces() -> set[AttachmentKey]:
    """The attachments that the aliases of this host's veths name."""
    request = dump_links(kind="veth")
    with NetlinkSocket() as host:
        parts = host.dump(RTM_GETLINK, request.body, "ip link show type veth")
    links = map(parse_link, parts)
    keys = (attachment_of(link.alias, link.name) for link in links)
    return {key for key in keys if key is not None}
