# SPDX-License-Identifier: Apache-2.0
"""Runs iptables-save and iptables-restore of each family and form, and says which are needed.

One kernel has two places for iptables' rules: nftables tables named `filter` (iptables-nft, the
default of Debian since 10), and the older ip_tables (iptables-legacy). Packets pass both, and each
has programs of its own. A table that is not there drops nothing and is not made: so a host
without iptables stays without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from base.errors import FlatmeshError
from hostnet.iptables.filter_table import FilterTable, parse
from hostnet.iptables.forward_rules import Network
from hostnet.nft import tables as nftables
from hostnet.nft.forward_chains import IPTABLES
from hostnet.run_program import run_program

TIMEOUT = 10.0
"""Seconds until a program is given up."""
LOCK_WAIT = 5
"""Seconds that iptables-legacy waits for its lock, /run/xtables.lock (`--wait`)."""
LEGACY_TABLES = {
    "ip": "/proc/thread-self/net/ip_tables_names",
    "ip6": "/proc/thread-self/net/ip6_tables_names",
}


class IptablesError(FlatmeshError):
    """A program is missing, failed or did not end; `str()` is one line."""


@dataclass(frozen=True, slots=True)
class Iptables:
    """The programs of one family and form. All calls are for the thread's network namespace."""

    family: str
    """`ip` or `ip6`, as nftables names it."""
    legacy: bool

    @property
    def name(self) -> str:
        """As the programs are called: `ip6tables-nft`, for instance."""
        return f"{self.family}tables-{'legacy' if self.legacy else 'nft'}"

    def of_its_family(self, networks: Sequence[Network]) -> list[Network]:
        """Those networks that its rules can name."""
        version = 4 if self.family == "ip" else 6
        return [network for network in networks if network.version == version]

    def read(self) -> FilterTable | None:
        """The table; None when there is none. Raises IptablesError."""
        return parse(self._run(f"{self.name}-save", "-t", "filter"))

    def write(self, lines: list[str]) -> None:
        """Apply lines of iptables-restore(8), all or none. Raises IptablesError."""
        text = "\n".join(["*filter", *lines, "COMMIT", ""])
        wait = ("--wait", str(LOCK_WAIT)) if self.legacy else ()
        self._run(f"{self.name}-restore", "--noflush", *wait, text=text)

    def _run(self, *argv: str, text: str = "") -> str:
        missing = (
            f"{argv[0]} is not installed, and {self.family} filter FORWARD may drop the pods' "
            "packets: install it (Debian: apt install iptables)"
        )
        return run_program(
            argv, IptablesError, what=argv[0], missing=missing, timeout=TIMEOUT, text=text
        )


def present() -> list[Iptables]:
    """Those whose table `filter` is in this namespace. Raises NftError."""
    found = nftables.list_tables()
    return [Iptables(family, legacy=False) for family, _ in sorted(IPTABLES & found)] + legacy()


def legacy() -> list[Iptables]:
    """Those of the older form whose table is there; costs a look at two files of /proc."""
    return [
        Iptables(family, legacy=True)
        for family, path in LEGACY_TABLES.items()
        if "filter" in _lines(Path(path))
    ]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # this kernel has not loaded it
        return []
