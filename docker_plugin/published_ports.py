# SPDX-License-Identifier: Apache-2.0
"""The ports that containers publish, as one nftables table, made from what is recorded of them.

The record of an endpoint has its bindings (`PORTS`). The table is made anew as a whole, in one
transaction: containers with published ports are few, and come and go rarely. What another program
changed in it is put right when the table is looked at again, every few seconds.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
from collections.abc import Iterable
from ipaddress import ip_interface

from cni.address_pool import read_subnet_env
from cni.attachment.store import AttachmentRecord, AttachmentStore
from cni.host import PluginHost
from docker_plugin import records
from docker_plugin.port_bindings import (
    TABLE,
    PortBinding,
    from_stored,
    read_bindings,
    table_body,
)
from docker_plugin.request import Call, DockerCallError
from hostnet.nft import tables
from hostnet.port_owner import port_owner

PORTS = "ports"
"""In an endpoint's metadata: its bindings."""
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class PublishedPorts:
    """Of one host. Any thread may use it."""

    def __init__(self, host: PluginHost) -> None:
        """`host` has the records."""
        self._host = host
        self._lock = threading.Lock()

    def publish(self, endpoint: str, asked: list[Call]) -> None:
        """Publish what a container asks for. Raises DockerCallError, CniError, NftError."""
        key = records.endpoint_key(endpoint)
        with self._lock:
            store = AttachmentStore(self._host)
            record = store.find(key)
            if record is None:
                raise DockerCallError(f"endpoint {endpoint} is not recorded")
            others = [r for r in records.records(store, records.ENDPOINT) if r.key != key]
            ips = [ip_interface(str(one)).ip for one in record.metadata.get("ips", ())]
            bindings = read_bindings(asked, ips, _bindings_of(others))
            for one in bindings:
                _require_free(one)
            store.set_metadata(key, {**record.metadata, PORTS: [b.stored() for b in bindings]})
            self._make(store)

    def withdraw(self, endpoint: str) -> None:
        """Publish nothing more of a container. Raises CniError, NftError."""
        key = records.endpoint_key(endpoint)
        with self._lock:
            store = AttachmentStore(self._host)
            record = store.find(key)
            if record is not None and record.metadata.get(PORTS):
                store.set_metadata(key, {k: v for k, v in record.metadata.items() if k != PORTS})
            self._make(store)

    def restore(self) -> list[str]:
        """Make the table what the records say; a line if something was changed.

        Raises CniError, NftError.
        """
        with self._lock:
            return self._make(AttachmentStore(self._host))

    def _make(self, store: AttachmentStore) -> list[str]:
        bindings = list(_bindings_of(records.records(store, records.ENDPOINT)))
        there = tables.list_table("inet", TABLE)
        if not bindings:
            if there is None:
                return []
            tables.delete_table("inet", TABLE)
            return [f"nft delete table inet {TABLE}"]
        env = read_subnet_env(self._host.subnet_file)
        own = [one.network for one in (env.subnet, env.ipv6_subnet) if one is not None]
        body = table_body(bindings, {one.version: str(one) for one in own})
        if there is not None and _words(there) == _words(tables.normal_form("inet", TABLE, body)):
            return []
        tables.replace_table("inet", TABLE, body)
        return [f"nft replace table inet {TABLE}"]


def _words(table: str) -> list[str]:
    """To compare two listings: nft prints the elements of a map in the kernel's order."""
    return sorted(re.split(r"[\s,]+", table))


def remove_table() -> None:
    """Remove the table, whoever publishes something. Raises NftError."""
    tables.delete_table("inet", TABLE)


def _bindings_of(found: Iterable[AttachmentRecord]) -> Iterable[PortBinding]:
    for record in found:
        stored = record.metadata.get(PORTS)
        for value in stored if isinstance(stored, list) else ():
            binding = from_stored(value)
            if binding is not None:
                yield binding


def _require_free(binding: PortBinding) -> None:
    """Raise DockerCallError when a program of the host has the port.

    It would be reached no more: packets are translated before they come to its socket.
    """
    kind = _KINDS.get(binding.protocol)
    if kind is None:
        return
    v6 = binding.container.version == 6
    family = socket.AF_INET6 if v6 else socket.AF_INET
    address = str(binding.host_ip) if binding.host_ip is not None else "::" if v6 else "0.0.0.0"
    with contextlib.closing(socket.socket(family, kind)) as probe:
        if v6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # connections that ended lately are in nobody's way
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, binding.host_port))
        except OSError as error:
            owner = port_owner(binding.protocol, binding.host_port)
            why = f"in use by {owner}" if error.errno == errno.EADDRINUSE else str(error.strerror)
            raise DockerCallError(f"--publish: port {binding.text} is {why}") from None
