"""`flatmesh-ipam`: addresses from this host's book, for any main plugin.

Under the reference bridge plugin (or macvlan, ptp, ...) it is what host-local is, with the
lease's subnets where the config names no ranges. It touches no interface, so there is
nothing to undo: an attachment's addresses are written, and are there or not.
"""

from __future__ import annotations

from cni import ipam_config
from cni.errors import CHECK_FAILED, INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni.host import Host
from cni.pod import attachment_lock
from cni.pod.attachments import Attachments
from cni.request import Request
from cni.result import Result

PLUGIN = "flatmesh-ipam"


def add(request: Request, host: Host) -> Result:
    """Give the attachment its addresses. Raises CniError (7, 50, 101)."""
    pool = ipam_config.parse(request, host.subnet_file)
    key = request.key
    request.previous()  # refused when it is broken, though we have no use for it
    with attachment_lock.hold(host, PLUGIN, key):
        book = Attachments(host.at(ipam_config.data_dir(request)))
        note = {"plugin": PLUGIN}
        ips = book.begin(request.netns, key, pool, note)
        book.finish(key, "", note)
    return Result((), ips, pool.routes, pool.dns)


def delete(request: Request, host: Host) -> None:
    """Take them back; that there are none is fine. Raises CniError."""
    key = request.key
    with attachment_lock.hold(host, PLUGIN, key):
        book = Attachments(host.at(ipam_config.data_dir(request)))
        record = book.find(key)
        if record is not None and record.plugin == PLUGIN:
            book.forget(key)


def check(request: Request, host: Host) -> None:
    """Look whether the attachment still has its addresses. Raises CniError (7, 103)."""
    previous = request.previous()
    if previous is None:
        raise CniError(INVALID_CONFIG, "CHECK: required prevResult missing")
    record = Attachments(host.at(ipam_config.data_dir(request))).find(request.key)
    if record is None or not record.ready:
        raise CniError(CHECK_FAILED, f"CHECK: no address recorded for {request.container_id}")
    said = {ip.address.partition("/")[0] for ip in previous.ips}
    missing = [address for address in record.ips if address not in said]
    if missing:
        raise CniError(CHECK_FAILED, f"CHECK: recorded but not in prevResult: {', '.join(missing)}")


def gc(request: Request, host: Host) -> None:
    """Take back what attachments that are not valid hold. Raises CniError."""
    valid = request.valid_attachments()
    book = Attachments(host.at(ipam_config.data_dir(request)))
    for record in book.of(request.network):
        key = record.key
        if record.plugin == PLUGIN and (key.container_id, key.ifname) not in valid:
            with attachment_lock.hold(host, PLUGIN, key):
                book.forget(key)


def status(request: Request, host: Host) -> None:
    """Raise CniError (50, 51) when no address could be given."""
    known = host.status()
    if known.problem:
        raise CniError(NOT_AVAILABLE + known.pods_affected, known.problem)
    pool = ipam_config.parse(request, host.subnet_file)
    Attachments(host.at(ipam_config.data_dir(request))).require_room(request.network, pool)
