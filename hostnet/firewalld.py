# SPDX-License-Identifier: Apache-2.0
"""firewalld: the pods' networks are sources of its zone `trusted`.

firewalld rejects what is forwarded and comes from no trusted zone, in an nftables table that it
writes anew at each reload; rules of others in that table are lost then. So it is asked itself, by
firewall-cmd(1), to change what is in force now, not what is stored: the daemon repeats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from base.errors import FlatmeshError
from hostnet.run_program import run_program

TABLE = ("inet", "firewalld")
"""Its nftables table: there while it runs."""
COMMAND = "firewall-cmd"
TIMEOUT = 10.0
"""Seconds until firewall-cmd is given up; it waits for firewalld on D-Bus."""

Network = IPv4Network | IPv6Network


class FirewalldError(FlatmeshError):
    """firewall-cmd is missing, failed or did not end; `str()` is one line with the mend."""


def missing(networks: Sequence[Network]) -> list[Network]:
    """Those that are no sources of the zone now. Raises FirewalldError."""
    listed = _call("--zone=trusted", "--list-sources").split()
    return [network for network in networks if str(network) not in listed]


def trust(network: Network) -> None:
    """Make it a source of the zone until firewalld's next reload. Raises FirewalldError."""
    _call("--zone=trusted", f"--add-source={network}")


def distrust(networks: Sequence[Network]) -> None:
    """Undo `trust`, but for what the administrator has stored. Raises FirewalldError."""
    stored = _call("--permanent", "--zone=trusted", "--list-sources").split()
    absent = missing(networks)
    for network in networks:
        if network not in absent and str(network) not in stored:
            _call("--zone=trusted", f"--remove-source={network}")


def line(network: Network) -> str:
    """The command of `trust`."""
    return f"{COMMAND} --zone=trusted --add-source={network}"


def _call(*arguments: str) -> str:
    argv = [COMMAND, *arguments]
    missing = f"firewalld runs, but {COMMAND} is not on the PATH: install firewalld"
    return run_program(argv, FirewalldError, what=" ".join(argv), missing=missing, timeout=TIMEOUT)
