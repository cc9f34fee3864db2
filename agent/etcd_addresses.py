# SPDX-License-Identifier: Apache-2.0
"""The addresses of etcd's members, which pods may not reach.

Names are looked up by the system's resolver in a thread of their own, as that takes as long as the
name servers like. What was found last counts until there is another answer.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

log = logging.getLogger("agent.etcd_addresses")
ANSWER_TIMEOUT = 2.0
"""Seconds that `addresses` waits for name servers."""
IPAddress = IPv4Address | IPv6Address


class EtcdAddresses:
    """Addresses and ports of a list of endpoints. Any thread may call, one at a time."""

    def __init__(self, endpoints: Iterable[str]) -> None:
        """`endpoints` are `http(s)://HOST:PORT` each."""
        parts = [urlsplit(url) for url in endpoints]
        self.ports = frozenset(part.port for part in parts if part.port)
        self._fixed: set[IPAddress] = set()
        self._found: dict[str, frozenset[IPAddress]] = {}
        """By name."""
        self._threads: dict[str, threading.Thread] = {}
        for host in {part.hostname for part in parts if part.hostname}:
            try:
                self._fixed.add(ip_address(host))
            except ValueError:
                self._found[host] = frozenset()

    def addresses(self, *, again: bool) -> frozenset[IPAddress]:
        """What is known; with `again` names are looked up before, for two seconds at most."""
        if again:
            for name in self._found:
                if name not in self._threads or not self._threads[name].is_alive():
                    thread = threading.Thread(target=self._look_up, args=[name], daemon=True)
                    self._threads[name] = thread
                    thread.start()
            for thread in self._threads.values():
                thread.join(ANSWER_TIMEOUT / len(self._threads))
        return frozenset(self._fixed).union(*self._found.values())

    def _look_up(self, name: str) -> None:
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            log.debug("etcd member %s: %s", name[:200], error)
            return
        found = {ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers}
        self._found[name] = frozenset(found)
