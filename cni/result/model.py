"""The result of an ADD as values, in the terms of the newest specification (1.1.0).

`cni.result.render` writes it as JSON of any version, `cni.result.read` reads it from any.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class ResultInterface:
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


@dataclass(frozen=True, slots=True)
class ResultAddress:
    """An address of an attachment."""

    address: str
    """With its prefix length, as in `10.5.1.2/24`."""
    gateway: str = ""
    """Without a prefix length; empty: none."""
    interface: int | None = None
    """Index into the result's interfaces; None in the result of an IPAM plugin."""


@dataclass(frozen=True, slots=True)
class ResultRoute:
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


@dataclass(frozen=True, slots=True)
class Dns:
    """What the runtime writes into the container's resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CniResult:
    """The answer to an ADD."""

    interfaces: tuple[ResultInterface, ...] = ()
    ips: tuple[ResultAddress, ...] = ()
    routes: tuple[ResultRoute, ...] = ()
    dns: Dns = field(default_factory=Dns)

    def after(self, previous: CniResult) -> CniResult:
        """This result appended to that of an earlier plugin of the chain."""
        shift = len(previous.interfaces)
        moved = tuple(
            ip if ip.interface is None else replace(ip, interface=ip.interface + shift)
            for ip in self.ips
        )
        return CniResult(
            previous.interfaces + self.interfaces,
            previous.ips + moved,
            previous.routes + self.routes,
            self.dns if self.dns != Dns() else previous.dns,
        )
