# SPDX-License-Identifier: Apache-2.0
"""The sysctls that an ADD needs: forwarding on the host, IPv6 in the pod."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cni.errors import IO_FAILURE, CniError
from cni.result.model import ResultAddress
from hostnet import link_sysctls, sysctl
from hostnet.netns import entered
from hostnet.sysctl import Sysctl

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def enable_forwarding(families: Collection[int]) -> None:
    """Let this host forward packets of these families (4, 6). Raises CniError (5)."""
    _write([Sysctl(FORWARDING[family], "1") for family in sorted(families)], None)


def refuse_routers(host_name: str, ifname: str, netns: int, own: int) -> None:
    """Let neither end of a veth pair take routes from packets. Raises CniError (5).

    `netns` and `own` are descriptors of the pod's and of the calling thread's namespace.
    """
    # written without reading them before, which costs as much; a kernel without IPv6 lacks some
    errors = sysctl.write(link_sysctls.of_port(host_name))
    with entered(netns, own):  # a thread of its own for it would cost 0.15 ms
        errors |= sysctl.write(link_sysctls.of_pod(ifname))
    for setting, error in errors.items():
        if not isinstance(error, FileNotFoundError):
            raise CniError(IO_FAILURE, f"{sysctl.line(setting)}: {error.strerror}")


def enable_ipv6(ifname: str, netns: int, ips: Sequence[ResultAddress]) -> None:
    """Enable IPv6 in the pod if it has an IPv6 address. Raises CniError (5).

    Some runtimes disable it in new namespaces, and then the kernel refuses the address.
    """
    if any(":" in ip.address for ip in ips):
        names = ("lo", ifname)
        _write([Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0") for name in names], netns)


def _write(wanted: list[Sysctl], netns: int | None) -> None:
    missing = set(wanted) - set(sysctl.read(wanted, netns))
    for setting, error in sysctl.write(missing, netns).items():
        raise CniError(IO_FAILURE, f"{sysctl.line(setting)}: {error.strerror}")
