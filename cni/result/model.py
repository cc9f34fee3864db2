# SPDX-License-Identifier: Apache-2.0
"""The result of an ADD as values, in the terms of the newest specification (1.1.0).

`cni.result.render` writes it as JSON of any version, `cni.result.read` reads it from any.

Here and in all of `cni`, values are NamedTuples: to define one takes 0.15 ms at import, a
frozen dataclass with slots 1 ms, and a call without a daemon imports twenty of them.
"""

from __future__ import annotations

from typing import NamedTuple


class ResultInterface(NamedTuple):
    """An interface of an attachment: the bridge, the host's end or the container's end."""

    name: str
    mac: str = ""
    """Lower case, as in `0a:58:0a:05:01:02`; empty: not given."""
    sandbox: str = ""
    """CNI_NETNS for the container's end; empty on the host."""
    mtu: int = 0
    """Bytes; 0: not given."""
    socket_path: str = ""
    pci_id: str = ""


class ResultAddress(NamedTuple):
    """An address of an attachment."""

    address: str
    """With its prefix length, as in `10.5.1.2/24`."""
    gateway: str = ""
    """Without a prefix length; empty: none."""
    interface: int | None = None
    """Index into the result's interfaces; None in the result of an IPAM plugin."""


class ResultRoute(NamedTuple):
    """A route inside the container."""

    destination: str
    """With its prefix length."""
    gateway: str = ""
    """Empty: the gateway of the address of the same family."""
    mtu: int = 0
    """Bytes; 0: not given. The same holds for `advmss` and `priority`."""
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None
    """RT_SCOPE_* of linux/rtnetlink.h."""


class Dns(NamedTuple):
    """What the runtime writes into the container's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class CniResult(NamedTuple):
    """The answer to an ADD."""

    interfaces: tuple[ResultInterface, ...] = ()
    ips: tuple[ResultAddress, ...] = ()
    routes: tuple[ResultRoute, ...] = ()
    dns: Dns = Dns()

    def after(self, previous: CniResult) -> CniResult:
        """This result appended to that of an earlier plugin of the chain."""
        shift = len(previous.interfaces)
        moved = tuple(
            ip if ip.interface is None else ip._replace(interface=ip.interface + shift)
            for ip in self.ips
        )
        return CniResult(
            previous.interfaces + self.interfaces,
            previous.ips + moved,
            previous.routes + self.routes,
            self.dns if self.dns != Dns() else previous.dns,
        )
